"""Tables: regression from rows of a file, with a column that says the task.

Tasks, not rows, are divided between training, validation and test: what is
tested is learning from the rows of a task that was never seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Task
from metajax.equality import EqualPartial
from metajax.tasks._table_cells import Column, read_ids, read_numbers
from metajax.tasks._table_files import (
  TableFile,
  choose_columns,
  listed,
  open_table,
  refuse_repeated,
  unknown_column,
)
from metajax.tasks.errors import MAX_UNPACKED_MEBIBYTES, DataError, reason
from metajax.tasks.places import choose_without_replacement
from metajax.tasks.splits import rank

__all__ = [
  'Standardisation',
  'Table',
  'TableSplits',
  'load_columns',
  'load_table',
  'split_table_by_seed',
  'standardise',
  'table_tasks',
]


class Table(NamedTuple):
  """Rows of known tasks, on the host."""

  features: np.ndarray  # float32 [rows, features]
  targets: np.ndarray  # float32 [rows, targets]
  tasks: np.ndarray  # int32 [rows], indices into `task_names`
  task_names: tuple[str, ...]  # one per task
  feature_names: tuple[str, ...]  # one per column of `features`
  target_names: tuple[str, ...]  # one per column of `targets`


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


def load_table(
  path: str | Path,
  task_column: str = 'task',
  target_columns: str | Sequence[str] = ('y',),
  feature_columns: Sequence[str] | None = None,
  *,
  max_unpacked_mebibytes: int = MAX_UNPACKED_MEBIBYTES,
) -> Table:
  r"""Reads a CSV or Parquet file of numbers, and of ids of tasks.

  Both files of the same cells give the same table. Booleans, and text that is
  `true` or `false`, are 1 and 0. Blanks around names, ids and numbers do not
  count. An id is text or an integer; 1 and the text `1` are the same, for CSV
  does not tell them apart, but `01` is another.

  Args:
    path: a file that ends in `.csv` (in UTF-8, with commas and a line of names)
      or in `.parquet`.
    task_column: the column of ids. Rows of a task need not be neighbours.
    target_columns: what is to be predicted, one column or several.
    feature_columns: what it is predicted from; by default all other columns
      that have a name and are not the index of pandas.
    max_unpacked_mebibytes: refuse a Parquet file that unpacks to more than
      this, and to more than it has itself.

  Returns:
    The rows in the order of the file. Tasks are in order of size where all ids
    are integers, and in that of their characters otherwise.

  Raises:
    DataError: if the file is missing, neither CSV nor Parquet, damaged, empty
      or too large; if columns are missing, named twice, or asked for twice, or
      no feature is left; if a cell is no finite number, or no id; or if a
      column is so far from 0 that 32 bits lose what varies in it.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = pathlib.Path(directory, 'rain.csv')
    ...   _ = path.write_text('task,x,y\nRome,1,2.5\nOslo,0,3\n')
    ...   table = load_table(path)
    >>> table.features.tolist(), table.targets.tolist()
    ([[1.0], [0.0]], [[2.5], [3.0]])
    >>> table.tasks.tolist(), table.task_names
    ([1, 0], ('Oslo', 'Rome'))
  """
  file = open_table(path, max_unpacked_mebibytes)
  if isinstance(target_columns, str):
    target_columns = (target_columns,)
  task, targets, features = choose_columns(
    file, task_column, target_columns, feature_columns
  )
  wanted = [file.names.index(name) for name in (task, *targets, *features)]
  ids, *numbers = (
    Column(file, file.names[place], values)
    for place, values in zip(wanted, _read(file, wanted), strict=True)
  )
  tasks, task_names = read_ids(ids)
  columns = np.stack([read_numbers(column) for column in numbers], axis=1)
  return Table(
    np.ascontiguousarray(columns[:, len(targets) :]),
    np.ascontiguousarray(columns[:, : len(targets)]),
    tasks,
    task_names,
    features,
    targets,
  )


def load_columns(
  path: str | Path,
  columns: Sequence[str],
  task_column: str | None = None,
  *,
  max_unpacked_mebibytes: int = MAX_UNPACKED_MEBIBYTES,
) -> tuple[np.ndarray, tuple[str, ...]]:
  r"""Reads columns of numbers of a CSV or Parquet file.

  Args:
    path: of the file, as for `load_table`.
    columns: their names; others are not read.
    task_column: says which task a row is of, where the file has it.
    max_unpacked_mebibytes: as for `load_table`.

  Returns:
    float32 `[rows, columns]`, in the order of the names; and the names of the
    tasks, none where no column says them.

  Raises:
    DataError: as `load_table`.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = pathlib.Path(directory, 'rain.csv')
    ...   _ = path.write_text('x,where,y\n1,Rome,2.5\n0,Oslo,3\n')
    ...   rows, names = load_columns(path, ['y', 'x'], 'where')
    >>> rows.tolist(), names
    ([[2.5, 1.0], [3.0, 0.0]], ('Oslo', 'Rome'))
  """
  file = open_table(path, max_unpacked_mebibytes)
  refuse_repeated(file.path, file.names)
  for name in columns:
    if name not in file.names:
      raise unknown_column(file.path, file.names, name, 'columns')
  given = [task_column] if task_column in file.names else []
  wanted = [file.names.index(name) for name in (*columns, *given)]
  read = [
    Column(file, file.names[place], values)
    for place, values in zip(wanted, _read(file, wanted), strict=True)
  ]
  names = read_ids(read.pop())[1] if given else ()
  numbers = [read_numbers(column, blurred=True) for column in read]
  return np.stack(numbers, axis=1), names


def _read(file: TableFile, wanted: Sequence[int]) -> list[Any]:
  """Columns that have rows."""
  try:
    read = file.read(wanted)
  except DataError:
    raise
  except Exception as error:  # Whatever the parsers make of damaged bytes.
    raise DataError(
      f'{file.path}: cannot be read ({reason(error)}); is it damaged?'
    ) from error
  if not len(read[0]):
    raise DataError(f'{file.path}: there are names of columns, but no rows')
  return read


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


def table_tasks(part: Table, shots: int, queries: int) -> jax.tree_util.Partial:
  """Makes a table a distribution of regression tasks.

  A task is drawn uniformly, however many rows it has, and then rows of it
  without replacement: none is both in the support set and a query.

  Args:
    part: the rows, such as one of `split_table_by_seed`.
    shots: rows of the support set.
    queries: other rows of the same task, to be predicted.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the rows. Inputs
    are float32 `[rows, features]`, targets `[rows, targets]`.

  Raises:
    DataError: if a count is not positive, or more than a task has rows.

  Example:
    >>> import jax, numpy as np
    >>> rows = np.zeros((20, 3), np.float32)
    >>> table = Table(
    ...   rows, rows[:, :1], np.arange(20) % 2, ('a', 'b'), tuple('uvw'), ('y',)
    ... )
    >>> task = table_tasks(table, shots=4, queries=5)(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((4, 3), (5, 1))
  """
  for name, value in (('shots', shots), ('queries', queries)):
    if value < 1:
      raise DataError(f'{name}={value}: must be 1 or more')
  counts = np.bincount(part.tasks, minlength=len(part.task_names))
  if not len(counts):
    raise DataError('there is no task to draw rows of; the table is empty')
  short = np.flatnonzero(counts < shots + queries)
  if len(short):
    least = short[np.argmin(counts[short])]
    others = f' (and {len(short) - 1} more have too few)'
    raise DataError(
      f'shots={shots} and queries={queries}: task {part.task_names[least]!r}'
      f' has {counts[least]} rows{others if len(short) > 1 else ""}, but'
      f' {shots + queries} are needed; ask for fewer, or leave such tasks out'
    )
  order = np.argsort(part.tasks, kind='stable')
  return jax.tree_util.Partial(
    EqualPartial(_sample, shots, queries),
    jnp.asarray(part.features[order]),
    jnp.asarray(part.targets[order]),
    jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
    jnp.asarray(counts, jnp.int32),
  )


def _sample(
  shots: int,
  queries: int,
  features: jax.Array,
  targets: jax.Array,
  starts: jax.Array,  # rows of a task lie together: its first one
  counts: jax.Array,
  key: jax.Array,
) -> Task:
  task_key, row_key = jax.random.split(key)
  task = jax.random.randint(task_key, (), 0, len(counts))
  chosen = choose_without_replacement(row_key, counts[task], shots + queries)
  rows = starts[task] + chosen
  inputs, outputs = features[rows], targets[rows]
  return Task(
    Batch(inputs[:shots], outputs[:shots]),
    Batch(inputs[shots:], outputs[shots:]),
  )


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
