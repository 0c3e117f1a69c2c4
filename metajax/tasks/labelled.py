"""Labelled images: an array of pixels, and the class of each example."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metajax.tasks._examples import are_channels_first
from metajax.tasks.errors import (
  MAX_UNPACKED_MEBIBYTES,
  DataError,
  check_unpacked,
  reason,
)
from metajax.tasks.names import normal_name

__all__ = [
  'LabelledImages',
  'check_episode',
  'load_npz',
]

# Images whose values all lie below this hardly are of [0, 255].
_DARK = 64


class LabelledImages(NamedTuple):
  """Images of known classes, on the host."""

  images: np.ndarray  # uint8 [examples, height, width] or [..., channels]
  labels: np.ndarray  # int32 [examples], indices into `names`
  names: tuple[str, ...]  # one per class


def load_npz(
  path: str | Path, *, max_unpacked_mebibytes: int = MAX_UNPACKED_MEBIBYTES
) -> LabelledImages:
  """Reads the arrays `images` and `labels` of an npz file.

  Values at most 1 everywhere (booleans, fractions, zeros and ones) are taken
  as [0, 1] and multiplied by 255; other values have to lie in [0, 255], and
  reach 64 or more, as it would be guessed otherwise what is white: uint8 that
  does not is a warning. Fractions are rounded to the nearest integer, halves to
  the even one.

  Args:
    path: an npz file: `images` [examples, height, width] or [..., channels],
      boolean, integer or floating; `labels` [examples], integers or strings.
    max_unpacked_mebibytes: refuse a file that unpacks to more than this, and to
      more than it has itself.

  Returns:
    The images, their labels renumbered from 0 in sorted order, and the
    original labels as names, each in one spelling (`names.normal_name`).

  Raises:
    DataError: if the file is missing, damaged, no npz file or too large, or if
      its arrays are not such images and labels of two classes or more.

  Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = os.path.join(directory, 'digits.npz')
    ...   np.savez(path, images=np.ones((3, 8, 8)), labels=[7, 3, 7])
    ...   data = load_npz(path)
    >>> data.images.dtype, int(data.images.max())
    (dtype('uint8'), 255)
    >>> data.labels.tolist(), data.names
    ([1, 0, 1], ('3', '7'))
  """
  path = Path(path)
  images, labels = _read_arrays(
    path, ('images', 'labels'), max_unpacked_mebibytes
  )
  if images.ndim not in (3, 4) or 0 in images.shape:
    raise DataError(
      f'{path}: images must be [examples, height, width] or [examples, height,'
      f' width, channels], none of them 0; got shape {list(images.shape)}'
    )
  if labels.ndim != 1 or labels.dtype.kind not in 'biuUS':
    raise DataError(
      f'{path}: labels must be integers or strings [examples]; got'
      f' {labels.dtype} of shape {list(labels.shape)}'
    )
  _check_axes(path, images, len(labels))
  if labels.dtype.kind == 'S':
    labels = np.char.decode(labels, 'utf-8', 'backslashreplace')
  if labels.dtype.kind == 'U':
    labels = np.asarray([normal_name(label) for label in labels.tolist()])
  values, indices = np.unique(labels, return_inverse=True)
  if len(values) < 2:
    raise DataError(
      f'{path}: all {len(labels)} images have the label {values[0]}; two'
      ' classes or more are needed'
    )
  return LabelledImages(
    _to_uint8(path, images),
    indices.astype(np.int32),
    tuple(str(value) for value in values.tolist()),
  )


def check_episode(
  data: LabelledImages, ways: int, shots: int, queries: int
) -> None:
  """Checks that tasks of this size can be drawn from the data.

  Args:
    data: the images.
    ways: classes of a task.
    shots: support examples per class.
    queries: query examples per class.

  Raises:
    DataError: if they cannot. The message begins with the parameter and its
      value (`ways=30: ...`), so that `--` before it names the flag.
  """
  for name, value in (('ways', ways), ('shots', shots), ('queries', queries)):
    if value < 1:
      raise DataError(f'{name}={value}: must be 1 or more')
  if len(data.names) < min(ways, 2):
    raise DataError(
      f'ways={ways}: the data has {len(data.names)} class, and a task tells two'
      ' or more apart'
    )
  if ways > len(data.names):
    raise DataError(
      f'ways={ways}: the data has {len(data.names)} classes, so at most'
      f' {len(data.names)} ways are allowed'
    )
  counts = np.bincount(data.labels, minlength=len(data.names))
  smallest = int(np.argmin(counts))
  if shots + queries > counts[smallest]:
    raise DataError(
      f'shots={shots} and queries={queries}: class {data.names[smallest]!r}'
      f' has {counts[smallest]} examples, but {shots + queries} are needed'
    )


def _check_axes(path: Path, images: np.ndarray, number: int) -> None:
  """Refuses other numbers of images and labels, and axes in another order."""
  shape = list(images.shape)
  if len(images) != number:
    last = images.shape[-1] == number
    raise DataError(
      f'{path}: there are {len(images)} images but {number} labels'
      + (
        f'; images of shape {shape} seem to have the examples last, so move'
        ' that axis to the front: numpy.moveaxis(images, -1, 0)'
        if last
        else ''
      )
    )
  if are_channels_first(images.shape):
    raise DataError(
      f'{path}: images of shape {shape} seem to have their channels first;'
      ' they are [examples, height, width, channels], so move that axis to the'
      ' end: numpy.moveaxis(images, 1, -1)'
    )


def _read_arrays(
  path: Path, names: Sequence[str], most: int
) -> list[np.ndarray]:
  """Arrays of an npz file, its checksums verified."""
  if not path.is_file():
    raise DataError(f'{path}: there is no such file')
  if not zipfile.is_zipfile(path):
    raise DataError(
      f'{path}: not an npz file, or a truncated one; write it with'
      ' numpy.savez(path, images=..., labels=...)'
    )
  try:
    # Before numpy trusts a header: a damaged shape may ask for any memory.
    with zipfile.ZipFile(path) as archive:
      unpacked = sum(entry.file_size for entry in archive.infolist())
      check_unpacked(path, unpacked, most)
      damaged = archive.testzip()
    if damaged:
      raise DataError(f'{path}: {damaged} is damaged (wrong checksum)')
    with np.load(path, allow_pickle=False) as arrays:
      missing = [name for name in names if name not in arrays.files]
      if missing:
        raise DataError(
          f'{path}: there is no array {" and no ".join(missing)}; there is:'
          f' {", ".join(arrays.files) or "none"}'
        )
      return [arrays[name] for name in names]
  except DataError:
    raise
  except Exception as error:  # Whatever the parsers make of damaged bytes.
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error


def _to_uint8(path: Path, images: np.ndarray) -> np.ndarray:
  if images.dtype.kind not in 'biuf':
    raise DataError(
      f'{path}: images must be boolean, integer or floating, in [0, 1] or in'
      f' [0, 255]; got {images.dtype}'
    )
  bad = np.count_nonzero(~np.isfinite(images))
  if bad:
    raise DataError(
      f'{path}: images hold {bad} values that are NaN or infinite'
    )
  low, high = images.min(), images.max()
  if low < 0 or high > 255:
    raise DataError(
      f'{path}: images must lie in [0, 1] or in [0, 255]; these go from {low}'
      f' to {high}, so scale them to one of these'
    )
  if 1 < high < _DARK:
    # What is nearly black throughout, or of another range, trains badly
    # without a word. Only uint8 says itself which range it is of.
    message = (
      f'{path}: images go from {low} to {high}, which is dark in [0, 255]'
    )
    if images.dtype != np.uint8:
      raise DataError(
        f'{message} and beyond [0, 1]; scale them to one of these, or make them'
        ' uint8 if they are that dark'
      )
    warnings.warn(
      f'{message}; if {high} is white, scale them: images * (255 / {high})',
      stacklevel=3,
    )
  if images.dtype.kind == 'f':
    # Double precision makes a value round alike in any precision.
    scale = 255.0 if high <= 1 else 1.0
    return np.rint(images.astype(np.float64) * scale).astype(np.uint8)
  return images.astype(np.uint8) * np.uint8(255 if high <= 1 else 1)
