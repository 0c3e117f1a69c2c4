"""The files of tables: which columns they have, and reading them.

CSV is read as text alone. Row numbers are those that a person finds in the
file: in CSV the line, where the header is usually 1; in Parquet the row, from
1. Blanks around the names of columns do not count.
"""

import contextlib
import csv
import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metajax.tasks.errors import DataError, check_file, check_unpacked, reason
from metajax.tasks.names import normal_name

__all__ = [
  'TableFile',
  'check_header',
  'choose_columns',
  'listed',
  'open_table',
  'refuse_repeated',
  'unknown_column',
]

_ENDINGS = ('.csv', '.parquet')
_PANDAS_INDEX = '__index_level_'


class TableFile(NamedTuple):
  """A file whose columns have been listed, but not read."""

  path: Path
  names: tuple[str, ...]  # of all columns, each in one spelling
  # The columns at these places: of pyarrow, chunked.
  read: Callable[[Sequence[int]], list[Any]]
  row_number: Callable[[int], int]  # of the row of this index, for messages


def open_table(path: str | Path, max_unpacked_mebibytes: int) -> TableFile:
  """Lists the columns of a file, by the ending of its name.

  Raises:
    DataError: if there is no such file, if it is a directory, or neither CSV
      nor Parquet, or if it is damaged or too large.
  """
  path = Path(path).expanduser()
  check_file(path, f'that ends in {" or ".join(_ENDINGS)}')
  ending = path.suffix.lower()
  if ending not in _ENDINGS:
    raise DataError(
      f'{path}: a table is a file that ends in {" or ".join(_ENDINGS)}, and'
      f' this one ends in {path.suffix!r}; save it as one of these'
    )
  try:
    if ending == '.csv':
      return _open_csv(path)
    return _open_parquet(path, max_unpacked_mebibytes)
  except DataError:
    raise
  except Exception as error:  # Whatever the parsers make of damaged bytes.
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error


def _open_csv(path: Path) -> TableFile:
  with path.open(encoding='utf-8-sig', newline='') as file:
    lines = csv.reader(file)
    header = next((row for row in lines if row), None)
    skipped = lines.line_num
  names = check_header(path, header)
  width = len(names)

  def read(places: Sequence[int]) -> list[Any]:
    import pyarrow
    import pyarrow.csv

    columns = [str(place) for place in range(width)]
    try:
      table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(
          column_names=columns, skip_rows=skipped
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
          column_types={name: pyarrow.string() for name in columns},
          include_columns=[columns[place] for place in places],
        ),
      )
    except pyarrow.ArrowInvalid as error:
      if path.stat().st_size and str(error).startswith('Empty CSV'):
        return [pyarrow.chunked_array([], pyarrow.string()) for _ in places]
      raise _ragged(path, width) or error from error
    return list(table.columns)

  return TableFile(
    path,
    names,
    read,
    lambda index: _line_of(path, index),
  )


def check_header(path: Path, header: Sequence[str] | None) -> tuple[str, ...]:
  """The names of the columns of a CSV file, in one spelling.

  Raises:
    DataError: if there is no header, or one of another separator.
  """
  if header is None:
    raise DataError(f'{path}: the file is empty; it needs a line of names')
  if len(header) == 1 and any(other in header[0] for other in ';\t'):
    raise DataError(
      f'{path}: the first line is {header[0][:80]!r}; separate names and'
      ' cells by commas'
    )
  return tuple(map(normal_name, header))


def _rows_of(path: Path) -> Any:
  """Line number and cells of every row of a CSV file but its header."""
  with path.open(encoding='utf-8-sig', newline='', errors='replace') as file:
    lines = csv.reader(file)
    before, header = 0, True
    for row in lines:
      if row and not header:
        yield before + 1, row
      header = header and not row
      before = lines.line_num


