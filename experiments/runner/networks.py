"""The network of a run: an encoder by name, with the head its method wants."""

from collections.abc import Mapping
from typing import Any

import jax

from experiments.runner.common import Common
from experiments.runner.errors import UsageError
from experiments.runner.reading import Network
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Model, SampleTask
from metajax.equality import Frozen, as_frozen
from metajax.models.encoders import encoder
from metajax.precision import with_precision

__all__ = ['check_network', 'make_model', 'network_again']


def make_model(settings: Common, recipe: Recipe, num_outputs: int) -> Model:
  """Makes the network that a recipe names.

  Args:
    settings: of the run.
    recipe: with these settings.
    num_outputs: classes, or numbers to predict, where the method wants these.

  Raises:
    UsageError: if this network cannot have the head that the method wants.
  """
  head = ALGORITHMS[settings.algorithm].head
  if head.kind == 'none' or recipe.network is None:
    return Model(lambda key, inputs: (), lambda params, inputs: inputs)
  try:
    model = encoder(
      recipe.network,
      head,
      num_outputs,
      width=recipe.width,
      depth=recipe.depth,
    )
  except ValueError as error:
    raise UsageError(
      'network',
      f'{settings.algorithm} wants {head.describe()} of a network: {error}',
    ) from error
  if head.kind == 'memory':
    return model  # a `SequenceModel`, which computes in float32
  return with_precision(model, settings.precision)


def network_again(
  settings: Common, recipe: Recipe, facts: Mapping[str, Any]
) -> Network:
  """Makes the network of a run without its data (`Experiment.network`)."""
  return Network(make_model(settings, recipe, facts['outputs']), recipe)


def check_network(
  model: Model | Frozen, sample: SampleTask, setting: str, value: Any
) -> None:
  """Refuses examples that the network cannot take, by what they come from."""

  def outputs(model: Frozen, key: jax.Array) -> Any:
    inputs = sample(key).support.inputs
    init, apply, *_ = model.made()
    return apply(init(key, inputs), inputs)

  try:
    # What is frozen may be shapes alone, which can be no more than an argument.
    jax.eval_shape(outputs, as_frozen(model), jax.random.key(0))
  except (ValueError, TypeError) as error:
    reason = ' '.join(str(error).split())
    raise UsageError(setting, f'{value}: {reason}') from error
