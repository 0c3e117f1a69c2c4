"""The transformer of a run on texts: pretrained, or drawn at random."""

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  OneOf,
  Text,
  Whole,
  setting,
  settings,
)
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Head, Model, PyTree
from metajax.equality import Frozen, by_value
from metajax.inner import partition
from metajax.models import pretrained
from metajax.models.frozen import on_weights
from metajax.models.pretrained.networks import unit_length
from metajax.models.pretrained.parameters import draw
from metajax.models.pretrained.transformer import linear
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
  'label_tokens',
  'load_pretrained',
  'make_decoder',
  'make_encoder',
  'make_tuning',
  'on_pretrained',
  'pooled_features',
  'small_config',
  'tokenizer_of',
  'uses_features',
  'weights_kept',
]

# Of features, at first; its square is one over a temperature.
_LENGTH = 4.0

# Rotary positions have no end: it is that of the texts.
_LONGEST = 1 << 20
# Tokens beside the vocabulary that stand for classes.
_LABELS: int = ALGORITHMS['metaicl'].options['labels']

_ADAPT = re.compile('lora|prefix|prompt|bias|norm|head|last:[1-9][0-9]*|all')


@settings
class Transformer(Base):
  """Which transformer there is, and what of it adapts."""

  model_dir: str | None = setting(
    None, Place(),
    'folder of a pretrained transformer: model.safetensors, config.json and'
    ' tokenizer.json [default: a small one that is drawn at random]',
    # A folder may move; what is in it may not change, see `weights_digest`.
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


def load_pretrained(given: Any) -> pretrained.Pretrained | None:
  """Loads the transformer that settings name, if they name one.

  Raises:
    UsageError: if it cannot be loaded, or settings contradict each other.
  """
  if given.adapt is not None:
    check_adaptation('adapt', given.adapt)
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
    found = pretrained.load(given.model_dir)
  except (ValueError, OSError) as error:
    raise UsageError('model_dir', f'{given.model_dir}: {error}') from error
  if given.depth is not None:
    try:
      found = pretrained.first_blocks(found, given.depth)
    except ValueError as error:
      raise UsageError('depth', f'is {given.depth}, but {error}') from error
  return found._replace(params=_kept_in(given, found))


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
  params = found.params
  kernels = {
    path
    for path in partition.paths(params)
    if path.endswith('kernel') and path not in learned
  }
  if given.model_dtype == 'int8' and kernels:
    params = quantise(params, kernels.__contains__)

  def kept(path: str, leaf: Any) -> Any:
    stays = path in learned or leaf.ndim < 2 or leaf.dtype != jnp.float32
    return leaf if stays else leaf.astype(jnp.bfloat16)

  return partition.map_with_path(kept, params)


def weights_kept(given: Any, found: pretrained.Pretrained | None) -> Any:
  """What the protocol says of pretrained weights."""
  if found is None:
    return {}
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(found.params))
  return {'weights': f'{given.model_dtype}, {size / 2**20:.1f} MiB'}


def check_adaptation(flag: str, adapt: str) -> None:
  """Refuses, by the flag that has it, what is none of the adaptations."""
  if not _ADAPT.fullmatch(adapt):
    raise UsageError(
      flag,
      f'is {adapt}; it is one of lora, prefix, prompt, bias, norm, head,'
      ' last:K with K from 1, and all',
    )


def tokenizer_of(
  given: Any, found: pretrained.Pretrained
) -> Callable[[Sequence[str], int | None], pretrained.Encoded]:
  """What makes tokens of texts for a pretrained transformer.

  Raises:
    UsageError: if there is none; when it is used, if it has no room for them.
  """
  tokenizer = found.tokenizer
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
    except ValueError as error:
      raise UsageError('max_tokens', str(error)) from error

  return encode


def make_encoder(
  given: Any,
  recipe: Recipe,
  num_outputs: int,
  vocabulary: int,
  found: pretrained.Pretrained | None,
) -> Model | Frozen:
  """Makes the network of a run, with the head that its method wants.

  Args:
    given: its settings, of `Transformer` and `Common`.
    recipe: of the method.
    num_outputs: classes, where the method wants outputs.
    vocabulary: tokens there are, where nothing is pretrained.
    found: the transformer that is, if one is.

  Raises:
    UsageError: if it cannot have that head, or cannot adapt so.
  """
  head = ALGORITHMS[given.algorithm].head
  if head.kind == 'words':
    return make_decoder(given, recipe, vocabulary, found)
  outputs = _outputs(given.algorithm, head, num_outputs)
  if head.kind == 'none':
    return Model(lambda key, inputs: (), lambda params, inputs: inputs)
  if found is None:
    config = small_config(given, recipe, vocabulary)
    return pretrained.text_encoder(config, outputs, pool=given.pool)
  if uses_features(given):
    return _of_features(outputs)
  model = pretrained.text_encoder(
    found.config, outputs, pool=given.pool, normalise=outputs is None
  )
  if outputs is None:
    model = _of_learned_length(model)
  if given.masked_words_weight is not None:
    model = pretrained.with_words(model, found.config)
  return on_pretrained(given, found, model)


