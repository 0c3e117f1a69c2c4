"""The files of texts: rows of a text and a label, of CSV, JSON and JSON lines.

Row numbers are those that a person finds in the file: the line where the row
begins, in CSV where the header is usually 1.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from metajax.tasks._table_files import (
  check_header,
  refuse_repeated,
  unknown_column,
)
from metajax.tasks.errors import DataError, check_file, reason
from metajax.tasks.names import normal_name

__all__ = [
  'MAX_CHARACTERS',
  'Row',
  'label_of',
  'read_csv',
  'read_json',
  'read_jsonl',
  'read_lines',
  'refuse_halves',
]

# Of a text. More is what follows a quotation mark that nobody has closed.
MAX_CHARACTERS = 2**17

_OPEN_QUOTE = (
  'is a quotation mark not closed? A cell that holds commas, line breaks or'
  ' quotation marks is quoted, with each mark in it doubled'
)


_SHOWN = ('a text', 'its label')


class Row(NamedTuple):
  """A row of a file, as it was read."""

  path: Path
  number: int
  text: Any
  label: Any

  def __str__(self) -> str:
    """Names the row; how a message begins."""
    return f'{self.path}, row {self.number}'


def read_csv(
  path: Path, text_column: str, label_column: str | None
) -> list[Row]:
  """The rows of a CSV file, without labels if no column has them.

  Raises:
    DataError: if the file cannot be read, its cells are not those of a CSV
      file, or columns are missing or have one name.
  """
  rows = _csv_rows(path)
  names = check_header(path, next(rows, (0, None))[1])
  refuse_repeated(path, names)
  asked = _asked(path, text_column, label_column)
  for parameter, name in asked.items():
    if not name or name not in names:
      raise unknown_column(path, names, name, parameter)
  places = [names.index(name) for name in asked.values()]
  read = []
  for number, cells in rows:
    if len(cells) != len(names):
      raise DataError(
        f'{path}, row {number}: the row has {len(cells)} cells, but the header'
        f' has {len(names)}; separate cells by commas, and quote those that'
        ' hold one'
      )
    text, *label = (cells[place] for place in places)
    read.append(Row(path, number, text, label[0] if label else None))
  return read


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
  """The line and the cells of every row that is not blank."""
  lines = csv.reader(io.StringIO(_read(path), newline=''), strict=True)
  before = 0
  while True:
    try:
      cells = next(lines)
    except StopIteration:
      return
    except csv.Error as error:
      what = str(error)
      if 'field limit' in what:
        what = f'a cell has more than {csv.field_size_limit()} characters'
      raise DataError(
        f'{path}, row {before + 1}: {what}; {_OPEN_QUOTE}'
      ) from error
    if cells:
      yield before + 1, cells
    before = lines.line_num


def read_jsonl(
  path: Path, text_column: str, label_column: str | None
) -> list[Row]:
  """The rows of a file with a JSON object in every line that is not blank.

  Raises:
    DataError: if the file cannot be read, a line is no object, or no line has
      such names.
  """
  asked = _asked(path, text_column, label_column)
  text, label = asked['text_column'], asked.get('label_column')
  rows, known = [], dict[str, None]()
  for number, line in enumerate(_read(path).split('\n'), start=1):
    if not line.strip():
      continue
    held = _parsed(line, f'{path}, row {number}', 'one JSON object a line')
    if not isinstance(held, dict):
      raise DataError(
        f'{path}, row {number}: the line is no JSON object, such as'
        f' {json.dumps(dict(zip(asked.values(), _SHOWN, strict=False)))}'
      )
    known.update(dict.fromkeys(held))
    rows.append(
      Row(path, number, held.get(text), held.get(label) if label else None)
    )
  for parameter, name in asked.items():
    if rows and name not in known:
      raise unknown_column(path, tuple(known), name, parameter)
  return rows


def read_json(path: Path) -> Any:
  """What a file of JSON holds.

  Raises:
    DataError: if there is no such file, or it is not of JSON.
  """
  return _parsed(_read(path), str(path), 'a file of JSON')


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object whose names differ; of the same name JSON would take the last."""
  found = dict[str, Any]()
  for name, value in pairs:
    if normal_name(name) in found:
      raise ValueError(f'has the name {name!r} twice')
    found[normal_name(name)] = value
  return found


def _parsed(text: str, where: str, what: str) -> Any:
  try:
    return json.loads(text, object_pairs_hook=_object)
  except (ValueError, RecursionError) as error:
    raise DataError(f'{where}: is not {what} ({reason(error)})') from error


def _asked(path: Path, text: str, label: str | None) -> dict[str, str]:
  """The names of the columns, in their one spelling, by parameter."""
  asked = {'text_column': normal_name(text)}
  if label is not None:
    asked['label_column'] = normal_name(label)
  if asked['text_column'] == asked.get('label_column'):
    raise DataError(
      f'{path}: column {asked["text_column"]!r} is asked for as text and as'
      ' label; name another for one of them',
      'label_column',
    )
  return asked


def _read(path: Path) -> str:
  """A file of text, without its byte-order mark."""
  check_file(path, 'of texts')
  try:
    held = path.read_bytes()
  except OSError as error:
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error
  if held.startswith((b'\xff\xfe', b'\xfe\xff')):
    raise DataError(f'{path}: is in UTF-16; save it in UTF-8')
  if b'\0' in held:
    line = held.count(b'\n', 0, held.index(b'\0')) + 1
    raise DataError(
      f'{path}: is a binary file (line {line} has a byte of 0), not one of text'
      ' in UTF-8'
    )
  try:
    return held.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    start = error.start + 3 * held.startswith(b'\xef\xbb\xbf')
    line = held.count(b'\n', 0, start) + 1
    raise DataError(
      f'{path}, row {line}: byte 0x{held[start]:02x} is not of UTF-8; is the'
      ' file in another encoding, such as Latin-1, or no text at all? Save it'
      ' in UTF-8'
    ) from error


def read_lines(path: Path) -> list[Row]:
  """The lines of a file that are not blank, a text each.

  Raises:
    DataError: if the file cannot be read.
  """
  return [
    Row(path, number, line, None)
    for number, line in enumerate(_read(path).split('\n'), start=1)
    if line.strip()
  ]


def label_of(row: Row) -> str | None:
  """The name that a label is, or None where there is none.

  An integer is the same as the text of it, for CSV does not tell them apart.

  Raises:
    DataError: if it is of another kind.
  """
  label = row.label
  if isinstance(label, float):
    if math.isnan(label):
      return None
    label = int(label) if label.is_integer() else label
  if label is None:
    return None
  if isinstance(label, bool) or not isinstance(label, (str, int)):
    shown = json.dumps(label)
    raise DataError(
      f'{row}: the label {shown[:40]} is neither text nor an integer; write'
      ' the name of a class'
    )
  name = normal_name(str(label))
  refuse_halves(row, name)
  return None if name.lower() in ('', 'nan') else name


def refuse_halves(row: Row, text: str) -> None:
  """Refuses what JSON can say, and no file of text: halves of characters."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise DataError(
      f'{row}: U+{ord(text[error.start]):04X} is half of a character; mend it,'
      ' or leave the row out'
    ) from error
