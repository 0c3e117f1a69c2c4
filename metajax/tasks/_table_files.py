"""The files of tables: columns of CSV and Parquet, and numbers and ids in them.

CSV is read as text alone, and cells become numbers or ids by the same rules as
text in Parquet does, so both files give the same table. Blanks around text
(names of columns, ids, numbers) do not count. Row numbers are those that a
person finds in the file: in CSV the line, where the header is usually 1; in
Parquet the row, from 1.
"""

import csv
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks.labelled import DataError, reason

__all__ = ['Column', 'TableFile', 'open_table', 'read_ids', 'read_numbers']

_ENDINGS = ('.csv', '.parquet')
# Text that stands for no number. No id is among them but the empty one: NA is
# a country.
_MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none')
_DIGITS = re.compile(r'[+-]?\d+')
_INTEGER = re.compile(r'0|-?[1-9]\d*')
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)


class TableFile(NamedTuple):
  """A file whose columns have been listed, but not read."""

  path: Path
  names: tuple[str, ...]  # of all columns, as the file has them but for blanks
  # The columns at these places: of pyarrow, chunked.
  read: Callable[[Sequence[int]], list[Any]]
  row_number: Callable[[int], int]  # of the row of this index, for messages


class Column(NamedTuple):
  """A column that has been read."""

  file: TableFile
  name: str
  values: Any  # a chunked array of pyarrow

  def at(self, index: int) -> str:
    """Names a cell; how a message begins."""
    row = self.file.row_number(index)
    return f'{self.file.path}, row {row}, column {self.name!r}'


def open_table(path: str | Path) -> TableFile:
  """Lists the columns of a file, by the ending of its name.

  Raises:
    DataError: if there is no such file, if it is neither CSV nor Parquet, or if
      it is damaged.
  """
  path = Path(path).expanduser()
  if not path.is_file():
    raise DataError(f'{path}: there is no such file; check the path')
  ending = path.suffix.lower()
  if ending not in _ENDINGS:
    raise DataError(
      f'{path}: a table is a file that ends in {" or ".join(_ENDINGS)}, and'
      f' this one ends in {path.suffix!r}; save it as one of these'
    )
  try:
    return _open_csv(path) if ending == '.csv' else _open_parquet(path)
  except DataError:
    raise
  except Exception as error:  # Whatever the parsers make of damaged bytes.
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error


def _open_csv(path: Path) -> TableFile:
  with path.open(encoding='utf-8-sig', newline='') as file:
    lines = csv.reader(file)
    header = next((row for row in lines if row), None)
    skipped = lines.line_num
  if header is None:
    raise DataError(f'{path}: the file is empty; it needs a line of names')
  width = len(header)
  if width == 1 and any(other in header[0] for other in ';\t'):
    raise DataError(
      f'{path}: the first line is {header[0]!r}; separate names and cells by'
      ' commas'
    )

  def read(places: Sequence[int]) -> list[Any]:
    import pyarrow
    import pyarrow.csv

    names = [str(place) for place in range(width)]
    try:
      table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(
          column_names=names, skip_rows=skipped
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
          column_types={name: pyarrow.string() for name in names},
          include_columns=[names[place] for place in places],
        ),
      )
    except pyarrow.ArrowInvalid as error:
      if path.stat().st_size and str(error).startswith('Empty CSV'):
        return [pyarrow.chunked_array([], pyarrow.string()) for _ in places]
      raise _ragged(path, width) or error from error
    return list(table.columns)

  return TableFile(
    path,
    tuple(name.strip() for name in header),
    read,
    lambda index: _line_of(path, index),
  )


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
  for number, (line, _) in enumerate(_rows_of(path)):
    if number == index:
      return int(line)
  raise ValueError(f'{path} has no row {index}')


def _ragged(path: Path, width: int) -> DataError | None:
  for line, row in _rows_of(path):
    if len(row) != width:
      return DataError(
        f'{path}, row {line}: the row has {len(row)} cells, but the header has'
        f' {width}; separate cells by commas, and quote those that hold one'
      )
  return None


def _open_parquet(path: Path) -> TableFile:
  import pyarrow.parquet

  file = pyarrow.parquet.ParquetFile(path)
  names = tuple(name.strip() for name in file.schema_arrow.names)

  def read(places: Sequence[int]) -> list[Any]:
    # All of them: a choice by name goes wrong where a name has a dot.
    table = file.read()
    return [table.column(place) for place in places]

  return TableFile(path, names, read, lambda index: index + 1)


