"""What the examples of a run are, for whoever gives others to its learner."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from metajax.algorithms.recipe import Recipe
from metajax.base import Model, SampleTask
from metajax.equality import Frozen

__all__ = ['Network', 'Reading', 'columns', 'numbers', 'of_images']

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Reading(NamedTuple):
  """How examples become what the network sees, and what it was made for."""

  experiment: str  # its module
  inputs: Mapping[str, Any]  # as the manifest of a learner has them
  outputs: Mapping[str, Any] = _NOTHING  # the same, where these are numbers
  # What the network follows from beside settings (`Experiment.network`).
  network: Mapping[str, Any] = _NOTHING


class Network(NamedTuple):
  """The network of a run, made without its data."""

  model: Model | Frozen
  recipe: Recipe
  tokenize: Callable[..., Any] | None = None  # of texts
  files: Mapping[str, str] = _NOTHING  # that an export has beside it
  digests: Mapping[str, str] = _NOTHING  # of pretrained weights


def of_images(sample: SampleTask, **files: Any) -> dict[str, Any]:
  """Images as the tasks of a sampler have them.

  Args:
    sample: draws such tasks.
    **files: how files of images become such arrays: `size` that they are
      resized to, and whether they show dark `ink` on paper.
  """
  inputs = jax.eval_shape(sample, jax.random.key(0)).support.inputs
  return {'kind': 'images', 'shape': list(inputs.shape[1:]), 'files': files}


def numbers(
  names: Sequence[str], mean: Any = None, deviation: Any = None
) -> Any:
  """Rows of numbers, a column for each name (see `columns`)."""
  own = columns(names, mean, deviation)
  return {'kind': 'numbers', 'shape': [len(own['names'])], **own}


def columns(
  names: Sequence[str], mean: Any = None, deviation: Any = None
) -> dict[str, Any]:
  """Names and scales of columns, as the manifest of a learner has them.

  Args:
    names: of the columns.
    mean: what is subtracted from each; 0 without it.
    deviation: what each is divided by then; 1 without it.
  """
  means = [0.0] * len(names) if mean is None else mean
  deviations = [1.0] * len(names) if deviation is None else deviation
  return {
    'names': list(names),
    'mean': list(map(float, means)),
    'deviation': list(map(float, deviations)),
  }
