"""Folders of image files, divided by lists, by folders, or not yet.

Lists are `train.csv`, `val.csv` and `test.csv`, of lines `filename,label` under
a header that says so, as miniImageNet has them (Ravi and Larochelle 2017,
Optimization as a model for few-shot learning). Otherwise a folder is a class.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from metajax.tasks._folder_files import (
  LISTS,
  Entry,
  check_apart,
  counts,
  files_of_classes,
  read_list,
)
from metajax.tasks.decoding import (
  MAX_IMAGE_PIXELS,
  Picture,
  Progress,
  decode,
)
from metajax.tasks.errors import DataError
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.splits import Splits

__all__ = [
  'LISTS',
  'PARTS',
  'has_lists',
  'image_files',
  'images_by_class',
  'is_divided',
  'load_class_folders',
  'load_folder',
]

PARTS = ('train', 'val', 'test')


def load_folder(
  directory: str | Path,
  split_dir: str | Path | None = None,
  *,
  image_size: int | None = None,
  skip_unreadable: bool = False,
  max_image_pixels: int = MAX_IMAGE_PIXELS,
  progress: Progress | None = None,
) -> Splits:
  """Reads image files, divided as lists or folders say.

  Photos are turned upright, as their EXIF data say. What is transparent lies on
  white; an image of which nothing can be seen there cannot be read.

  Args:
    directory: holds the files, by themselves or in a folder `images`, and the
      lists; or, without lists, the folders `train`, `val` and `test`, of
      folders that are classes.
    split_dir: holds `train.csv`, `val.csv` and `test.csv`; `directory` by
      default. Names of files in them lead to no other directory.
    image_size: resize images to squares of so many pixels; without it, all
      have to be of one size.
    skip_unreadable: leave out files that are missing or damaged, with a
      warning, instead of refusing them.
    max_image_pixels: refuse an image of more, before it is decoded.
    progress: is told how many images have been read, and of how many.

  Returns:
    Three sets of images; classes are numbered in sorted order of their labels.

  Raises:
    DataError: if a list or a folder is missing or no such, names a file twice
      or one elsewhere, or has one class only; if two share a class, or a file
      under two names; if files are missing or damaged; if sizes are mixed, an
      image has too many pixels, or Pillow is not installed.

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
  directory = _existing(directory)
  if not is_divided(directory, split_dir):
    raise DataError(
      f'{directory}: has neither {", ".join(LISTS)} nor folders'
      f' {", ".join(PARTS)} of classes; if its folders are the classes, read'
      ' them by load_class_folders and divide them, as by split_by_seed'
    )
  root = directory
  lists = None if split_dir is None else 'split_dir'
  with _blaming(lists):
    if split_dir is None and not has_lists(directory):
      parts = [_of_part(directory / name) for name in PARTS]
    else:
      lists_in = directory
      if split_dir is not None:
        lists_in = Path(split_dir).expanduser()
      root = inner if (inner := directory / 'images').is_dir() else directory
      parts = [read_list(lists_in / name, root, directory) for name in LISTS]
    check_apart(parts)
  entries = [entry for part in parts for entry in part]
  images, kept = _decoded(
    entries,
    root,
    image_size=image_size,
    skip_unreadable=skip_unreadable,
    max_image_pixels=max_image_pixels,
    progress=progress,
  )
  ends = np.searchsorted(kept, np.cumsum([len(part) for part in parts]))
  made, start = [], 0
  for part, end in zip(parts, ends, strict=True):
    labels = [entries[index].label for index in kept[start:end]]
    with _blaming(lists):
      made.append(_labelled(part[0].part, images[start:end], labels))
    start = end
  return Splits(*made)


def load_class_folders(
  directory: str | Path,
  *,
  image_size: int | None = None,
  skip_unreadable: bool = False,
  max_image_pixels: int = MAX_IMAGE_PIXELS,
  progress: Progress | None = None,
) -> LabelledImages:
  """Reads a folder of folders, each of which holds the images of a class.

  Args:
    directory: of the folders; a class in several is named by all of them, such
      as `Greek/alpha`. Hidden files do not count.
    image_size: as for `load_folder`.
    skip_unreadable: as for `load_folder`.
    max_image_pixels: as for `load_folder`.
    progress: as for `load_folder`.

  Returns:
    All images, to be divided, such as by `split_by_seed`; classes are numbered
    in sorted order.

  Raises:
    DataError: if there are not two classes or more, if a folder is empty, a
      link, or has both images and folders, if a file is there twice or
      elsewhere, and as `load_folder`.

  Example:
    >>> import pathlib, tempfile
    >>> import PIL.Image
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   for name in ('cat', 'dog'):
    ...     folder = pathlib.Path(directory, name)
    ...     folder.mkdir()
    ...     PIL.Image.new('RGB', (8, 8)).save(folder / '1.png')
    ...   data = load_class_folders(directory)
    >>> data.images.shape, data.names
    ((2, 8, 8, 3), ('cat', 'dog'))
  """
  directory = _existing(directory)
  entries = files_of_classes(directory)
  if not entries:
    raise DataError(
      f'{directory}: has neither {", ".join(LISTS)} nor folders of classes with'
      ' images in them'
    )
  check_apart([entries])
  images, kept = _decoded(
    entries,
    directory,
    image_size=image_size,
    skip_unreadable=skip_unreadable,
    max_image_pixels=max_image_pixels,
    progress=progress,
  )
  return _labelled(directory, images, [entries[i].label for i in kept])