def read_numbers(column: Column) -> np.ndarray:
  """The numbers of a column, float32 `[rows]`.

  Raises:
    DataError: names the first cell that is none, or not finite.
  """
  import pyarrow

  values = _plain(column.values)
  kind = values.type
  _refuse_nulls(column, values)
  if _is_text(kind) or pyarrow.types.is_decimal(kind):
    # Decimals as text too: pyarrow does not round them to the nearest.
    numbers = _parse(column, values.cast(pyarrow.string()))
  elif (
    pyarrow.types.is_boolean(kind)
    or pyarrow.types.is_integer(kind)
    or pyarrow.types.is_floating(kind)
  ):
    numbers = values.cast(pyarrow.float64(), safe=False).to_numpy()
  else:
    raise DataError(
      f'{column.file.path}, column {column.name!r}: its type {kind} is not'
      ' numeric; allowed are integers, floating-point numbers, decimals,'
      ' booleans and text of them; convert the column or leave it out'
    )
  with np.errstate(over='ignore'):
    single: np.ndarray = np.asarray(numbers, np.float64).astype(np.float32)
  bad = np.flatnonzero(~np.isfinite(single))
  if len(bad):
    value = float(numbers[bad[0]])
    what = 'NaN' if np.isnan(value) else 'infinite'
    if np.isfinite(value):
      what = f'{value}, which is infinite in 32 bits'
    raise DataError(
      f'{column.at(bad[0])}: the cell is {what}; a table has finite numbers'
      ' only, so mend the cell or leave its row out'
    )
  return single


def _plain(values: Any) -> Any:
  """The values themselves where they are given by a dictionary."""
  import pyarrow

  if pyarrow.types.is_dictionary(values.type):
    return values.cast(values.type.value_type)
  return values


def _is_text(kind: Any) -> bool:
  import pyarrow

  return bool(
    pyarrow.types.is_string(kind)
    or pyarrow.types.is_large_string(kind)
    or pyarrow.types.is_string_view(kind)
  )


def _refuse_nulls(column: Column, values: Any) -> None:
  if values.null_count:
    raise _missing(column, int(np.argmax(values.is_null().to_numpy())))


def _missing(column: Column, index: int, text: str = '') -> DataError:
  return DataError(
    f'{column.at(index)}: the cell is missing{text and f" ({text!r})"}; fill it'
    ' in, or leave its row out'
  )


def _parse(column: Column, text: Any) -> np.ndarray:
  """Text as numbers, or as truth values where a column has nothing else."""
  import pyarrow
  import pyarrow.compute

  text = pyarrow.compute.utf8_trim_whitespace(text)
  lower = pyarrow.compute.utf8_lower(text)

  def is_in(words: Sequence[str]) -> np.ndarray:
    among: np.ndarray = pyarrow.compute.is_in(
      lower, pyarrow.array(words, pyarrow.string())
    ).to_numpy()
    return among

  missing = is_in(_MISSING)
  if missing.any():
    index = int(np.argmax(missing))
    raise _missing(column, index, text[index].as_py())
  if is_in(('true', 'false')).all():
    return is_in(('true',)).astype(np.float64)
  try:
    numbers: np.ndarray = text.cast(pyarrow.float64()).to_numpy()
  except pyarrow.ArrowInvalid:
    for index, cell in enumerate(text.to_pylist()):
      if not _NUMBER.fullmatch(cell):
        raise DataError(
          f'{column.at(index)}: {cell!r} is not a number; mend the cell, or'
          ' leave the column out'
        ) from None
    raise
  return numbers


def read_ids(column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
  """The ids of a column: int32 `[rows]`, and what they are indices into.

  An id is text or an integer, and 1 is the same as the text of it, for CSV does
  not tell them apart; but `01` is another. Numbers with a fraction of zero, as
  libraries write integers beside missing cells, are integers. Ids that are all
  integers are in order of size, others in that of their characters.

  Raises:
    DataError: names the first cell that is missing, or has a fraction.
  """
  import pyarrow
  import pyarrow.compute

  values = _plain(column.values)
  kind = values.type
  _refuse_nulls(column, values)
  if pyarrow.types.is_floating(kind):
    numbers = values.cast(pyarrow.float64()).to_numpy().tolist()
    values = pyarrow.array(map(repr, numbers), pyarrow.string())
  elif not (
    _is_text(kind)
    or pyarrow.types.is_integer(kind)
    or pyarrow.types.is_decimal(kind)
  ):
    raise DataError(
      f'{column.file.path}, column {column.name!r}: its type {kind} is not one'
      ' of task ids; allowed are text and integers; convert the column'
    )
  text = pyarrow.compute.utf8_trim_whitespace(values.cast(pyarrow.string()))
  unique, places = np.unique(text.to_numpy(False), return_inverse=True)
  ids = unique.tolist()

  def first(place: int) -> int:
    return int(np.argmax(places == place))

  numeric = pyarrow.types.is_floating(kind) or all(map(_NUMBER.fullmatch, ids))
  for place, name in enumerate(ids):
    if name in ('', 'nan') if numeric else not name:
      raise _missing(column, first(place), name)
  if numeric and not all(map(_DIGITS.fullmatch, ids)):
    fractions = [place for place, name in enumerate(ids) if not _is_whole(name)]
    if fractions:
      index = min(map(first, fractions))
      name = ids[places[index]]
      raise DataError(
        f'{column.at(index)}: {name} is no task id, which is text or an'
        f" integer; round it, or write it as text such as 't{name}'"
      )
    ids = [str(int(Decimal(name))) for name in ids]
  by_size = all(map(_INTEGER.fullmatch, ids))
  names = sorted(set(ids), key=int if by_size else None)
  numbers = {name: number for number, name in enumerate(names)}
  return (
    np.asarray([numbers[name] for name in ids], np.int32)[places],
    tuple(names),
  )


def _is_whole(text: str) -> bool:
  if not math.isfinite(float(text)):
    return False
  number = Decimal(text)
  return number == number.to_integral_value()
