"""The network of a run on texts, with the head that its method wants."""

import math
import string
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runner.errors import UsageError
from experiments.runner.transformers import (
  make_tuning,
  of_weights,
  uses_features,
)
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Head, Model, PyTree, SampleTask
from metajax.equality import Frozen, by_value
from metajax.models import pretrained
from metajax.models.frozen import on_weights
from metajax.models.pretrained.networks import unit_length
from metajax.models.pretrained.parameters import draw
from metajax.models.pretrained.transformer import linear

__all__ = [
  'check_room',
  'label_tokens',
  'make_encoder',
  'on_pretrained',
  'pooled_features',
  'small_config',
  'words_model',
]

# Blocks; more of them take long to compile one by one.
_DEEP = 12

# Of features, at first; its square is one over a temperature.
_LENGTH = 4.0

# Rotary positions have no end: it is that of the texts.
_LONGEST = 1 << 20

# Tokens beside the vocabulary that stand for classes.
_LABELS: int = ALGORITHMS['metaicl'].options['labels']


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
    return _encoder(given, small_config(given, recipe, vocabulary), outputs)
  if uses_features(given):
    return _of_features(outputs)
  model = _encoder(given, found.config, outputs, normalise=outputs is None)
  if outputs is None:
    model = _of_learned_length(model)
  if given.masked_words_weight is not None:
    model = pretrained.with_words(model, found.config)
  return on_pretrained(given, found, model)


def _encoder(
  given: Any,
  config: pretrained.TransformerConfig,
  outputs: int | None,
  normalise: bool = False,
) -> Model:
  """The transformer in the precision that is asked for."""
  try:
    return pretrained.text_encoder(
      config, outputs, pool=given.pool, normalise=normalise,
      rematerialise=given.rematerialise, dtype=_dtype(given),
    )  # fmt: skip
  except ValueError as error:
    raise UsageError('pool', f'is {given.pool}: {error}') from error


def _dtype(given: Any) -> str | None:
  """What is computed in, where it is not that of the parameters."""
  return None if given.precision == 'float32' else str(given.precision)


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
  # Keys may have fewer heads than queries.
  tuning = make_tuning(given, found.config.heads_of_keys or found.config.heads)
  assert tuning is not None  # or it is a network of features
  try:
    jax.eval_shape(tuning.init, jax.random.key(0), found.params)
  except ValueError as error:
    flag = 'rank' if given.adapt in (None, 'lora') else 'adapt'
    raise UsageError(flag, f'is {getattr(given, flag)}: {error}') from error
  weights = _used(model, found.params)
  # What is learned of the last blocks has a type of its own.
  mixed = (given.adapt or '').startswith(
    'last:'
  ) and given.model_dtype != 'float32'
  if found.config.depth > _DEEP and not mixed:
    weights = of_weights(given, pretrained.stack_blocks, weights)
    model = _stacked(model)
  return on_weights(model, weights, tuning)


def _used(model: Model, weights: PyTree) -> PyTree:
  """Those of the weights that the model has: features need none of words."""
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  own = jax.eval_shape(model.init, jax.random.key(0), tokens)
  return {name: each for name, each in weights.items() if name in own}


@by_value
def _stacked(model: Model) -> Model:
  """The model, initialised with its blocks in one stack."""

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return pretrained.stack_blocks(model.init(key, inputs))

  return model._replace(init=init)


def pooled_features(
  given: Any, found: pretrained.Pretrained
) -> jax.tree_util.Partial:
  """What makes features of tokens, by the weights as they are."""
  model = _encoder(given, found.config, None)
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
  if uses_features(given):
    raise UsageError(
      'adapt',
      f'is head, but {given.algorithm} has none: it scores words; take another',
    )
  if found is None:
    labels = recipe.options.get('labels', _LABELS)
    _check_labels(recipe, labels, 'there are', '; --set=labels=N makes others')
    longest = (_examples(recipe) + 1) * (_longest(given) + 1)
    config = small_config(given, recipe, vocabulary + labels, longest)
    return words_model(given, config)
  if not found.config.causal:
    raise UsageError(
      'algorithm',
      f'{given.algorithm} reads from the left to the right, which a'
      f' {found.config.family} cannot; name a decoder by --model_dir, or leave'
      ' that out',
    )
  return on_pretrained(given, found, words_model(given, found.config))


def words_model(given: Any, config: pretrained.TransformerConfig) -> Model:
  """The transformer that scores words, in the precision that is asked for."""
  return pretrained.language_model(
    config, rematerialise=given.rematerialise, dtype=_dtype(given)
  )


def _examples(recipe: Recipe) -> int:
  """The most examples of a support set, in training and at test."""
  train_ways = recipe.train_ways or recipe.ways
  train_shots = recipe.train_shots or recipe.shots
  return max(train_ways * train_shots, recipe.ways * recipe.shots)


def _check_labels(recipe: Recipe, number: int, there: str, advice: str) -> None:
  """Refuses fewer tokens than classes, in training or at test."""
  flag, most = 'ways', recipe.ways
  if (train_ways := recipe.train_ways or most) > most:
    flag, most = 'train_ways', train_ways
  if number < most:
    raise UsageError(
      flag,
      f'is {most}, but {there} {number} tokens to stand for classes; ask for no'
      f' more{advice}',
    )


def check_room(
  given: Any,
  recipe: Recipe,
  found: pretrained.Pretrained | None,
  sample: SampleTask,
) -> None:
  """Refuses tasks that a pretrained decoder has no room to read as one text.

  Args:
    given: settings, of `Transformer` and `Common`.
    recipe: of the method.
    found: the transformer that is, if one is.
    sample: draws tasks of the texts.

  Raises:
    UsageError: if the support set and a query have more tokens than it has
      positions, in training or at test.
  """
  if found is None or ALGORITHMS[given.algorithm].head.kind != 'words':
    return
  inputs = jax.eval_shape(sample, jax.random.key(0)).support.inputs
  _, length = inputs.shape
  prompt = given.prompt_length if given.adapt == 'prompt' else 0
  wanted = prompt + _examples(recipe) * (length + 1) + length
  if wanted > found.config.max_length:
    raise UsageError(
      'max_tokens',
      f'is {given.max_tokens}: {_examples(recipe)} examples of {length} tokens,'
      f' their labels and a query are {wanted} tokens, and the model has'
      f' positions for {found.config.max_length}; lower it, or ask for fewer'
      ' ways and shots',
    )


def label_tokens(
  given: Any, recipe: Recipe, found: pretrained.Pretrained | None
) -> tuple[int, ...] | None:
  """The tokens of a pretrained decoder that stand for classes: letters.

  Raises:
    UsageError: if there are fewer than classes, or others are asked for.
  """
  reads = ALGORITHMS[given.algorithm].head.kind == 'words'
  if not reads or found is None or not found.config.causal:
    return None
  if found.tokenizer is None:  # a dry run may have none
    return None
  if 'labels' in recipe.options:
    raise UsageError(
      'set',
      f'labels is {recipe.options["labels"]}, but letters and digits stand for'
      ' classes with --model_dir; leave it out',
    )
  tokens = found.tokenizer.ids_of([*string.ascii_uppercase, *string.digits])
  _check_labels(
    recipe, len(tokens), 'the letters and digits of --model_dir are', ''
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
