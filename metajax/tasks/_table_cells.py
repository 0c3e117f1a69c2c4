"""The cells of a table: numbers, and ids of tasks.

Text becomes numbers or ids by the same rules in CSV, where all is text, and in
Parquet. Blanks around it do not count.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks._table_files import TableFile
from metajax.tasks.errors import DataError
from metajax.tasks.names import normal_name

__all__ = ['Column', 'read_ids', 'read_numbers', 'read_order']

# Text that stands for no number. No id is among them but the empty one: NA is
# a country.
_MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none')
# Of a column's range, by which its values may be rounded.
_BLURRED = 1e-4
_DIGITS = re.compile(r'[+-]?\d+')
_INTEGER = re.compile(r'0|-?[1-9]\d*')
# Dates, with or without a time of day, sort as their characters do.
_DATE = re.compile(r'\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?')
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)


# How a message about a cell that is no number goes on, of a feature and of a
# target.
_LEFT_OUT = ', or leave the column out'
_OF_A_TARGET = (
  ', or, where a target is one of two classes, write one of them as 1 and the'
  ' other as 0'
)


class Column(NamedTuple):
  """A column that has been read."""

  file: TableFile
  name: str
  values: Any  # a chunked array of pyarrow

  def at(self, index: int) -> str:
    """Names a cell; how a message begins."""
    row = self.file.row_number(index)
    return f'{self.file.path}, row {row}, column {self.name!r}'


def read_numbers(
  column: Column, *, blurred: bool = False, target: bool = False
) -> np.ndarray:
  """The numbers of a column, float32 `[rows]`.

  Args:
    column: that has been read.
    blurred: whether rounding to 32 bits may lose what varies, as in a few rows
      of a table the others of which are not here.
    target: whether it is what is to be predicted, and cannot be left out.

  Raises:
    DataError: names the first cell that is none, or not finite; or if values
      are so far from 0 that 32 bits lose what varies.
  """
  numbers = _read(column, otherwise=_OF_A_TARGET if target else _LEFT_OUT)
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
  if not blurred:
    _refuse_blurred(column, np.asarray(numbers, np.float64), single)
  return single


def read_order(column: Column) -> np.ndarray:
  """Which row comes before which: int32 ranks `[rows]`, equal where these are.

  Raises:
    DataError: names the first cell that is neither number nor date; or if all
      are equal.
  """
  import pyarrow

  values = _plain(column.values)
  _refuse_nulls(column, values)
  kind = values.type
  if pyarrow.types.is_temporal(kind):
    width = pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()
    keys = values.cast(width).to_numpy()
  elif _is_text(kind) and _DATE.fullmatch(str(values[0]).strip()):
    keys = np.asarray([str(cell).strip() for cell in values.to_pylist()])
    fits = [_DATE.fullmatch(key) and len(key) == len(keys[0]) for key in keys]
    if not all(fits):
      index = fits.index(next(fit for fit in fits if not fit))
      raise DataError(
        f'{column.at(index)}: {keys[index][:40]!r} cannot be sorted among dates'
        f' such as {keys[0]!r}; write all in one form, or as numbers'
      )
  else:
    keys = np.asarray(_read(column, 'be sorted'), np.float64)
    if (bad := np.flatnonzero(~np.isfinite(keys))).size:
      raise DataError(
        f'{column.at(bad[0])}: {keys[bad[0]]} cannot be sorted; mend the cell'
      )
  different, ranks = np.unique(keys, return_inverse=True)
  if len(different) == 1 < len(keys):
    raise DataError(
      f'{column.at(0)}: all rows have {str(keys[0])[:40]} here, which says'
      ' nothing of their order; name another column, or leave it out'
    )
  return ranks.astype(np.int32)


def _read(column: Column, wanted: str = '', otherwise: str = '') -> np.ndarray:
  """The numbers of a column as they are."""
  import pyarrow

  values = _plain(column.values)
  kind = values.type
  _refuse_nulls(column, values)
  if _is_text(kind) or pyarrow.types.is_decimal(kind):
    # Decimals as text too: pyarrow does not round them to the nearest.
    return _parse(column, values.cast(pyarrow.string()), wanted, otherwise)
  if (
    pyarrow.types.is_boolean(kind)
    or pyarrow.types.is_integer(kind)
    or pyarrow.types.is_floating(kind)
  ):
    numbers: np.ndarray = values.cast(pyarrow.float64(), safe=False).to_numpy()
    return numbers
  raise DataError(
    f'{column.file.path}, column {column.name!r}: its type {kind} is not'
    ' numeric; allowed are integers, floating-point numbers, decimals,'
    ' booleans and text of them; convert the column or leave it out'
  )


def _refuse_blurred(
  column: Column, numbers: np.ndarray, single: np.ndarray
) -> None:
  """Such as times: far from 0, so that rounding loses what varies."""
  least, most = numbers.min(), numbers.max()
  error = np.abs(numbers - single).max()
  if error > _BLURRED * (most - least) > 0:
    raise DataError(
      f'{column.file.path}, column {column.name!r}: values go from {least} to'
      f' {most}, and 32 bits round them by up to {error:.2g}; subtract one of'
      ' them from all'
    )


def _plain(values: Any) -> Any:
  """The values themselves where they are given by a dictionary."""
  import pyarrow

  if pyarrow.types.is_dictionary(values.type):
    return values.cast(values.type.value_type)
  return values


def _is_text(kind: Any) -> bool:
  # By name, for older versions of pyarrow do not know the last.
  return str(kind) in ('string', 'large_string', 'string_view')


def _refuse_nulls(column: Column, values: Any) -> None:
  if values.null_count:
    raise _missing(column, int(np.argmax(values.is_null().to_numpy())))


def _missing(column: Column, index: int, text: str = '') -> DataError:
  return DataError(
    f'{column.at(index)}: the cell is missing{text and f" ({text!r})"}; fill it'
    ' in, or leave its row out'
  )


def _parse(
  column: Column, text: Any, wanted: str, otherwise: str
) -> np.ndarray:
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
      if not _NUMBER.fullmatch(cell) and wanted:
        raise DataError(
          f'{column.at(index)}: {cell[:40]!r} is neither a number nor a date'
          f' such as 2026-01-31, and cannot {wanted}; mend the cell'
        ) from None
      if not _NUMBER.fullmatch(cell):
        raise DataError(
          f'{column.at(index)}: {cell[:40]!r} is not a number; mend the cell',
          in_training=otherwise,
        ) from None
    raise
  return numbers


def read_ids(column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
  """The ids of a column: int32 `[rows]`, and what they are indices into.

  An id is text, in one spelling (`names.normal_name`), or an integer, and 1 is
  the same as the text of it, for CSV does not tell them apart; but `01` is
  another. Numbers with a fraction of zero, as libraries write integers beside
  missing cells, are integers. Ids that are all integers are in order of size,
  others in that of their characters.

  Raises:
    DataError: names the first cell that is missing, or has a fraction.
  """
  import pyarrow

  values = _plain(column.values)
  kind = values.type
  _refuse_nulls(column, values)
  if pyarrow.types.is_floating(kind):
    numbers = values.cast(pyarrow.float64()).to_numpy().tolist()
    values = pyarrow.chunked_array([list(map(repr, numbers))])
  elif not (
    _is_text(kind)
    or pyarrow.types.is_integer(kind)
    or pyarrow.types.is_decimal(kind)
  ):
    raise DataError(
      f'{column.file.path}, column {column.name!r}: its type {kind} is not one'
      ' of task ids; allowed are text and integers; convert the column'
    )
  text = values.cast(pyarrow.string())
  encoded = text.combine_chunks().dictionary_encode()
  ids = [normal_name(name) for name in encoded.dictionary.to_pylist()]
  places = encoded.indices.to_numpy()

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
