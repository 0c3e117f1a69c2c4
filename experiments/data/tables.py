"""Tables: from settings to tasks of a file, or of random functions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.regression import Data, train_sizes
from experiments.data.samplers import (
  as_flags,
  blaming,
  given,
  max_unpacked,
  split_shares,
)
from experiments.runner.beside_rivals import Known
from experiments.runner.data_digest import digests
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.reading import columns, numbers
from experiments.runner.rivals import Rows
from experiments.runner.settings import (
  Base,
  Listed,
  OneOf,
  Text,
  Whole,
  YesNo,
  setting,
  settings,
)
from metajax import tasks
from metajax.algorithms.recipe import Recipe
from metajax.base import SampleTask, sample_tasks
from metajax.tasks.names import normal_name
from metajax.tasks.splits import SHARES

__all__ = ['TableData', 'Tables', 'read_table', 'stem']

# Rows of made-up tasks that rivals learn from.
_MADE_UP = 200
_ROUNDING = 1e-11  # of numbers of 32 bits, squared and summed
# Tasks of fewer different rows may be alike by chance.
_BY_CHANCE = 8


# Settings that say nothing without a file.
_OF_A_FILE = (
  'task_column', 'target_columns', 'feature_columns', 'order_column',
  'prior_column', 'split_seed', 'split_shares', 'max_unpacked_mebibytes',
)  # fmt: skip


@settings
class TableData(Base):
  """Which columns of a file are what, and how its tasks are divided."""

  data_file: str | None = setting(
    None, Place(), 'CSV or Parquet file, a row an example [default: none, and'
    ' tasks of random functions]',
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
  target_type: str = setting(
    'numbers', OneOf(['numbers', 'classes']), 'what targets are: numbers, or'
    ' two classes, as 0 and 1',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  feature_columns: tuple[str, ...] = setting(
    (), Listed(), 'columns to predict from [default: all others]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  order_column: str | None = setting(
    None, Text(), 'column that says what comes first, such as a time: the'
    ' support set of a test is the first rows of a task, and queries come later'
    ' [default: rows are drawn at random]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  prior_column: str | None = setting(
    None, Text(), 'feature that is a prediction of the target by itself: what'
    ' it leaves is learned, and it is one more rival',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  train_on: str = setting(
    'table', OneOf(['table', 'synthetic']), 'tasks of the table, or of random'
    ' functions of as many columns; validation and test are on the table',
    of='training', resume=False, forwarded=True,
  )  # fmt: skip
  synthetic_features: int = setting(
    8, Whole(1), 'columns of tasks of random functions, where there is no file',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  rivals: bool = setting(
    True, YesNo(), 'test global models, and models of each task, on the same'
    ' queries',
    of='test', resume=True, forwarded=True,
  )  # fmt: skip
  split_seed: int = setting(
    0, Whole(0), 'of the division of tasks',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_shares: tuple[float, ...] | None = split_shares('tasks')
  max_unpacked_mebibytes: int | None = max_unpacked('a Parquet file')


class Tables(NamedTuple):
  """Task distributions, and what rivals know."""

  data: Data
  known: Known | None  # None: there are several targets, or no rivals


def read_table(settings: Any, recipe: Recipe) -> Tables:
  """Reads a table, divides its tasks, and standardises by those of training."""
  if settings.data_file is None:
    return _made_up(settings, recipe)
  if settings.synthetic_features != TableData.synthetic_features:
    raise UsageError(
      'synthetic_features',
      'is of random functions without a file; those of --train_on=synthetic'
      ' have the columns of the table; leave it, or --data_file, out',
    )
  classes = settings.target_type == 'classes'
  with blaming('data_file'), shown('reading the table'):
    table = tasks.load_table(
      settings.data_file,
      settings.task_column,
      settings.target_columns,
      settings.feature_columns or None,
      order_column=settings.order_column,
      **given(settings, ['max_unpacked_mebibytes']),
    )
    _refuse_leaks(table)
    if classes:
      table = tasks.two_classes(table)
    splits = tasks.split_table_by_seed(
      table, settings.split_seed, *(settings.split_shares or SHARES)[:2]
    )
    _refuse_copies(splits)
    scaled, scale = tasks.standardise(splits)
    known = _known(settings, table, scaled, scale)
  if known.column is not None:
    scaled = tasks.TableSplits(*(_left(part, known) for part in scaled))
  samplers = _samplers(settings, recipe, scaled, classes)
  if settings.train_on == 'synthetic':
    samplers['train'] = _synthetic(
      len(table.feature_names), *train_sizes(recipe), classes
    )
  counts = '/'.join(str(len(part.task_names)) for part in scaled)
  outputs = (
    {}
    if classes
    else columns(table.target_names, scale.target_mean, scale.target_deviation)
  )
  data = Data(
    **samplers,
    protocol={
      'split': f'{counts} train/validation/test tasks by seed'
      f' {settings.split_seed}',
      'targets': list(table.target_names),
      'features': len(table.feature_names),
      'support': _support(settings),
      **_prior(settings),
      'unit': 'classes' if classes else 'deviations of the training tasks',
      **_trained_on(settings),
    },
    inputs=numbers(
      table.feature_names, scale.feature_mean, scale.feature_deviation
    )
    | {'task': settings.task_column},
    outputs=outputs,
    num_targets=2 if classes else len(table.target_names),
    digests=digests(splits),
  )
  one = len(table.target_names) == 1 and settings.rivals
  if not one:
    return Tables(data, None)
  with _blamed('train', recipe, training=False):
    tuning = tasks.table_tasks(
      scaled.train, recipe.shots, recipe.queries, classes=classes,
      support='first' if settings.order_column else 'random',
    )  # fmt: skip
  return Tables(data, known._replace(tuning=tuning))


def _support(settings: Any) -> str:
  if settings.order_column is None:
    return 'rows at random'
  return f'the first rows by {settings.order_column}, queries later'


def _prior(settings: Any) -> dict[str, str]:
  if settings.prior_column is None:
    return {}
  return {'learned': f'what {settings.prior_column} leaves'}


def _trained_on(settings: Any) -> dict[str, str]:
  if settings.train_on == 'table':
    return {}
  return {'trained_on': 'random functions'}


def _refuse_leaks(table: tasks.Table) -> None:
  """Refuses a feature that is a target, scaled and shifted."""
  for name, column in zip(table.feature_names, table.features.T, strict=True):
    for target, values in zip(table.target_names, table.targets.T, strict=True):
      if _is_line(column.astype(np.float64), values.astype(np.float64)):
        raise UsageError(
          'feature_columns',
          f'{name!r} says what the target {target!r} is in every row; leave it'
          ' out',
        )


def _is_line(one: np.ndarray, other: np.ndarray) -> bool:
  """Whether one is the other, scaled and shifted, but for rounding."""
  one, other = one - one.mean(), other - other.mean()
  norms = np.linalg.norm(one) * np.linalg.norm(other)
  return bool(norms and abs(one @ other) > (1 - _ROUNDING) * norms)


def _refuse_copies(splits: tasks.TableSplits) -> None:
  """Refuses a test task whose rows are those of a task of another split."""
  seen = dict[bytes, tuple[str, str]]()
  for split, part in zip(splits._fields, splits, strict=True):
    rows = np.concatenate([part.features, part.targets], axis=1)
    for place, task in enumerate(part.task_names):
      own = rows[part.tasks == place]
      if len(np.unique(own, axis=0)) < _BY_CHANCE:
        continue
      known = own[np.lexsort(own.T)].tobytes()
      before, of = seen.setdefault(known, (task, split))
      if of != split:
        raise UsageError(
          'data_file',
          f'task {task!r} of {split} has the rows of task {before!r} of {of},'
          ' so it would be no new one; leave one of them out, or give both one'
          ' name',
        )


def _samplers(
  settings: Any, recipe: Recipe, scaled: tasks.TableSplits, classes: bool
) -> dict[str, Any]:
  """Those of training, validation and test."""
  sizes = {
    'train': train_sizes(recipe),
    'validation': (recipe.shots, recipe.queries),
    'test': (recipe.shots, recipe.queries),
  }
  ordered = settings.order_column is not None
  samplers = {}
  for name, part in zip(scaled._fields, scaled, strict=True):
    support: Any = 'first' if ordered else 'random'
    if ordered and name == 'train':
      # More support sets than tasks, each with queries that come later.
      support = 'random' if classes else 'window'
    with _blamed(name, recipe, training=name == 'train'):
      samplers[name] = tasks.table_tasks(
        part, *sizes[name], support=support, classes=classes
      )
  return samplers


@contextlib.contextmanager
def _blamed(split: str, recipe: Recipe, *, training: bool) -> Iterator[None]:
  """Says which flags ask for what a split does not have."""
  try:
    yield
  except tasks.DataError as error:
    if not str(error).startswith('shots=') or ': ' not in str(error):
      raise UsageError(
        error.parameter or 'data_file', f'{error} (in the {split} split)'
      ) from error
    sizes_given, message = str(error).split(': ', 1)
    raise UsageError(
      as_flags(sizes_given, recipe, training),
      f'{message} (in the {split} split)',
    ) from error


def _known(
  settings: Any,
  table: tasks.Table,
  scaled: tasks.TableSplits,
  scale: tasks.Standardisation,
) -> Known:
  """What rivals know of the table, all standardised."""
  place, of_column = None, (1.0, 0.0)
  classes = settings.target_type == 'classes'
  if settings.prior_column is not None:
    name = normal_name(settings.prior_column)
    if name not in table.feature_names:
      raise UsageError(
        'prior_column',
        f'{name!r} is no feature; there are {", ".join(table.feature_names)}',
      )
    place = table.feature_names.index(name)
    if classes or len(table.target_names) > 1:
      raise UsageError(
        'prior_column', 'predicts one target that is a number; leave it out'
      )
    of_column = (
      float(scale.feature_deviation[place] / scale.target_deviation[0]),
      float(
        (scale.feature_mean[place] - scale.target_mean[0])
        / scale.target_deviation[0]
      ),
    )
  train = scaled.train
  targets = tasks.two_classes(train).targets if classes else train.targets
  return Known(
    Rows(train.features, targets[:, 0]),
    None,
    classes,
    place,
    settings.prior_column or '',
    of_column,
    1.0 if classes else float(scale.target_deviation[0]),
  )


def _left(part: tasks.Table, known: Known) -> tasks.Table:
  """What a column that is a prediction leaves of the target."""
  return part._replace(
    targets=part.targets - known.of_column(part.features)[:, None]
  )


def _synthetic(
  number: int, shots: int, queries: int, classes: bool
) -> jax.tree_util.Partial:
  try:
    return tasks.synthetic_tables(number, shots, queries, classes=classes)
  except ValueError as error:
    raise UsageError('shots', str(error)) from error


def _made_up(settings: Any, recipe: Recipe) -> Tables:
  """Tasks of random functions, without a file."""
  for name in _OF_A_FILE:
    if getattr(settings, name) != getattr(TableData, name):
      raise UsageError(name, 'is of a table; give it by --data_file, too')
  classes = settings.target_type == 'classes'
  number = settings.synthetic_features
  train: SampleTask = _synthetic(number, *train_sizes(recipe), classes)
  tested = _synthetic(number, recipe.shots, recipe.queries, classes)
  names = [f'x{place + 1}' for place in range(number)]
  known = None
  if settings.rivals:
    drawn = sample_tasks(train, jax.random.key(0), _MADE_UP).query
    known = Known(
      Rows(
        np.asarray(drawn.inputs).reshape(-1, number),
        np.asarray(drawn.targets).reshape(-1),
      ),
      train, classes, None, '', (1.0, 0.0), 1.0,
    )  # fmt: skip
  data = Data(
    train,
    tested,
    tested,
    {
      'targets': ['y'],
      'features': number,
      'functions': 'linear, network, tree, linear and tree',
      'unit': 'classes' if classes else 'deviations',
    },
    numbers(names),
    {} if classes else columns(['y']),
    2 if classes else 1,
  )
  return Tables(data, known)


def stem(settings: Any) -> str:
  """What a table is called in the names of runs."""
  return Path(settings.data_file).stem if settings.data_file else 'synthetic'
