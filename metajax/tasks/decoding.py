"""Image files as one array: what cannot be read or fit is counted and named.

Pixels are those that a viewer shows: photos are turned upright, as their EXIF
data say, and what is transparent lies on a white ground.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks.errors import DataError, printable, reason

__all__ = ['MAX_IMAGE_PIXELS', 'Picture', 'Progress', 'decode']

# Is told how many are done, and of how many.
Progress = Callable[[int, int], None]

# More than photos have; a small file may say that it has any number.
MAX_IMAGE_PIXELS = 2**26

_NAMED = 3  # files in a message
_GROUND = (255, 255, 255, 255)  # below what is transparent
_SEEN = 16  # of 255: what an image has to differ by to show something
# Modes of Pillow: without colour, and of numbers that do not fit a byte.
_GREY = ('1', 'L', 'LA')
_DEEP = ('I', 'F')


class Picture(NamedTuple):
  """An image file: where it is, or what is in it."""

  name: str  # for messages
  file: Path | bytes


class _TooLargeError(Exception):
  """An image has more pixels than are allowed."""


def decode(
  pictures: Iterable[Picture],
  number: int,
  origin: str,
  *,
  image_size: int | None = None,
  skip_unreadable: bool = False,
  max_image_pixels: int = MAX_IMAGE_PIXELS,
  progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Decodes images to one array.

  Photos are turned upright. What is transparent is laid on white; an image of
  which nothing can be seen there cannot be read.

  Args:
    pictures: the files.
    number: how many there are.
    origin: what the files are part of, for messages.
    image_size: resize all to squares of so many pixels; without it they all
      have to be of one size.
    skip_unreadable: leave out, with a warning, what cannot be read.
    max_image_pixels: refuse an image of more, before it is decoded.
    progress: is told after each image how many have been read, and of how many.

  Returns:
    uint8 images `[kept, height, width, 3]`, without the last axis if all are
    grey, and the indices of those that were kept.

  Raises:
    DataError: if images cannot be read and are not to be skipped, if there are
      several sizes, or if there is no image; if one has too many pixels, or
      all do not fit into memory; or without Pillow.
  """
  _pillow()  # where there is none, no file is to blame
  for name, value in (
    ('image_size', image_size),
    ('max_image_pixels', max_image_pixels),
  ):
    if value is not None and value < 1:
      raise DataError(f'{name}={value}: must be 1 or more')
  if image_size is not None and image_size**2 > max_image_pixels:
    raise DataError(
      f'image_size={image_size}: images would have more than the'
      f' {max_image_pixels} pixels that are allowed; max_image_pixels raises'
      ' that',
      parameter='image_size',
    )
  with _without_limit_of_pillow():
    return _decode(
      _told(pictures, number, progress), number, origin, image_size,
      skip_unreadable, max_image_pixels,
    )  # fmt: skip


def _told(
  pictures: Iterable[Picture], number: int, progress: Progress | None
) -> Iterator[Picture]:
  """The same pictures; what is asked for the next one is done with the last."""
  for done, picture in enumerate(pictures, 1):
    yield picture
    if progress is not None:
      progress(done, number)


def _decode(
  pictures: Iterable[Picture],
  number: int,
  origin: str,
  image_size: int | None,
  skip_unreadable: bool,
  max_image_pixels: int,
) -> tuple[np.ndarray, np.ndarray]:
  array, grey = None, True
  kept, unreadable, sizes = list[int](), list[str](), list[str]()
  for index, picture in enumerate(pictures):
    try:
      pixels, is_grey = _pixels(picture.file, image_size, max_image_pixels)
      if array is None:
        array = np.empty((number, *pixels.shape), np.uint8)
    except _TooLargeError as error:
      raise DataError(
        f'{origin}: {picture.name} has {error} pixels, more than the'
        f' {max_image_pixels} that are allowed',
        parameter='max_image_pixels',
        in_training='; max_image_pixels raises that',
      ) from error
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
      f' pixels as the first one is: {_some(sizes)}',
      in_training='; image_size resizes all',
    )
  images = array[: len(kept)]
  return (images[..., 0] if grey else images), np.asarray(kept)


def _pixels(
  file: Path | bytes, image_size: int | None, max_image_pixels: int
) -> tuple[np.ndarray, bool]:
  """The pixels of a file [height, width, 3], and whether they are grey."""
  image_of = _pillow().Image
  with image_of.open(
    file if isinstance(file, Path) else io.BytesIO(file)
  ) as opened:
    width, height = opened.size
    if width * height > max_image_pixels:
      raise _TooLargeError(f'{width} x {height}')
    deep = any(';16' in str(part) for part in getattr(opened, 'tile', ()))
    if deep or opened.mode.startswith(_DEEP):
      # Pillow would cut off at 255 whatever is above.
      raise ValueError(
        f'its pixels have the mode {opened.mode}{" of 16 bits" * deep}; save it'
        ' with 8 bits'
      )
    grey = opened.mode in _GREY
    image = _on_ground(_upright(opened))
  if image_size is not None:
    image = image.resize((image_size, image_size), image_of.Resampling.BILINEAR)
  return np.asarray(image), grey


def _upright(image: Any) -> Any:
  """Turns an image as its EXIF data say."""
  image.load()  # What is damaged from here on is not the image.
  try:
    return _pillow().ImageOps.exif_transpose(image)
  except SyntaxError:
    return image  # It does not say: viewers show it as it is stored.


def _on_ground(image: Any) -> Any:
  """Lays what is transparent on white; without it, the colours are kept."""
  if not (image.mode.upper().endswith('A') or 'transparency' in image.info):
    return image.convert('RGB')
  image = image.convert('RGBA')
  if image.getchannel('A').getextrema()[0] == 255:
    return image.convert('RGB')
  ground = _pillow().Image.new('RGBA', image.size, _GROUND)
  laid = _pillow().Image.alpha_composite(ground, image).convert('RGB')
  if max(high - low for low, high in laid.getextrema()) < _SEEN:
    raise ValueError(
      'it is transparent, and nothing of it can be seen on a white ground;'
      ' save it without transparency, on a ground of another colour'
    )
  return laid


@contextlib.contextmanager
def _without_limit_of_pillow() -> Iterator[None]:
  """Leaves the limit of pixels to the caller: Pillow's is the process's."""
  image_of = _pillow().Image
  limit, image_of.MAX_IMAGE_PIXELS = image_of.MAX_IMAGE_PIXELS, None
  try:
    yield
  finally:
    image_of.MAX_IMAGE_PIXELS = limit


def _pillow() -> Any:
  try:
    import PIL.Image
    import PIL.ImageOps
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
    raise DataError(message, in_training='; skip_unreadable leaves them out')
  warnings.warn(printable(f'{message}; they are left out'), stacklevel=4)


def _some(names: list[str]) -> str:
  """The first names of a list."""
  more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more