def _line_of(path: Path, index: int) -> int:
  """Reads the file again, since only Python's reader counts lines."""
  # It refuses very long cells; without those there is a row in every line.
  with contextlib.suppress(csv.Error):
    for number, (line, _) in enumerate(_rows_of(path)):
      if number == index:
        return int(line)
  return index + 2


def _ragged(path: Path, width: int) -> DataError | None:
  for line, row in _rows_of(path):
    if len(row) != width:
      return DataError(
        f'{path}, row {line}: the row has {len(row)} cells, but the header has'
        f' {width}; separate cells by commas, and quote those that hold one'
      )
  return None


def _open_parquet(path: Path, most: int) -> TableFile:
  import pyarrow.parquet

  file = pyarrow.parquet.ParquetFile(path)
  cells = file.metadata.num_rows * file.metadata.num_columns
  check_unpacked(path, 4 * cells, most)  # at least: a number each
  names = tuple(map(normal_name, file.schema_arrow.names))

  def read(places: Sequence[int]) -> list[Any]:
    # All of them: a choice by name goes wrong where a name has a dot.
    table = file.read()
    return [table.column(place) for place in places]

  return TableFile(path, names, read, lambda index: index + 1)


def choose_columns(
  file: TableFile,
  task_column: str,
  target_columns: Sequence[str],
  feature_columns: Sequence[str] | None,
  order_column: str | None = None,
) -> tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
  """The names of the task's column, of targets, features, and of the order."""
  path = file.path
  task = normal_name(task_column)
  targets = tuple(map(normal_name, target_columns))
  order = () if order_column is None else (normal_name(order_column),)
  if not targets:
    raise DataError(
      'target_columns is empty; name one column or more that is to be'
      ' predicted',
      parameter='target_columns',
    )
  refuse_repeated(path, file.names)
  if feature_columns is None:
    features = tuple(
      name
      for name in file.names
      if name
      and name not in (task, *targets, *order)
      and not name.startswith(_PANDAS_INDEX)
    )
  else:
    features = tuple(map(normal_name, feature_columns))
  asked = {
    'task_column': (task,),
    'target_columns': targets,
    'feature_columns': features,
    'order_column': order,
  }
  uses = Counter[str]()
  for parameter, names in asked.items():
    for name in names:
      if not name or name not in file.names:
        raise unknown_column(path, file.names, name, parameter)
    uses.update(names)
    repeated = [name for name in names if uses[name] > 1]
    if repeated:
      twice = repeated[0]
      raise DataError(
        f'{path}: column {twice!r} is asked for {uses[twice]} times, and may'
        ' be one of task, target, feature and order, once; got'
        f' task_column={task!r}, target_columns={list(targets)},'
        f' feature_columns={list(features)}'
        + (f', order_column={order[0]!r}' if order else ''),
        parameter,
      )
  if not features:
    raise DataError(
      f'{path}: no feature is left beside the task {task!r} and the targets'
      f' {listed(targets)}; the columns are {listed(file.names)}'
    )
  return task, targets, features, order


def refuse_repeated(path: Path, names: Sequence[str]) -> None:
  """Refuses columns of one name."""
  repeated = [name for name, n in Counter(names).items() if name and n > 1]
  if repeated:
    raise DataError(
      f'{path}: there are several columns of the name'
      f' {listed(repeated)}; give every column a name of its own'
    )


def unknown_column(
  path: Path, names: Sequence[str], name: str, parameter: str
) -> DataError:
  """What is wrong with a column that is not there, and which is near."""
  lower = {known.lower(): known for known in reversed(names) if known}
  near = difflib.get_close_matches(name.lower(), lower)
  hint = f'; did you mean {lower[near[0]]!r}?' if near else ';'
  return DataError(
    f'{path}: there is no column {name!r}{hint} the columns are'
    f' {listed(names)}',
    parameter,
  )


def listed(names: Sequence[str]) -> str:
  """Names as they stand in a message."""
  return ', '.join(repr(name[:80]) for name in names) or 'none'
