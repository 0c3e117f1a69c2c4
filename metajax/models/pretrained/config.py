"""What a transformer looks like: read from, and written to, a config.json."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

__all__ = ['ACTIVATIONS', 'FAMILIES', 'TransformerConfig', 'read_config']

FAMILIES = ('bert', 'gpt2', 'llama')


# Nothing of a transformer is as wide as what an activation is given, and steps
# of an activation are cheap: on the way back they are taken again, from that
# input alone. (Of an exact GELU a compiler keeps five arrays a layer else; see
# docs/design.md.)
_gelu_of_tanh = jax.checkpoint(partial(jax.nn.gelu, approximate=True))

# By the names that configurations give them.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
  'gelu_new': _gelu_of_tanh,
  'gelu_pytorch_tanh': _gelu_of_tanh,
  'relu': jax.nn.relu,
  'silu': jax.checkpoint(jax.nn.silu),
}

# Our fields, and what a config.json of the family calls them.
_BERT = {
  'vocabulary': 'vocab_size',
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'feed_forward_width': 'intermediate_size',
  'max_length': 'max_position_embeddings',
  'types': 'type_vocab_size',
  'activation': 'hidden_act',
  'epsilon': 'layer_norm_eps',
}
_GPT2 = {
  'vocabulary': 'vocab_size',
  'width': 'n_embd',
  'depth': 'n_layer',
  'heads': 'n_head',
  'feed_forward_width': 'n_inner',
  'max_length': 'n_positions',
  'activation': 'activation_function',
  'epsilon': 'layer_norm_epsilon',
}
_LLAMA = {
  **{key: name for key, name in _BERT.items() if key != 'types'},
  'epsilon': 'rms_norm_eps',
  'heads_of_keys': 'num_key_value_heads',
  'head_width': 'head_dim',
  'attention_bias': 'attention_bias',
  'feed_forward_bias': 'mlp_bias',
}
_NAMES = {'bert': _BERT, 'gpt2': _GPT2, 'llama': _LLAMA}
# What a family takes for granted where its config.json is silent.
_DEFAULTS: dict[str, dict[str, Any]] = {
  'bert': {'types': 2, 'activation': 'gelu', 'epsilon': 1e-12},
  'gpt2': {
    'feed_forward_width': None,
    'activation': 'gelu_new',
    'epsilon': 1e-5,
  },
  'llama': {
    'activation': 'silu',
    'epsilon': 1e-6,
    'heads_of_keys': None,
    'head_width': None,
    'attention_bias': False,
    'feed_forward_bias': False,
  },
}
# Where a configuration says anything else, something else is computed.
_ONLY: dict[str, dict[str, Any]] = {
  'bert': {
    'position_embedding_type': 'absolute',
    'is_decoder': False,
    'add_cross_attention': False,
  },
  'gpt2': {
    'scale_attn_weights': True,
    'scale_attn_by_inverse_layer_idx': False,
    'add_cross_attention': False,
  },
  'llama': {'sliding_window': None, 'partial_rotary_factor': 1.0},
}
_ROTARY_SCALING = (
  'factor',
  'low_freq_factor',
  'high_freq_factor',
  'original_max_position_embeddings',
)
_COUNTS = (
  'vocabulary',
  'width',
  'depth',
  'heads',
  'heads_of_keys',
  'head_width',
  'feed_forward_width',
  'max_length',
)
_LARGEST = 2**31 - 1  # of what is counted: token ids are int32


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The form of a transformer: a family, and its sizes.

  Args:
    family: `'bert'` (normalises after each layer, absolute positions, token
      types), `'gpt2'` (before each layer, absolute positions, causal) or
      `'llama'` (before each layer by root mean square, rotary positions,
      grouped queries, gated feed-forward, causal).
    vocabulary: number of tokens.
    width: of the residual stream.
    depth: number of blocks.
    heads: of the queries.
    feed_forward_width: between the layers of a feed-forward network.
    max_length: the longest sequence, of tokens and soft prompt.
    heads_of_keys: of keys and values, a divisor of `heads`; None: as many.
    head_width: of a head; None: `width / heads`.
    activation: of the feed-forward networks, one of `ACTIVATIONS`.
    epsilon: added to variances.
    types: number of token types (BERT); all tokens are of the first.
    tied: whether output embeddings are those of the tokens.
    attention_bias: whether the linear layers of the attention have a bias.
    feed_forward_bias: whether those of the feed-forward networks have one.
    rotary_base: of the wavelengths of rotary positions.
    rotary_scaling: of those in Llama 3: factor, factors of low and of high
      frequencies, and the length before.

  Raises:
    ValueError: if a field is none of the above, or they contradict each other.

  Example:
    >>> TransformerConfig('gpt2', 100, 32, 2, 4, 128, 64).head_width
    8
  """

  family: str
  vocabulary: int
  width: int
  depth: int
  heads: int
  feed_forward_width: int
  max_length: int
  heads_of_keys: int | None = None
  head_width: int | None = None
  activation: str = 'gelu'
  epsilon: float = 1e-5
  types: int = 0
  tied: bool = True
  attention_bias: bool = True
  feed_forward_bias: bool = True
  rotary_base: float = 1e4
  rotary_scaling: tuple[float, float, float, float] | None = None

  def __post_init__(self) -> None:
    if self.family not in FAMILIES:
      raise ValueError(
        f'family must be one of {", ".join(FAMILIES)}, got {self.family!r}'
      )
    if self.heads_of_keys is None:
      object.__setattr__(self, 'heads_of_keys', self.heads)
    for name in _COUNTS:
      if name == 'head_width' and self.head_width is None:
        if self.width % self.heads:
          raise ValueError(
            f'{self.heads} heads do not divide a width of {self.width}'
          )
        object.__setattr__(self, 'head_width', self.width // self.heads)
      _check_count(name, getattr(self, name), 1)
    _check_count('types', self.types, 0)
    assert self.heads_of_keys is not None
    assert self.head_width is not None
    if self.heads % self.heads_of_keys:
      raise ValueError(
        f'{self.heads_of_keys} heads of keys do not divide {self.heads} heads'
      )
    known = isinstance(self.activation, str) and self.activation in ACTIVATIONS
    if not known:
      raise ValueError(
        f'activation must be one of {", ".join(ACTIVATIONS)}, got'
        f' {self.activation!r}'
      )
    for name in ('tied', 'attention_bias', 'feed_forward_bias'):
      if not isinstance(getattr(self, name), bool):
        raise ValueError(
          f'{name} must be true or false, got {getattr(self, name)!r}'
        )
    for name in ('epsilon', 'rotary_base'):
      _check_positive(name, getattr(self, name))
    for factor in self.rotary_scaling or ():
      _check_positive('rotary_scaling', factor)
    self._check_family()

  def _check_family(self) -> None:
    assert self.head_width is not None
    if self.types and self.family != 'bert':
      raise ValueError(f'{self.family} has no token types, got {self.types}')
    if self.family == 'llama':
      if self.head_width % 2:
        raise ValueError(
          'rotary positions turn pairs of numbers: a head must have an even'
          f' width, got {self.head_width}'
        )
      scaling = self.rotary_scaling
      if scaling is not None and (
        len(scaling) != 4 or scaling[1] >= scaling[2]
      ):
        raise ValueError(
          'rotary_scaling is a factor, factors of low and of high frequencies,'
          f' the former below the latter, and a length; got {scaling}'
        )
      return
    if (self.heads_of_keys, self.head_width * self.heads) != (
      self.heads,
      self.width,
    ):
      raise ValueError(
        f'{self.family} has as many heads of keys as of queries, and heads that'
        f' divide the width; got {self.heads_of_keys} and {self.heads} of'
        f' {self.head_width} in {self.width}'
      )

  @property
  def causal(self) -> bool:
    """Whether a position sees only itself and those before."""
    return self.family != 'bert'

  def to_json(self) -> str:
    """The text of a config.json, which other libraries read too."""
    names = _NAMES[self.family]
    fields: dict[str, Any] = {
      name: getattr(self, field) for field, name in names.items()
    }
    if self.family == 'llama':
      rotary = {'rope_theta': self.rotary_base, 'rope_type': 'default'}
      if self.rotary_scaling is not None:
        rotary.update(zip(_ROTARY_SCALING, self.rotary_scaling, strict=True))
        rotary['rope_type'] = 'llama3'
        rotary[_ROTARY_SCALING[3]] = int(self.rotary_scaling[3])
      # Each library reads one of the forms: before transformers 5 it was the
      # two at the top.
      fields['rope_parameters'] = rotary
      fields['rope_theta'] = self.rotary_base
      fields['rope_scaling'] = None
      if self.rotary_scaling is not None:
        fields['rope_scaling'] = {
          name: rotary[name] for name in ('rope_type', *_ROTARY_SCALING)
        }
    return json.dumps(
      {
        'model_type': self.family,
        'tie_word_embeddings': self.tied,
        **fields,
      },
      indent=2,
    )


def read_config(path: str | Path) -> TransformerConfig:
  """Reads a config.json, of BERT, GPT-2 or Llama.

  Args:
    path: of the file, or of the directory that it is in.

  Returns:
    The configuration.

  Raises:
    ValueError: in one line, if there is no such file, if it is no JSON, of
      another model, or describes what is not computed here.
  """
  path = Path(path)
  if path.is_dir():
    path = path / 'config.json'
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    reason = str(error).partition('\n')[0]
    raise ValueError(
      f'{path} cannot be read as a configuration: {reason}'
    ) from error
  if not isinstance(fields, dict):
    raise ValueError(f'{path} is no configuration: it holds no JSON object')
  try:
    return _from_fields(fields)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _from_fields(fields: Mapping[str, Any]) -> TransformerConfig:
  """From what a config.json holds; other libraries gave the names."""
  family = fields.get('model_type')
  if family not in FAMILIES:
    raise ValueError(
      f'model_type must be one of {", ".join(FAMILIES)}, got {family!r}'
    )
  if fields.get('quantization_config') is not None:
    raise ValueError(
      'its weights are quantised; take those in float32, float16 or bfloat16'
    )
  for name, only in _ONLY[family].items():
    if fields.get(name, only) not in (only, None):
      raise ValueError(
        f'{name} must be {json.dumps(only)}, got {json.dumps(fields[name])}'
      )
  values = dict(_DEFAULTS[family])
  for field, name in _NAMES[family].items():
    if name in fields:
      values[field] = fields[name]
    elif field not in values:
      raise ValueError(f'{name} is missing')
  if values['feed_forward_width'] is None and family == 'gpt2':
    _check_count('n_embd', values['width'], 1)
    values['feed_forward_width'] = 4 * values['width']
  values['tied'] = fields.get('tie_word_embeddings', family != 'llama')
  if family == 'llama':
    values.update(_rotary(fields))
  try:
    return TransformerConfig(family, **values)
  except ValueError as error:
    raise ValueError(_in_words_of_file(str(error), family)) from error


def _in_words_of_file(text: str, family: str) -> str:
  """An error that begins with a field, by the name that the file has for it."""
  field, space, rest = text.partition(' ')
  names = {**_NAMES[family], 'tied': 'tie_word_embeddings'}
  if family == 'llama':
    names['rotary_base'] = 'rope_theta'
  return names.get(field, field) + space + rest


def _rotary(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Rotary positions, in the form of old configurations or of new ones."""
  forms = {
    name: _read_rotary(name, fields[name], fields)
    for name in ('rope_parameters', 'rope_scaling')
    if fields.get(name) not in (None, {})
  }
  found = list(forms.values()) or [_read_rotary('rope_parameters', {}, fields)]
  if any(each != found[0] for each in found):
    raise ValueError(
      f'rope_parameters and rope_scaling differ: {fields["rope_parameters"]}'
      f' and {fields["rope_scaling"]}; leave one of them out'
    )
  return found[0]


def _read_rotary(
  name: str, given: Any, fields: Mapping[str, Any]
) -> dict[str, Any]:
  if not isinstance(given, dict):
    raise ValueError(f'{name} must be an object, got {given!r}')
  base = given.get('rope_theta', fields.get('rope_theta', 1e4))
  kind = given.get('rope_type', given.get('type', 'default'))
  if kind not in ('default', 'llama3'):
    raise ValueError(f"rope_type must be 'default' or 'llama3', got {kind!r}")
  if given.get('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError('partial_rotary_factor must be 1.0')
  scaling = None
  if kind == 'llama3':
    missing = [each for each in _ROTARY_SCALING if each not in given]
    if missing:
      raise ValueError(f'{missing[0]} of {name} is missing')
    scaling = tuple(given[each] for each in _ROTARY_SCALING)
  return {'rotary_base': base, 'rotary_scaling': scaling}


def _check_count(name: str, number: Any, least: int) -> None:
  whole = isinstance(number, int) and not isinstance(number, bool)
  if not whole or not least <= number <= _LARGEST:
    raise ValueError(
      f'{name} must be a whole number from {least} to {_LARGEST}, got'
      f' {number!r}'
    )


def _check_positive(name: str, number: Any) -> None:
  real = isinstance(number, int | float) and not isinstance(number, bool)
  if not real or not 0 < number < math.inf:
    raise ValueError(f'{name} must be a number above 0, got {number!r}')
