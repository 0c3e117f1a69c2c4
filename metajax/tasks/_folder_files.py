"""Which image files there are for what: by lists, or by folders of classes."""

import csv
import mimetypes
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from metajax.tasks.errors import DataError, reason
from metajax.tasks.names import normal_file_name, normal_name

__all__ = [
  'LISTS',
  'Entry',
  'check_apart',
  'counts',
  'files_of_classes',
  'read_list',
]

LISTS = ('train.csv', 'val.csv', 'test.csv')
_COLUMNS = ('filename', 'label')
# What systems leave in folders, beside hidden files.
_CLUTTER = ('__MACOSX', 'Thumbs.db', 'desktop.ini')


class Entry(NamedTuple):
  """An image file of a class."""

  file: Path
  name: str  # for messages
  label: str
  part: Path  # the list or the folder that has it
  where: str  # in it, for messages


def read_list(path: Path, root: Path, directory: Path) -> list[Entry]:
  """The lines of a list, each with both columns.

  Args:
    path: of the list.
    root: what its file names are relative to.
    directory: what they must not lead out of.

  Raises:
    DataError: if the file is no such list, or names a file elsewhere.
  """
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file)
      given = reader.fieldnames or ()
      reader.fieldnames = [normal_name(name) for name in given]
      rows = [(reader.line_num, row) for row in reader]
  except FileNotFoundError:
    raise DataError(
      f'{path}: there is no such file; the images are divided by'
      f' {", ".join(LISTS)}'
    ) from None
  except (OSError, ValueError, csv.Error) as error:
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error
  if not set(_COLUMNS) <= set(reader.fieldnames):
    raise DataError(
      f'{path}: the first line must name the columns {",".join(_COLUMNS)}; it'
      f' is {",".join(given)!r}'
    )
  if not rows:
    raise DataError(f'{path}: the file names no image')
  allowed = [each.resolve() for each in (directory, root)]
  entries = []
  for number, row in rows:
    filename, label = (row[column] or '' for column in _COLUMNS)
    where = f'{path}, line {number}'
    label = normal_name(label)
    if not filename.strip() or not label:
      raise DataError(f'{where}: a file name and a label are needed')
    found = _located(root, filename)
    if not any(found.is_relative_to(each) for each in allowed):
      raise DataError(
        f'{where}: {filename} leads out of {directory}, and a list names files'
        ' within it alone; copy the file there'
      )
    entries.append(Entry(found, filename, label, path, where))
  return entries


def _located(root: Path, filename: str) -> Path:
  """The file that is meant, links followed; file systems keep spellings."""
  normal = normal_file_name(filename)
  try:
    for spelling in (filename, normal, unicodedata.normalize('NFD', normal)):
      if (root / spelling).is_file():
        return (root / spelling).resolve()
    return (root / normal).resolve()
  except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte
    return root.resolve() / normal


def files_of_classes(root: Path) -> list[Entry]:
  """The files of a folder of folders, each of which is a class.

  A class in folders is named by all of them: `Greek/alpha`. Hidden files do
  not count; all others are taken for images.

  Raises:
    DataError: if a folder cannot be read, is empty, a link, or has both images
      and folders; or if an image is in no folder.
  """
  entries: list[Entry] = []

  def fail(error: OSError) -> None:
    raise DataError(f'{error.filename}: cannot be read ({reason(error)})')

  for place, folders, files in os.walk(root, onerror=fail):
    folders[:] = sorted(filter(counts, folders))
    files = sorted(filter(counts, files))
    folder = Path(place)
    inner = folder.relative_to(root)
    for each in folders:
      if (folder / each).is_symlink():
        raise DataError(
          f'{folder / each}: is a link to a folder; put the folder itself here'
        )
    if folder == root:
      if stray := next(filter(_is_image, files), None):
        raise DataError(
          f'{root / stray}: the image is in no folder of a class, and there is'
          f' none of {", ".join(LISTS)}'
        )
      continue
    if folders and files:
      raise DataError(
        f'{folder}: has both files ({files[0]}) and folders ({folders[0]}), so'
        ' what is a class cannot be told'
      )
    if not folders and not files:
      raise DataError(
        f'{folder}: the folder has no image; remove it, or fill it'
      )
    label = '/'.join(map(normal_name, inner.parts))
    for each in files:
      path = folder / each
      if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
          f'{path}: is a link that leads out of {root}; copy the file'
        )
      name = str(Path(root.name, inner, each))
      entries.append(Entry(path, name, label, root, str(path)))
  return entries


def counts(name: str) -> bool:
  """Whether a file or folder is one of data, and not of a system."""
  return not name.startswith('.') and name not in _CLUTTER


def _is_image(name: str) -> bool:
  return (mimetypes.guess_type(name)[0] or '').startswith('image/')


def check_apart(parts: Iterable[Sequence[Entry]]) -> None:
  """Refuses a file in two places, and a class in two parts.

  Raises:
    DataError: names both places.
  """
  files: dict[object, Entry] = {}
  owners: dict[str, Path] = {}
  for entry in (entry for part in parts for entry in part):
    earlier = files.setdefault(_identity(entry.file), entry)
    if earlier is not entry:
      same = normal_file_name(earlier.name) == normal_file_name(entry.name)
      alias = '' if same else f', as {earlier.name}'
      raise DataError(
        f'{entry.where}: {entry.name} is already in {earlier.where}{alias}'
      )
    owner = owners.setdefault(entry.label, entry.part)
    if owner != entry.part:
      raise DataError(
        f'{entry.where}: class {entry.label!r} is also in {owner}; a class may'
        ' be in one only, as what is tested is learning new classes'
      )


def _identity(file: Path) -> object:
  """What a file has in common with itself under other names, such as links."""
  try:
    found = file.stat()
  except (OSError, ValueError):
    return normal_file_name(str(file))
  return (found.st_dev, found.st_ino) if found.st_ino else str(file.resolve())
