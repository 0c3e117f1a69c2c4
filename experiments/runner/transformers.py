"""The transformer of a run on texts: pretrained, or drawn at random."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.data_digest import data_flag
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  OneOf,
  Text,
  Whole,
  YesNo,
  setting,
  settings,
)
from metajax.base import PyTree
from metajax.inner import partition
from metajax.models import pretrained
from metajax.models.pretrained.parameters import shapes
from metajax.models.tuning import (
  Tuning,
  last,
  lora,
  only,
  prefix,
  quantise,
  soft_prompt,
)

__all__ = [
  'Transformer',
  'check_adaptation',
  'check_adaptations',
  'load_pretrained',
  'make_tuning',
  'means',
  'of_weights',
  'tokenizer_of',
  'uses_features',
  'weights_kept',
]

_ADAPT = re.compile('lora|prefix|prompt|bias|norm|head|last:[1-9][0-9]*|all')


@settings
class Transformer(Base):
  """Which transformer there is, and what of it adapts."""

  model_dir: str | None = setting(
    None, Place(),
    'folder of a pretrained transformer: model.safetensors, config.json and'
    ' tokenizer.json (for --dry_run, a config.json) [default: a small one that'
    ' is drawn at random]',
    # A folder may move; what is in it may not change: `weights_digest`.
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  adapt: str | None = setting(
    None, Text(),
    'what of a pretrained transformer is learned: lora, prefix, prompt, bias,'
    ' norm, head, last:K (the last K blocks) or all; everything else stays as'
    ' it is [default: lora]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  model_dtype: str = setting(
    'float32', OneOf(['float32', 'bfloat16', 'int8']),
    'what those weights are kept in that nothing changes; what is learned, and'
    ' the computation, are float32. int8: kernels, with a factor for each'
    ' output; embeddings are bfloat16 then',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  rank: int = setting(
    8, Whole(), 'of --adapt=lora', of='method', resume=False, forwarded=True
  )
  prompt_length: int = setting(
    8, Whole(), 'of --adapt=prompt and --adapt=prefix',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  pool: str = setting(
    'mean', OneOf(['mean', 'first', 'last']),
    'which position of a text its features are taken from',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  rematerialise: bool = setting(
    False, YesNo(), 'compute a block of a transformer again on the way back'
    ' instead of keeping what is inside: less memory, more time',
    of='machine', resume=True, forwarded=True,
  )  # fmt: skip


def load_pretrained(given: Any) -> pretrained.Pretrained | None:
  """Loads the transformer that settings name, if they name one.

  Raises:
    UsageError: if it cannot be loaded, or settings contradict each other.
  """
  if given.adapt is not None:
    check_adaptation('adapt', given.adapt)
  _refuse_without_meaning(given)
  if given.model_dir is None:
    if given.adapt not in (None, 'all'):
      raise UsageError(
        'adapt',
        f'is {given.adapt}, but without --model_dir there are no weights to'
        ' keep, and all is learned',
      )
    _refuse_dtype(given, 'without --model_dir there are none')
    return None
  if given.adapt == 'all':
    _refuse_dtype(given, '--adapt=all learns them all')
  if given.width is not None:
    raise UsageError(
      'width',
      f'is {given.width}, but that of --model_dir is fixed; leave it out',
    )
  try:
    found = (
      pretrained.load(given.model_dir, masked_words=_layers_of_words(given))
      if given.dry_run is None
      else _outline(given.model_dir)
    )
  except (ValueError, OSError, ImportError) as error:
    named = '' if given.model_dir in str(error) else f'{given.model_dir}: '
    raise UsageError('model_dir', f'{named}{error}') from error
  if given.depth is not None:
    try:
      found = pretrained.first_blocks(found, given.depth)
    except ValueError as error:
      raise UsageError('depth', f'is {given.depth}, but {error}') from error
  return found._replace(params=_kept_in(given, found))


def _layers_of_words(given: Any) -> bool | None:
  """Whether layers for masked words are read: where there are any and a use."""
  wanted = getattr(given, 'masked_words_weight', None) is not None
  return None if wanted else False


def of_weights(
  given: Any, function: Callable[[PyTree], PyTree], weights: PyTree
) -> PyTree:
  """What a function makes of weights, or its shapes in a dry run."""
  if given.dry_run is None:
    return function(weights)
  return jax.eval_shape(function, weights)


def _refuse_dtype(given: Any, why: str) -> None:
  if given.model_dtype != 'float32':
    raise UsageError(
      'model_dtype',
      f'is {given.model_dtype}, but is of weights that stay as they are, and'
      f' {why}; leave it out',
    )


def _kept_in(given: Any, found: pretrained.Pretrained) -> PyTree:
  """Weights in the precision that is wanted, but for those that are learned.

  Vectors, scales and biases, stay float32: they are few.
  """
  if given.model_dtype == 'float32':
    return found.params
  learned = set[str]()
  if given.adapt in ('bias', 'norm') or (given.adapt or '').startswith('last:'):
    tuning = make_tuning(given, found.config.heads)
    assert tuning is not None
    try:
      shapes = jax.eval_shape(tuning.init, jax.random.key(0), found.params)
    except ValueError as error:  # more blocks than there are
      raise UsageError('adapt', f'is {given.adapt}: {error}') from error
    learned.update(shapes)
  kernels = {
    path
    for path in partition.paths(found.params)
    if path.endswith('kernel') and path not in learned
  }

  def kept(path: str, leaf: Any) -> Any:
    stays = path in learned or leaf.ndim < 2 or leaf.dtype != jnp.float32
    return leaf if stays else leaf.astype(jnp.bfloat16)

  def all_kept(params: PyTree) -> PyTree:
    if given.model_dtype == 'int8' and kernels:
      params = quantise(params, kernels.__contains__)
    return partition.map_with_path(kept, params)

  return of_weights(given, all_kept, found.params)


def weights_kept(given: Any, found: pretrained.Pretrained | None) -> Any:
  """What the protocol says of pretrained weights."""
  if found is None:
    return {}
  leaves = jax.tree.leaves(found.params)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
  return {'weights': f'{given.model_dtype}, {size / 2**20:.1f} MiB'}


def means(name: str, adapt: str) -> bool:
  """Whether a setting of weights changes anything of an adaptation."""
  if name == 'model_dtype':
    return adapt != 'all'  # all of them are learned, in float32
  return name not in _OF_ADAPTATIONS or adapt in _OF_ADAPTATIONS[name]


def _refuse_without_meaning(given: Any) -> None:
  """Refuses settings that would change nothing."""
  if given.network not in (None, 'transformer'):
    raise UsageError(
      'network', f'is {given.network}, but texts are read by a transformer'
    )
  adapt = given.model_dir and (given.adapt or 'lora')
  for name, of in _OF_ADAPTATIONS.items():
    value = getattr(given, name)
    if value != getattr(Transformer, name) and adapt not in of:
      raise UsageError(
        name,
        f'is {value}, but has a meaning only with --model_dir and'
        f' --adapt={" or ".join(of)}',
      )


# What each setting is of.
_OF_ADAPTATIONS = {'rank': ('lora',), 'prompt_length': ('prompt', 'prefix')}


def check_adaptation(flag: str, adapt: str) -> None:
  """Refuses, by the flag that has it, what is none of the adaptations."""
  if not _ADAPT.fullmatch(adapt):
    raise UsageError(
      flag,
      f'is {adapt}; it is one of lora, prefix, prompt, bias, norm, head,'
      ' last:K with K from 1, and all',
    )


def check_adaptations(given: Any) -> None:
  """Refuses adaptations that a comparison cannot have rows of.

  Args:
    given: settings, of `Transformer`, with `adaptations`.

  Raises:
    UsageError: by the setting that is wrong.
  """
  if not given.adaptations:
    return
  if given.model_dir is None:
    raise UsageError(
      'adaptations', 'are of a pretrained transformer: name one by --model_dir'
    )
  if given.adapt is not None:
    raise UsageError('adaptations', 'are given, and --adapt too; leave one out')
  for each in given.adaptations:
    check_adaptation('adaptations', each)
  for name in (*_OF_ADAPTATIONS, 'model_dtype'):
    value = getattr(given, name)
    is_used = any(means(name, each) for each in given.adaptations)
    if value != getattr(Transformer, name) and not is_used:
      listed = ','.join(given.adaptations)
      raise UsageError(
        name, f'is {value}, but changes nothing of --adaptations={listed}'
      )


def _outline(folder: str) -> pretrained.Pretrained:
  """A transformer of which only the shapes are known: config.json is enough.

  The type of its weights is what that file says, or float32.
  """
  config = pretrained.read_config(folder)
  fields = json.loads((Path(folder) / 'config.json').read_text('utf-8'))
  named = fields.get('dtype', fields.get('torch_dtype'))
  dtype = jnp.bfloat16 if named in ('bfloat16', 'float16') else jnp.float32
  params = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, dtype),
    shapes(config),
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )
  tokenizer, path = None, Path(folder) / 'tokenizer.json'
  if path.is_file():
    tokenizer = pretrained.read_tokenizer(path, config)
  return pretrained.Pretrained(config, params, tokenizer, {}, str(folder))


def tokenizer_of(
  given: Any, found: pretrained.Pretrained
) -> Callable[[Sequence[str], int | None], pretrained.Encoded]:
  """What makes tokens of texts for a pretrained transformer.

  Raises:
    UsageError: if there is none; when it is used, if it has no room for them.
  """
  tokenizer = found.tokenizer
  if tokenizer is None and given.dry_run is not None:
    return _as_long_as_can_be
  if tokenizer is None:
    raise UsageError(
      'model_dir', f'{given.model_dir} has no tokenizer.json; add that of it'
    )

  def encode(
    texts: Sequence[str], max_tokens: int | None
  ) -> pretrained.Encoded:
    if max_tokens is not None and max_tokens > found.config.max_length:
      raise UsageError(
        'max_tokens',
        f'is {max_tokens}, but the model has positions for'
        f' {found.config.max_length}; ask for no more',
      )
    try:
      return tokenizer.encode(texts, max_tokens)
    except pretrained.TextError as error:
      raise UsageError(data_flag(given)[0], str(error)) from error
    except ValueError as error:
      raise UsageError('max_tokens', str(error)) from error

  return encode


def _as_long_as_can_be(
  texts: Sequence[str], max_tokens: int | None
) -> pretrained.Encoded:
  """What a dry run takes for tokens where there is no tokenizer."""
  shape = (len(texts), max_tokens or 1)
  return pretrained.Encoded(np.zeros(shape, np.int32), 0)


def uses_features(given: Any) -> bool:
  """Whether tasks are of features, since no weight of a transformer changes."""
  return given.model_dir is not None and given.adapt == 'head'


def make_tuning(given: Any, heads: int) -> Tuning | None:
  """What of a pretrained transformer is learned; None: the head alone."""
  kind = given.adapt or 'lora'
  if kind.startswith('last:'):
    return only(last(int(kind.removeprefix('last:'))))
  parts: dict[str, Tuning | None] = {
    'lora': lora(given.rank),
    'prefix': prefix(given.prompt_length, heads),
    'prompt': soft_prompt(given.prompt_length),
    'bias': only(_biases),
    'norm': only(partition.normalisation),
    'head': None,
    'all': only(partition.body),
  }
  return parts[kind]


def _biases(path: str) -> bool:
  return partition.biases(path) and partition.body(path)
