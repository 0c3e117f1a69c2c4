"""Rotations of images as classes of their own."""

import re

import numpy as np

from metajax.tasks.errors import DataError
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.text import Texts

__all__ = ['TURNED', 'refuse_turned', 'rotate_classes', 'turned']

# How the name of a class of turned images ends.
TURNED = re.compile(r'/rot(000|090|180|270)$')


def rotate_classes(data: LabelledImages) -> LabelledImages:
  """Makes four classes of each: turned by 0, 90, 180 and 270 degrees.

  Args:
    data: square images.

  Returns:
    Class `4 * i + k` holds the images of class i turned counter-clockwise by
    `90 * k` degrees; its name ends in `/rot000`, `/rot090` and so on.

  Raises:
    DataError: if images are not square, or if they are already rotated.

  Example:
    >>> import numpy as np
    >>> data = LabelledImages(
    ...   np.zeros((2, 8, 8), np.uint8), np.array([0, 1], np.int32), ('a', 'b')
    ... )
    >>> rotate_classes(data).names[:5]
    ('a/rot000', 'a/rot090', 'a/rot180', 'a/rot270', 'b/rot000')
  """
  refuse_turned(data, 'rotate')
  return LabelledImages(
    np.concatenate([turned(data.images, turns) for turns in range(4)]),
    np.concatenate([4 * data.labels + turns for turns in range(4)]),
    tuple(
      f'{name}/rot{90 * turns:03d}' for name in data.names for turns in range(4)
    ),
  )


def turned(images: np.ndarray, turns: int) -> np.ndarray:
  """Turns images counter-clockwise by `turns` times 90 degrees.

  Raises:
    DataError: if they are none, or not square.
  """
  if images.ndim < 3:
    raise DataError(
      f'only images can be turned by {90 * turns} degrees, and these are texts;'
      ' leave rotations (/rot090 and so on) out of the class lists'
    )
  height, width = images.shape[1:3]
  if turns % 2 and height != width:
    raise DataError(
      f'images of {height} x {width} pixels cannot be turned by 90 degrees;'
      ' they would have to be square'
    )
  return np.rot90(images, turns, axes=(1, 2))


def refuse_turned(data: LabelledImages | Texts, action: str) -> None:
  """Refuses data in which a class is another one, turned."""
  found = next((name for name in data.names if TURNED.search(name)), None)
  if found is not None:
    raise DataError(
      f'cannot {action} classes that are rotated already, such as {found!r};'
      ' split first, then rotate each part once'
    )
