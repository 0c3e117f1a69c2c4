"""Texts of known classes, such as intents: read from files, with no tokens yet.

A class is a name in one spelling (`names.normal_name`); texts stay as they are
written, but for blanks around them and byte-order marks.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks._text_files import (
  MAX_CHARACTERS,
  Row,
  label_of,
  read_csv,
  read_json,
  read_jsonl,
  read_lines,
  refuse_halves,
)
from metajax.tasks.errors import DataError
from metajax.tasks.names import normal_name

__all__ = [
  'Duplicates',
  'Intents',
  'OutOfScope',
  'Texts',
  'count_duplicates',
  'load_banking77',
  'load_clinc150',
  'load_csv',
  'load_jsonl',
  'load_texts',
]


class Texts(NamedTuple):
  """Texts of known classes, on the host."""

  texts: np.ndarray  # str [examples], of type object
  labels: np.ndarray  # int32 [examples], indices into `names`
  names: tuple[str, ...]  # one per class


class OutOfScope(NamedTuple):
  """Texts that are of no class, by what they are for."""

  train: np.ndarray  # str [examples], of type object
  validation: np.ndarray
  test: np.ndarray


class Intents(NamedTuple):
  """Texts of classes, and texts of none."""

  texts: Texts
  out_of_scope: OutOfScope


class Duplicates(NamedTuple):
  """How many texts are not there for the first time."""

  repeated: int  # rows whose text stands in their class before them
  contradicting: int  # texts that stand in several classes
  across_splits: int  # texts that stand in several splits


def load_csv(
  path: str | Path, text_column: str = 'text', label_column: str = 'label'
) -> Texts:
  r"""Reads a CSV file of texts and of the names of their classes.

  Args:
    path: a file in UTF-8, with commas and a line of names.
    text_column: the column of texts.
    label_column: the column of names of classes.

  Returns:
    The texts in the order of the file, and their classes in that of their
    names.

  Raises:
    DataError: if the file is missing, empty, binary, in another encoding or not
      CSV; if columns are missing; if a row has no text, one of more than 131072
      characters, or no label (`nan` is none); or if all are of one class.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = pathlib.Path(directory, 'mine.csv')
    ...   _ = path.write_text('text,label\n"Hello, you",hi\nso long,bye\n')
    ...   data = load_csv(path)
    >>> data.texts.tolist(), data.labels.tolist(), data.names
    (['Hello, you', 'so long'], [1, 0], ('bye', 'hi'))
  """
  path = Path(path).expanduser()
  return _texts(path, read_csv(path, text_column, label_column))


def load_jsonl(
  path: str | Path, text_column: str = 'text', label_column: str = 'label'
) -> Texts:
  r"""Reads a file of JSON objects, a line each, with a text and a label.

  Args:
    path: a file in UTF-8.
    text_column: the name of texts in the objects.
    label_column: the name of labels: text, or integers.

  Returns:
    As `load_csv`.

  Raises:
    DataError: as `load_csv`.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = pathlib.Path(directory, 'mine.jsonl')
    ...   _ = path.write_text('{"say": "hello", "to": 1}\n'
    ...                       '{"say": "bye", "to": 0}\n')
    ...   load_jsonl(path, 'say', 'to').names
    ('0', '1')
  """
  path = Path(path).expanduser()
  return _texts(path, read_jsonl(path, text_column, label_column))


def load_texts(path: str | Path, text_column: str = 'text') -> list[str]:
  r"""Reads texts alone, of which nobody says the class.

  Args:
    path: a CSV file, one of JSON objects, a line each, whose name ends in
      `.jsonl`, or one of texts, a line each, whose name ends in `.txt`.
    text_column: the column of texts.

  Returns:
    The texts in the order of the file.

  Raises:
    DataError: as `load_csv`.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = pathlib.Path(directory, 'mine.txt')
    ...   _ = path.write_text('hello\n\nbye\n')
    ...   load_texts(path)
    ['hello', 'bye']
  """
  path = Path(path).expanduser()
  if path.suffix == '.txt':
    rows = read_lines(path)
  elif path.suffix == '.jsonl':
    rows = read_jsonl(path, text_column, None)
  else:
    rows = read_csv(path, text_column, None)
  _check_rows(str(path), rows)
  found: list[str] = _read_texts(rows).tolist()
  return found


def load_banking77(folder: str | Path) -> Texts:
  """Reads Banking77: 77 intents of customers of a bank.

  Args:
    folder: that of `train.csv` and `test.csv`, which are read together, since
      classes are divided, not texts.

  Returns:
    13,083 texts, those of `train.csv` first.

  Raises:
    DataError: as `load_csv`, of each of the files.

  References:
    Casanueva et al. (2020), Efficient intent detection with dual sentence
    encoders, https://arxiv.org/abs/2003.04807
  """
  folder = _folder(folder)
  rows = list[Row]()
  for name in ('train.csv', 'test.csv'):
    found = read_csv(folder / name, 'text', 'category')
    _check_rows(str(folder / name), found)
    rows += found
  return _texts(folder, rows)


def load_clinc150(folder: str | Path) -> Intents:
  """Reads CLINC150: 150 intents of ten domains, and texts of none.

  Args:
    folder: that of `data_full.json` and `domains.json`.

  Returns:
    22,500 texts of classes such as `banking/pay_bill`, those of all parts
    together, since classes are divided, not texts; and 1,200 texts that are
    out of scope, by their parts.

  Raises:
    DataError: as `load_csv`, of each of the parts, and if the files do not fit
      together.

  References:
    Larson et al. (2019), An evaluation dataset for intent classification and
    out-of-scope prediction, https://arxiv.org/abs/1909.02027
  """
  folder = _folder(folder)
  path, domain_path = folder / 'data_full.json', folder / 'domains.json'
  domains = _domains_of(domain_path, read_json(domain_path))
  parts = read_json(path)
  if not isinstance(parts, dict):
    raise DataError(f'{path}: is no JSON object of parts such as "train"')
  rows, apart = list[Row](), list[np.ndarray]()
  for part in ('train', 'val', 'test'):
    for row in _pairs(path, parts, part):
      name = label_of(row)
      if name is not None and name not in domains:
        raise DataError(
          f'{row} of {part!r}: intent {name!r} is in no domain of {domain_path}'
        )
      rows.append(row._replace(label=name and f'{domains[name]}/{name}'))
    apart.append(_read_texts(_pairs(path, parts, f'oos_{part}')))
  texts = _texts(path, rows)
  if len(texts.names) != len(domains):
    unused = set(domains) - {name.rpartition('/')[2] for name in texts.names}
    raise DataError(
      f'{domain_path}: intent {min(unused)!r} has no text in {path}'
    )
  return Intents(texts, OutOfScope(*apart))


def count_duplicates(splits: Iterable[Texts]) -> Duplicates:
  """Counts texts that are not there for the first time.

  Texts are the same that differ in blanks, or in how accents are composed.

  Args:
    splits: texts that share no class, such as `Splits`, or one alone.

  Returns:
    How many are repeated in a class, stand in several, and in several splits.

  Example:
    >>> texts = np.array(['hi', 'hi ', 'ho', 'hi'], object)
    >>> data = Texts(texts, np.array([0, 0, 1, 1]), ('a', 'b'))
    >>> count_duplicates([data])
    Duplicates(repeated=1, contradicting=1, across_splits=0)
  """
  repeated = 0
  classes = dict[str, set[tuple[int, int]]]()
  for split, part in enumerate(splits):
    for text, label in zip(part.texts, part.labels.tolist(), strict=True):
      found = classes.setdefault(normal_name(text), set())
      repeated += (split, label) in found
      found.add((split, label))
  return Duplicates(
    repeated,
    sum(len(found) > 1 for found in classes.values()),
    sum(len({split for split, _ in found}) > 1 for found in classes.values()),
  )


def _folder(folder: str | Path) -> Path:
  folder = Path(folder).expanduser()
  if not folder.is_dir():
    raise DataError(f'{folder}: there is no such folder; check the path')
  return folder


def _domains_of(path: Path, held: Any) -> dict[str, str]:
  """The domain of every intent."""
  domains = dict[str, str]()
  if not isinstance(held, dict):
    raise DataError(f'{path}: is no JSON object of domains and their intents')
  for domain, intents in held.items():
    if not isinstance(intents, list) or not all(
      isinstance(intent, str) for intent in intents
    ):
      raise DataError(f'{path}: domain {domain!r} is no list of intents')
    for intent in map(normal_name, intents):
      earlier = domains.setdefault(intent, normal_name(domain))
      if earlier != normal_name(domain):
        raise DataError(
          f'{path}: intent {intent!r} is in two domains, {earlier!r} and'
          f' {domain!r}'
        )
  return domains


def _pairs(path: Path, parts: dict[str, Any], part: str) -> list[Row]:
  """The rows of a part, of which there are some, numbered from 1."""
  held = parts.get(part)
  if not isinstance(held, list):
    raise DataError(f'{path}: there is no list {part!r} of texts and intents')
  for number, pair in enumerate(held, start=1):
    if not _is_pair(pair):
      raise DataError(
        f'{path}, row {number} of {part!r}: is no pair of a text and an intent'
      )
  rows = [Row(path, n, *pair) for n, pair in enumerate(held, start=1)]
  _check_rows(f'{path}, {part!r}', rows)
  return rows


def _is_pair(held: Any) -> bool:
  return (
    isinstance(held, list)
    and len(held) == 2
    and all(isinstance(each, str) for each in held)
  )


def _texts(path: Path, rows: Sequence[Row]) -> Texts:
  """The texts of rows, if these are such."""
  _check_rows(str(path), rows)
  labels = [label_of(row) for row in rows]
  lacking = [row for row, name in zip(rows, labels, strict=True) if not name]
  if lacking:
    raise DataError(
      f'{lacking[0]}: there is no label{_others(lacking)}; fill it in, or leave'
      ' the row out'
    )
  texts = _read_texts(rows)
  names = sorted({name for name in labels if name})
  if len(names) < 2:
    raise DataError(
      f'{path}: all {len(rows)} texts have the label {names[0]!r}; two classes'
      ' or more are needed'
    )
  numbers = {name: number for number, name in enumerate(names)}
  return Texts(
    texts,
    np.asarray([numbers[name] for name in labels if name], np.int32),
    tuple(names),
  )


def _check_rows(where: str, rows: Sequence[Row]) -> None:
  if not rows:
    raise DataError(f'{where}: there is no row of text; the file is empty')


def _read_texts(rows: Sequence[Row]) -> np.ndarray:
  texts = list(map(_text_of, rows))
  blank = [row for row, text in zip(rows, texts, strict=True) if not text]
  if blank:
    raise DataError(
      f'{blank[0]}: there is no text{_others(blank)}; fill it in, or leave the'
      ' row out'
    )
  array = np.empty(len(texts), object)
  array[:] = texts
  return array


def _others(rows: Sequence[Row]) -> str:
  return f' (and in {len(rows) - 1} other rows)' if len(rows) > 1 else ''


def _text_of(row: Row) -> str:
  """The text of a row; empty where nobody sees any."""
  text = '' if row.text is None else row.text
  if not isinstance(text, str):
    raise DataError(
      f'{row}: the text {str(text)[:40]!r} is {type(text).__name__}, not text;'
      ' name its column by text_column',
      'text_column',
    )
  if len(text) > MAX_CHARACTERS:
    raise DataError(
      f'{row}: the text has {len(text)} characters, more than'
      f' {MAX_CHARACTERS}; divide it, or leave the row out'
    )
  refuse_halves(row, text)
  return text.replace('\ufeff', '').strip() if normal_name(text) else ''