def small_config(
  given: Any, recipe: Recipe, vocabulary: int, max_length: int | None = None
) -> pretrained.TransformerConfig:
  """The form of the transformer that is trained from nothing."""
  width = recipe.width or 64
  if max_length is None:
    max_length = _longest(given)
  return pretrained.TransformerConfig(
    'llama', vocabulary, width, recipe.depth or 2, math.gcd(width, 4),
    2 * width, max_length,
    activation='silu', attention_bias=False, feed_forward_bias=False,
  )  # fmt: skip


def _longest(given: Any) -> int:
  return _LONGEST if given.max_tokens == 'auto' else int(given.max_tokens)


def on_pretrained(
  given: Any, found: pretrained.Pretrained, model: Model
) -> Frozen:
  """A model on pretrained weights, of which that is learned which adapts."""
  tuning = make_tuning(given, found.config.heads)
  assert tuning is not None  # or it is a network of features
  return on_weights(model, found.params, tuning)


def uses_features(given: Any) -> bool:
  """Whether tasks are of features, since no weight of a transformer changes."""
  return given.model_dir is not None and given.adapt == 'head'


def pooled_features(
  given: Any, found: pretrained.Pretrained
) -> jax.tree_util.Partial:
  """What makes features of tokens, by the weights as they are."""
  model = pretrained.text_encoder(found.config, pool=given.pool)
  return jax.tree_util.Partial(model.apply, found.params)


@by_value
def _of_features(num_outputs: int | None) -> Model:
  """The head of a transformer alone, or its features at a learned length."""
  if num_outputs is None:
    return _of_learned_length(
      Model(lambda key, inputs: {}, lambda params, inputs: unit_length(inputs))
    )

  def init(key: jax.Array, inputs: jax.Array) -> PyTree:
    shapes = {'kernel': (inputs.shape[-1], num_outputs), 'bias': (num_outputs,)}
    return {'head': draw(key, shapes)}

  return Model(init, lambda params, inputs: linear(params['head'], inputs))


def make_decoder(
  given: Any,
  recipe: Recipe,
  vocabulary: int,
  found: pretrained.Pretrained | None,
) -> Model | Frozen:
  """Makes the network of a method that reads a task as one text.

  Raises:
    UsageError: if the transformer that there is cannot.
  """
  if found is None:
    labels = recipe.options.get('labels', _LABELS)
    longest = (recipe.ways * max(_shots(recipe)) + 1) * (_longest(given) + 1)
    config = small_config(given, recipe, vocabulary + labels, longest)
    return pretrained.language_model(config)
  if not found.config.causal:
    raise UsageError(
      'algorithm',
      f'{given.algorithm} reads from the left to the right, which a'
      f' {found.config.family} cannot; name a decoder by --model_dir, or leave'
      ' that out',
    )
  return on_pretrained(given, found, pretrained.language_model(found.config))


def _shots(recipe: Recipe) -> tuple[int, int]:
  return recipe.shots, recipe.train_shots or recipe.shots


def label_tokens(
  given: Any, recipe: Recipe, found: pretrained.Pretrained | None
) -> tuple[int, ...] | None:
  """The tokens of a pretrained decoder that stand for classes: letters.

  Raises:
    UsageError: if there are fewer than classes.
  """
  reads = ALGORITHMS[given.algorithm].head.kind == 'words'
  if not reads or found is None or not found.config.causal:
    return None
  assert found.tokenizer is not None  # or there are no texts
  tokens = found.tokenizer.ids_of([*string.ascii_uppercase, *string.digits])
  if len(tokens) < recipe.ways:
    raise UsageError(
      'ways',
      f'is {recipe.ways}, but the tokenizer of --model_dir has {len(tokens)}'
      ' letters and digits to stand for classes; ask for no more',
    )
  return tokens


@by_value
def _of_learned_length(model: Model) -> Model:
  """Features of one length for all, which is learned.

  Distances between features of length 1 are too small to tell classes apart by;
  the length is what a temperature would be.
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return {**model.init(key, inputs), 'log_length': jnp.log(_LENGTH)}

  def apply(params: PyTree, inputs: PyTree) -> PyTree:
    return jnp.exp(params['log_length']) * model.apply(params, inputs)

  return Model(init, apply)


def _outputs(algorithm: str, head: Head, num_outputs: int) -> int | None:
  if head.kind == 'outputs':
    return num_outputs
  if head.kind in ('features', 'none') and not head.warps:
    return head.size
  raise UsageError(
    'algorithm',
    f'{algorithm} wants {head.describe()} of a network, which a transformer of'
    ' texts does not have',
  )


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
