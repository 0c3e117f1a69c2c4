"""The network of a run on texts, made again without them."""

import json
from collections.abc import Mapping
from typing import Any

import jax

from experiments.runner.encoders import (
  label_tokens,
  make_encoder,
  pooled_features,
)
from experiments.runner.reading import Network, Reading
from experiments.runner.transformers import load_pretrained, uses_features
from metajax.algorithms.recipe import Recipe
from metajax.base import Model, PyTree, SampleTask
from metajax.equality import EqualPartial, Frozen
from metajax.models import pretrained
from metajax.tasks.words import WordTokenizer

__all__ = ['for_encoder', 'reading_of_texts', 'text_network_again']


def for_encoder(
  given: Any, recipe: Recipe, found: pretrained.Pretrained | None
) -> Recipe:
  """The recipe with what follows from a pretrained transformer."""
  if labels := label_tokens(given, recipe, found):
    recipe = recipe._replace(options={**recipe.options, 'labels': labels})
  if found is not None:  # its own, not that of the recipe
    recipe = recipe._replace(width=None, depth=given.depth)
  return recipe


def reading_of_texts(
  sample: SampleTask, tokenize: Any, outputs: int
) -> Reading:
  """What texts are to a network.

  Args:
    sample: draws tasks of their tokens.
    tokenize: made these.
    outputs: classes that the network was made for.
  """
  tokens = jax.eval_shape(sample, jax.random.key(0)).support.inputs
  own = isinstance(tokenize, WordTokenizer)
  return Reading(
    'experiments.text',
    {
      'kind': 'texts',
      'length': tokens.shape[1],
      'tokenizer': 'words.json' if own else 'tokenizer.json',
    },
    network={'outputs': outputs, 'words': tokenize.words if own else None},
  )


def text_network_again(
  given: Any, recipe: Recipe, facts: Mapping[str, Any]
) -> Network:
  """Makes the network of a run without its data (`Experiment.network`)."""
  found = load_pretrained(given)
  recipe = for_encoder(given, recipe, found)
  outputs = facts['outputs']
  if found is None:
    words = WordTokenizer(tuple(facts['words']))
    model = make_encoder(given, recipe, outputs, words.vocabulary, None)
    files = {'words.json': json.dumps(words.words)}
    return Network(model, recipe, words.__call__, files)
  model = make_encoder(given, recipe, outputs, 0, found)
  if uses_features(given):
    model = _on_tokens(model, pooled_features(given, found))
  assert found.tokenizer is not None  # or its run would not have begun
  return Network(
    model,
    recipe,
    found.tokenizer.encode,
    {'tokenizer.json': found.tokenizer.text},
    found.digests,
  )


def _on_tokens(head: Any, encode: jax.tree_util.Partial) -> Frozen:
  """The head of a transformer, of the tokens that its features are of."""
  (weights,) = encode.args
  return Frozen(EqualPartial(_of_tokens, head, encode.func), weights)


def _of_tokens(head: Model, encode: Any, weights: PyTree) -> Model:
  def init(key: jax.Array, tokens: jax.Array) -> PyTree:
    return head.init(key, encode(weights, tokens))

  def apply(params: PyTree, tokens: jax.Array) -> PyTree:
    return head.apply(params, encode(weights, tokens))

  return Model(init, apply)
