"""A folder of image files with lists of which are for what, as miniImageNet.

The lists are `train.csv`, `val.csv` and `test.csv`, of lines
`filename,label` under a header that says so (Ravi and Larochelle 2017,
Optimization as a model for few-shot learning).
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metajax.tasks._decoding import MAX_IMAGE_PIXELS, Picture, decode
from metajax.tasks.errors import DataError, reason
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.splits import Splits

__all__ = ['LISTS', 'load_folder']

LISTS = ('train.csv', 'val.csv', 'test.csv')
_COLUMNS = ('filename', 'label')


class _Line(NamedTuple):
  """A line of a list."""

  filename: str
  label: str
  where: str  # for messages


def load_folder(
  directory: str | Path,
  split_dir: str | Path | None = None,
  *,
  image_size: int | None = None,
  skip_unreadable: bool = False,
  max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Splits:
  """Reads image files, divided as lists say.

  Photos are turned upright, as their EXIF data say. What is transparent lies on
  white; an image of which nothing can be seen there cannot be read.

  Args:
    directory: holds the files, by themselves or in a folder `images`.
    split_dir: holds `train.csv`, `val.csv` and `test.csv`; `directory` by
      default.
    image_size: resize images to squares of so many pixels; without it, all
      have to be of one size.
    skip_unreadable: leave out files that are missing or damaged, with a
      warning, instead of refusing them.
    max_image_pixels: refuse an image of more, before it is decoded.

  Returns:
    Three sets of images; classes are numbered in sorted order of their labels.

  Raises:
    DataError: if a list is missing or no such list, names a file twice, or has
      one class only; if two lists share a class; if files are missing or
      damaged; if sizes are mixed, an image has too many pixels, or Pillow is
      not installed.

  Example:
    >>> import os, tempfile
    >>> import numpy as np, PIL.Image
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   for number, name in enumerate(LISTS):
    ...     with open(os.path.join(directory, name), 'w') as file:
    ...       print('filename,label', file=file)
    ...       for label in ('cat', 'dog'):
    ...         image = f'{label}{number}.png'
    ...         print(f'{image},{label}{number}', file=file)
    ...         pixels = PIL.Image.new('RGB', (84, 84))
    ...         pixels.save(os.path.join(directory, image))
    ...   splits = load_folder(directory, image_size=32)
    >>> splits.test.images.shape, splits.test.names
    ((2, 32, 32, 3), ('cat2', 'dog2'))
  """
  directory = Path(directory).expanduser()
  if not directory.is_dir():
    raise DataError(f'{directory}: there is no such directory')
  lists_in = directory if split_dir is None else Path(split_dir).expanduser()
  lists = [_read_list(lists_in / name) for name in LISTS]
  lines = [line for each in lists for line in each]
  _check_apart(lines)
  inner = directory / 'images'
  root = inner if inner.is_dir() else directory
  images, kept = decode(
    (Picture(line.filename, root / line.filename) for line in lines),
    len(lines),
    str(root),
    image_size=image_size,
    skip_unreadable=skip_unreadable,
    max_image_pixels=max_image_pixels,
  )
  ends = np.searchsorted(kept, np.cumsum([len(each) for each in lists]))
  parts, start = [], 0
  for name, end in zip(LISTS, ends, strict=True):
    labels = [lines[index].label for index in kept[start:end]]
    parts.append(_part(lists_in / name, images[start:end], labels))
    start = end
  return Splits(*parts)


def _part(path: Path, images: np.ndarray, labels: list[str]) -> LabelledImages:
  values, indices = np.unique(labels, return_inverse=True)
  if len(values) < 2:
    found = 'no image is left'
    if labels:
      found = f'all {len(labels)} images have the label {values[0]}'
    raise DataError(f'{path}: {found}; two classes or more are needed')
  return LabelledImages(
    images, indices.astype(np.int32), tuple(map(str, values.tolist()))
  )


def _read_list(path: Path) -> list[_Line]:
  """The lines of a list, each with both columns."""
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file)
      columns = reader.fieldnames or ()
      rows = [(reader.line_num, row) for row in reader]
  except FileNotFoundError:
    raise DataError(
      f'{path}: there is no such file; the images are divided by'
      f' {", ".join(LISTS)}'
    ) from None
  except (OSError, ValueError, csv.Error) as error:
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error
  if not set(_COLUMNS) <= set(columns):
    raise DataError(
      f'{path}: the first line must name the columns {",".join(_COLUMNS)}; it'
      f' is {",".join(columns)!r}'
    )
  if not rows:
    raise DataError(f'{path}: the file names no image')
  lines = []
  for number, row in rows:
    filename, label = (row[column] for column in _COLUMNS)
    where = f'{path}, line {number}'
    if not filename or not label:
      raise DataError(f'{where}: a file name and a label are needed')
    lines.append(_Line(filename, label, where))
  return lines


def _check_apart(lines: list[_Line]) -> None:
  """Refuses a file in two places, and a class in two lists."""
  files: dict[str, str] = {}
  owners: dict[str, str] = {}
  for line in lines:
    earlier = files.setdefault(line.filename, line.where)
    if earlier != line.where:
      raise DataError(f'{line.where}: {line.filename} is already in {earlier}')
    path = line.where.rpartition(', line ')[0]
    owner = owners.setdefault(line.label, path)
    if owner != path:
      raise DataError(
        f'{line.where}: class {line.label!r} is also in {owner}; a class may be'
        ' in one list only'
      )