def images_by_class(directory: str | Path) -> dict[str, list[Picture]]:
  """Lists the image files of a folder of folders, by their class.

  Args:
    directory: as for `load_class_folders`.

  Raises:
    DataError: as `load_class_folders`, but for what is wrong with the images.
  """
  directory = _existing(directory)
  entries = files_of_classes(directory)
  if not entries:
    raise DataError(f'{directory}: has no folders of classes with images')
  check_apart([entries])
  found: dict[str, list[Picture]] = {}
  for entry in entries:
    found.setdefault(entry.label, []).append(Picture(entry.name, entry.file))
  return found


def image_files(path: str | Path) -> list[Picture]:
  """Lists image files: one, or all in a folder and in the folders in it.

  Args:
    path: of the file or of the folder; hidden files do not count.

  Raises:
    DataError: if there is none.
  """
  path = Path(path).expanduser()
  if path.is_file():
    return [Picture(path.name, path)]
  directory = _existing(path)
  found = [
    Picture(str(each.relative_to(directory)), each)
    for each in sorted(directory.rglob('*'))
    if each.is_file()
    and counts(str(each.name))
    and not any(part.startswith('.') for part in each.relative_to(path).parts)
  ]
  if not found:
    raise DataError(f'{directory}: there is no file in it')
  return found


def is_divided(
  directory: str | Path, split_dir: str | Path | None = None
) -> bool:
  """Whether `load_folder` reads a directory; else its folders are classes.

  Args:
    directory: as for `load_folder`.
    split_dir: as for `load_folder`.
  """
  directory = Path(directory).expanduser()
  lists_in = directory if split_dir is None else Path(split_dir).expanduser()
  if has_lists(lists_in):
    return True
  # A class may be called train; but it holds images then, and no folders.
  return split_dir is None and all(
    any(each.is_dir() for each in (directory / name).glob('*'))
    for name in ('train', 'test')
  )


def has_lists(directory: str | Path) -> bool:
  """Whether a directory has one of the lists that divide image files."""
  return any((Path(directory).expanduser() / name).is_file() for name in LISTS)


def _existing(directory: str | Path) -> Path:
  directory = Path(directory).expanduser()
  if not directory.is_dir():
    raise DataError(f'{directory}: there is no such directory')
  return directory


def _of_part(folder: Path) -> list[Entry]:
  if not folder.is_dir():
    raise DataError(
      f'{folder}: there is no such directory; the images are divided by the'
      f' folders {", ".join(PARTS)}'
    )
  entries = files_of_classes(folder)
  if not entries:
    raise DataError(f'{folder}: has no folder of a class')
  return entries


def _decoded(
  entries: Sequence[Entry],
  root: Path,
  *,
  image_size: int | None,
  skip_unreadable: bool,
  max_image_pixels: int,
  progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
  return decode(
    (Picture(entry.name, entry.file) for entry in entries),
    len(entries),
    str(root),
    image_size=image_size,
    skip_unreadable=skip_unreadable,
    max_image_pixels=max_image_pixels,
    progress=progress,
  )


@contextlib.contextmanager
def _blaming(parameter: str | None) -> Iterator[None]:
  """What is wrong is to be put right by this parameter, if there is one."""
  try:
    yield
  except DataError as error:
    raise DataError(str(error), error.parameter or parameter) from error


def _labelled(
  part: Path, images: np.ndarray, labels: list[str]
) -> LabelledImages:
  values, indices = np.unique(labels, return_inverse=True)
  if len(values) < 2:
    found = 'no image is left'
    if labels:
      found = f'all {len(labels)} images have the label {values[0]}'
    raise DataError(f'{part}: {found}; two classes or more are needed')
  return LabelledImages(
    images, indices.astype(np.int32), tuple(map(str, values.tolist()))
  )
