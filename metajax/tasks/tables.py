"""Tables: rows of a file, with a column that says which task a row is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks._table_cells import (
  Column,
  read_ids,
  read_numbers,
  read_order,
)
from metajax.tasks._table_files import (
  TableFile,
  choose_columns,
  open_table,
  refuse_repeated,
  unknown_column,
)
from metajax.tasks.errors import MAX_UNPACKED_MEBIBYTES, DataError, reason

__all__ = [
  'Table',
  'load_columns',
  'load_table',
]


class Table(NamedTuple):
  """Rows of known tasks, on the host."""

  features: np.ndarray  # float32 [rows, features]
  targets: np.ndarray  # float32 [rows, targets]
  tasks: np.ndarray  # int32 [rows], indices into `task_names`
  task_names: tuple[str, ...]  # one per task
  feature_names: tuple[str, ...]  # one per column of `features`
  target_names: tuple[str, ...]  # one per column of `targets`
  # int32 [rows], which row of all comes before which; None: nothing says it.
  order: np.ndarray | None = None


def load_table(
  path: str | Path,
  task_column: str = 'task',
  target_columns: str | Sequence[str] = ('y',),
  feature_columns: Sequence[str] | None = None,
  *,
  order_column: str | None = None,
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
    order_column: says which row comes before which, such as a time: numbers,
      or dates of one length such as 2026-01-31. Equal ones are in the order of
      the file. It is no feature.
    max_unpacked_mebibytes: refuse a Parquet file that unpacks to more than
      this, and to more than it has itself.

  Returns:
    The rows in the order of the file. Tasks are in order of size where all ids
    are integers, and in that of their characters otherwise.

  Raises:
    DataError: if the file is missing, neither CSV nor Parquet, damaged, empty
      or too large; if columns are missing, named twice, or asked for twice, or
      no feature is left; if a cell is no finite number, or no id; or if a
      column is so far from 0 that 32 bits lose what varies in it; or if
      what is to say the order cannot be sorted.

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
  task, targets, features, order = choose_columns(
    file, task_column, target_columns, feature_columns, order_column
  )
  wanted = [
    file.names.index(name) for name in (task, *order, *targets, *features)
  ]
  ids, *numbers = (
    Column(file, file.names[place], values)
    for place, values in zip(wanted, _read(file, wanted), strict=True)
  )
  ranks = read_order(numbers.pop(0)) if order else None
  tasks, task_names = read_ids(ids)
  columns = np.stack(
    [
      read_numbers(column, target=place < len(targets))
      for place, column in enumerate(numbers)
    ],
    axis=1,
  )
  return Table(
    np.ascontiguousarray(columns[:, len(targets) :]),
    np.ascontiguousarray(columns[:, : len(targets)]),
    tasks,
    task_names,
    features,
    targets,
    ranks,
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
