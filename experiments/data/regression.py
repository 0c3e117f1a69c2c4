"""Regression: from settings to task distributions of waves, pixels, tables."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.data import images
from experiments.data.samplers import (
  Wanted,
  as_flags,
  blaming,
  given,
  max_unpacked,
  split_shares,
)
from experiments.runner.data_digest import Digests, digests
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.reading import columns, numbers
from experiments.runner.settings import (
  Base,
  Listed,
  Text,
  Whole,
  setting,
  settings,
)
from metajax import tasks
from metajax.algorithms.recipe import Recipe
from metajax.base import SampleTask, as_argument, sample_tasks
from metajax.tasks.splits import SHARES

__all__ = ['Data', 'TableData', 'complete', 'read_table', 'waves']

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
    tasks.sinusoid(*_train_sizes(recipe)),
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
    _completion(data.train, *_train_sizes(recipe), _TRAIN_IMAGES),
    _completion(data.validation, recipe.shots, recipe.queries, _TEST_IMAGES),
    _completion(data.test, recipe.shots, recipe.queries, _TEST_IMAGES),
    {'intensity': 'from 0 to 1', **data.protocol},
    numbers(['row', 'column']),
    columns(['intensity']),
    digests=data.digests,
  )


def _train_sizes(recipe: Recipe) -> tuple[int, int]:
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


@settings
class TableData(Base):
  """Which columns of a file are what, and how its tasks are divided."""

  data_file: str | None = setting(
    None, Place(), 'CSV or Parquet file, a row an example',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  task_column: str = setting(
    'task', Text(), 'column that says which task a row is of',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  target_columns: tuple[str, ...] = setting(
    ('y',), Listed(), 'columns to predict, with commas between them',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  feature_columns: tuple[str, ...] = setting(
    (), Listed(), 'columns to predict from [default: all others]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_seed: int = setting(
    0, Whole(0), 'of the division of tasks',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_shares: tuple[float, ...] | None = split_shares('tasks')
  max_unpacked_mebibytes: int | None = max_unpacked('a Parquet file')


def read_table(settings: Any, recipe: Recipe) -> Data:
  """Reads a table, divides its tasks, and standardises by those of training."""
  if settings.data_file is None:
    raise UsageError(
      'data_file', 'name a CSV or Parquet file with a column of task ids'
    )
  with blaming('data_file'), shown('reading the table'):
    table = tasks.load_table(
      settings.data_file,
      settings.task_column,
      settings.target_columns,
      settings.feature_columns or None,
      **given(settings, ['max_unpacked_mebibytes']),
    )
    splits = tasks.split_table_by_seed(
      table, settings.split_seed, *(settings.split_shares or SHARES)[:2]
    )
    scaled, scale = tasks.standardise(splits)
  sizes = {
    'train': _train_sizes(recipe),
    'validation': (recipe.shots, recipe.queries),
    'test': (recipe.shots, recipe.queries),
  }
  samplers = {}
  for name, part in zip(scaled._fields, scaled, strict=True):
    try:
      samplers[name] = tasks.table_tasks(part, *sizes[name])
    except tasks.DataError as error:
      sizes_given, message = str(error).split(': ', 1)
      raise UsageError(
        as_flags(sizes_given, recipe, name == 'train'),
        f'{message} (in the {name} split)',
      ) from error
  counts = '/'.join(str(len(part.task_names)) for part in scaled)
  return Data(
    **samplers,
    protocol={
      'split': f'{counts} train/validation/test tasks by seed'
      f' {settings.split_seed}',
      'targets': list(table.target_names),
      'features': len(table.feature_names),
      'unit': 'deviations of the training tasks',
    },
    inputs=numbers(
      table.feature_names, scale.feature_mean, scale.feature_deviation
    )
    | {'task': settings.task_column},
    outputs=columns(
      table.target_names, scale.target_mean, scale.target_deviation
    ),
    num_targets=len(table.target_names),
    digests=digests(splits),
  )
