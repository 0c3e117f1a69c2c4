"""Regression: from settings to task distributions of waves and pixels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.data import images
from experiments.data.samplers import Wanted
from experiments.runner.data_digest import Digests
from experiments.runner.errors import UsageError
from experiments.runner.reading import columns, numbers
from metajax import tasks
from metajax.algorithms.recipe import Recipe
from metajax.base import SampleTask, as_argument, sample_tasks

__all__ = ['Data', 'complete', 'train_sizes', 'waves']

# Images that are drawn once, and of which the pixels are drawn then.
_TRAIN_IMAGES, _TEST_IMAGES = 2**14, 2**10


class Data(NamedTuple):
  """Samplers, and what a reader must know about them."""

  train: SampleTask
  validation: SampleTask
  test: SampleTask
  protocol: dict[str, Any]
  inputs: dict[str, Any]  # as the manifest of a learner has them
  outputs: dict[str, Any]
  num_targets: int = 1
  digests: Digests | None = None  # of what is not drawn by a program


def waves(recipe: Recipe) -> Data:
  """Draws sine waves as Finn et al. do."""
  tested = tasks.sinusoid(recipe.shots, recipe.queries)
  return Data(
    tasks.sinusoid(*train_sizes(recipe)),
    tested,
    tested,
    {'amplitude': 'U(0.1, 5)', 'phase': 'U(0, pi)', 'x': 'U(-5, 5)'},
    numbers(['x']),
    columns(['y']),
  )


def complete(settings: Any, recipe: Recipe) -> Data:
  """Draws pixels of images, as functions from places to intensities."""
  if settings.images_on == 'host':
    raise UsageError('images_on', 'completion has its images on the device')
  # The least task that all data sets have: what is drawn for its images.
  least = Recipe(ways=2, tasks_per_step=recipe.tasks_per_step)
  data = images.load(Wanted(settings, least))
  return Data(
    _completion(data.train, *train_sizes(recipe), _TRAIN_IMAGES),
    _completion(data.validation, recipe.shots, recipe.queries, _TEST_IMAGES),
    _completion(data.test, recipe.shots, recipe.queries, _TEST_IMAGES),
    {'intensity': 'from 0 to 1', **data.protocol},
    numbers(['row', 'column']),
    columns(['intensity']),
    digests=data.digests,
  )


def train_sizes(recipe: Recipe) -> tuple[int, int]:
  """Support and query examples of a task of training."""
  return (
    recipe.train_shots or recipe.shots,
    recipe.train_queries or recipe.queries,
  )


def _completion(
  sample: SampleTask, shots: int, queries: int, count: int
) -> SampleTask:
  """Completes images that a sampler of classification tasks draws."""

  @jax.jit
  def draw(sample: SampleTask) -> jax.Array:
    drawn = sample_tasks(sample, jax.random.key(0), count // 4)
    images = jnp.concatenate([drawn.support.inputs, drawn.query.inputs], axis=1)
    return jnp.mean(images.reshape(-1, *images.shape[2:]), axis=-1)

  try:
    return tasks.completion(draw(as_argument(sample)), shots, queries)
  except ValueError as error:
    raise UsageError('shots', str(error)) from error
