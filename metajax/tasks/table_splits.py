"""Tables for training, validation and test, and the scale of their columns.

Tasks, not rows, are divided: what is tested is learning from the rows of a task
that was never seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metajax.tasks._table_files import listed
from metajax.tasks.errors import DataError
from metajax.tasks.splits import rank
from metajax.tasks.tables import Table

__all__ = [
  'Standardisation',
  'TableSplits',
  'split_table_by_seed',
  'standardise',
]


class TableSplits(NamedTuple):
  """Three tables of the same columns that share no task."""

  train: Table
  validation: Table
  test: Table


class Standardisation(NamedTuple):
  """What `standardise` subtracted, and then divided by."""

  feature_mean: np.ndarray  # float64 [features]
  feature_deviation: np.ndarray  # float64 [features]
  target_mean: np.ndarray  # float64 [targets]
  target_deviation: np.ndarray  # float64 [targets]


def split_table_by_seed(
  table: Table, seed: int, train: float = 0.6, validation: float = 0.2
) -> TableSplits:
  """Divides the tasks at random, the same way for the same seed.

  Tasks are ordered by the SHA-256 of the seed and their name, as
  `split_by_seed` orders classes: a split depends on nothing else.

  Args:
    table: with three tasks or more.
    seed: any integer.
    train: the fraction of the tasks to train on.
    validation: the fraction of the tasks for validation; the rest is for test.

  Returns:
    Tables whose numbers of tasks are the nearest to these fractions with one
    task or more in each. Their rows are in the order of `table`.

  Raises:
    DataError: if the fractions leave a part empty, or if there are fewer than
      three tasks.

  Example:
    >>> import numpy as np
    >>> rows = np.zeros((10, 1), np.float32)
    >>> names = tuple('abcde')
    >>> table = Table(rows, rows, np.arange(10) % 5, names, ('x',), ('y',))
    >>> [len(part.task_names) for part in split_table_by_seed(table, seed=0)]
    [3, 1, 1]
  """
  if not (train > 0 and validation > 0 and train + validation < 1):
    raise DataError(
      f'train={train} and validation={validation}: the fractions of tasks must'
      ' be above 0 and together below 1, which leaves the rest for test'
    )
  number = len(table.task_names)
  if number < 3:
    raise DataError(
      f'a table of {number} tasks ({listed(table.task_names)}) cannot be split'
      ' into training, validation and test; three tasks or more are needed'
    )
  trained = min(max(1, round(train * number)), number - 2)
  validated = min(max(1, round(validation * number)), number - trained - 1)
  order = sorted(
    range(number), key=lambda index: rank(seed, table.task_names[index])
  )
  return TableSplits(
    _take(table, order[:trained]),
    _take(table, order[trained : trained + validated]),
    _take(table, order[trained + validated :]),
  )


def standardise(splits: TableSplits) -> tuple[TableSplits, Standardisation]:
  r"""Gives every column a mean of 0 and a deviation of 1 over training rows.

  .. math:: x \mapsto (x - \mu) / \sigma

  Mean and deviation are those of the rows of the training tasks alone, so
  nothing is known of the others. A column that is constant there has a
  deviation of 1: it becomes 0, and what differs elsewhere keeps its unit.

  Args:
    splits: of `split_table_by_seed`.

  Returns:
    The same rows standardised, and what turns predictions back:
    `prediction * target_deviation + target_mean`.

  Example:
    >>> import numpy as np
    >>> def part(*values):
    ...   rows, tasks = np.float32(values)[:, None], np.zeros(len(values), int)
    ...   return Table(rows, 10 * rows, tasks, ('a',), ('x',), ('y',))
    >>> splits, statistics = standardise(
    ...   TableSplits(part(1, 3), part(2), part(5))
    ... )
    >>> splits.train.features[:, 0].tolist(), splits.test.targets.tolist()
    ([-1.0, 1.0], [[3.0]])
    >>> statistics.target_mean.tolist(), statistics.target_deviation.tolist()
    ([20.0], [10.0])
  """
  statistics = Standardisation(
    *_moments(splits.train.features), *_moments(splits.train.targets)
  )
  feature_mean, feature_deviation, target_mean, target_deviation = statistics

  def scaled(part: Table) -> Table:
    return part._replace(
      features=_scale(part.features, feature_mean, feature_deviation),
      targets=_scale(part.targets, target_mean, target_deviation),
    )

  return TableSplits(*map(scaled, splits)), statistics


def _take(table: Table, tasks: Sequence[int]) -> Table:
  """The rows of the given tasks alone, which are renumbered in this order."""
  renumber = np.full(len(table.task_names), -1, np.int32)
  renumber[np.asarray(tasks)] = np.arange(len(tasks), dtype=np.int32)
  renumbered = renumber[table.tasks]
  kept = renumbered >= 0
  return table._replace(
    features=table.features[kept],
    targets=table.targets[kept],
    tasks=renumbered[kept],
    order=None if table.order is None else table.order[kept],
    task_names=tuple(table.task_names[task] for task in tasks),
  )


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation of every column, with those of a constant one exact."""
  wide = rows.astype(np.float64)
  constant = np.all(wide == wide[:1], axis=0)
  mean = np.where(constant, wide[0], wide.mean(axis=0))
  return mean, np.where(constant, 1.0, wide.std(axis=0))


def _scale(
  rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
  scaled: np.ndarray = (rows.astype(np.float64) - mean) / deviation
  return scaled.astype(np.float32)
