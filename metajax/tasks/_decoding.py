"""Image files as one array: what cannot be read or fit is counted and named."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks.errors import DataError, reason

__all__ = ['Picture', 'decode']

_NAMED = 3  # files in a message
# Modes of Pillow: without colour, and of numbers that do not fit a byte.
_GREY = ('1', 'L', 'LA')
_DEEP = ('I', 'F')


class Picture(NamedTuple):
  """An image file: where it is, or what is in it."""

  name: str  # for messages
  file: Path | bytes


def decode(
  pictures: Iterable[Picture],
  number: int,
  origin: str,
  *,
  image_size: int | None = None,
  skip_unreadable: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Decodes images to one array.

  Args:
    pictures: the files.
    number: how many there are.
    origin: what the files are part of, for messages.
    image_size: resize all to squares of so many pixels; without it they all
      have to be of one size.
    skip_unreadable: leave out, with a warning, what cannot be read.

  Returns:
    uint8 images `[kept, height, width, 3]`, without the last axis if all are
    grey, and the indices of those that were kept.

  Raises:
    DataError: if images cannot be read and are not to be skipped, if there are
      several sizes, or if there is no image; if they do not fit into memory;
      or without Pillow.
  """
  _pillow()  # where there is none, no file is to blame
  if image_size is not None and image_size < 1:
    raise DataError(f'image_size={image_size}: must be 1 or more')
  array, grey = None, True
  kept, unreadable, sizes = list[int](), list[str](), list[str]()
  for index, picture in enumerate(pictures):
    try:
      pixels, is_grey = _pixels(picture.file, image_size)
      if array is None:
        array = np.empty((number, *pixels.shape), np.uint8)
    except MemoryError as error:
      raise DataError(
        f'{origin}: {number} images do not fit into memory; a smaller'
        ' image_size may help'
      ) from error
    except Exception as error:  # Whatever decoders make of damaged bytes.
      unreadable.append(f'{picture.name} ({reason(error)})')
      continue
    if pixels.shape != array.shape[1:]:
      height, width, _ = pixels.shape
      sizes.append(f'{picture.name} ({width} x {height})')
      continue
    array[len(kept)] = pixels
    grey = grey and is_grey
    kept.append(index)
  _complain(origin, number, unreadable, skip_unreadable)
  if array is None:
    raise DataError(f'{origin}: there is no image that can be read')
  if sizes:
    height, width = array.shape[1:3]
    raise DataError(
      f'{origin}: {len(sizes)} of {number} images are not {width} x {height}'
      f' pixels as the first one is: {_some(sizes)}; image_size resizes all'
    )
  images = array[: len(kept)]
  return (images[..., 0] if grey else images), np.asarray(kept)


def _pixels(
  file: Path | bytes, image_size: int | None
) -> tuple[np.ndarray, bool]:
  """The pixels of a file [height, width, 3], and whether they are grey."""
  image_of = _pillow().Image
  with image_of.open(
    file if isinstance(file, Path) else io.BytesIO(file)
  ) as opened:
    if opened.mode.startswith(_DEEP):
      # Pillow would cut off at 255 whatever is above.
      raise ValueError(
        f'its pixels have the mode {opened.mode}; save it with 8 bits'
      )
    grey = opened.mode in _GREY
    image = opened.convert('RGB')
  if image_size is not None:
    image = image.resize((image_size, image_size), image_of.Resampling.BILINEAR)
  return np.asarray(image), grey


def _pillow() -> Any:
  try:
    import PIL.Image
  except ImportError:
    raise DataError(
      'reading images needs Pillow; install it with: pip install pillow'
    ) from None
  return PIL


def _complain(
  origin: str, number: int, unreadable: list[str], skip: bool
) -> None:
  if not unreadable:
    return
  message = (
    f'{origin}: {len(unreadable)} of {number} images cannot be read:'
    f' {_some(unreadable)}'
  )
  if not skip:
    raise DataError(f'{message}; skip_unreadable leaves them out')
  warnings.warn(f'{message}; they are left out', stacklevel=4)


def _some(names: list[str]) -> str:
  """The first names of a list."""
  more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more
