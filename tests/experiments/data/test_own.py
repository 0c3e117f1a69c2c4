"""Drawings of one's own become what the learner was trained on."""

import numpy as np
import PIL.Image
import pytest

from experiments.data import own
from metajax.tasks import DataError
from metajax.tasks.decoding import Picture
from metajax.tasks.omniglot import shrink

WHAT = {'shape': [28, 28, 1], 'files': {'size': 28, 'ink': True}}


@pytest.fixture
def drawing() -> np.ndarray:
  """Ink, which is 0, on paper of 255."""
  pixels = np.full((105, 105), 255, np.uint8)
  pixels[20:80, 30:38] = 0
  pixels[60:68, 10:90] = 0
  return pixels


def save(folder, name: str, pixels: np.ndarray, **options) -> Picture:
  path = folder / name
  PIL.Image.fromarray(pixels).save(path, **options)
  return Picture(name, path)


def test_a_drawing_of_omniglot_is_that_whatever_stands_beside_it(
  tmp_path, drawing
):
  one = save(tmp_path, '1.png', drawing)
  small = PIL.Image.fromarray(drawing).resize((60, 40))
  other = save(tmp_path, '2.png', np.asarray(small))
  alone = own.pixels_of(WHAT, [one], 'here')[..., 0]
  np.testing.assert_array_equal(alone, shrink(drawing[None]))
  for pictures in ([one, other], [other, one]):
    found = own.pixels_of(WHAT, pictures, 'here')[..., 0]
    np.testing.assert_array_equal(found[pictures.index(one)], alone[0])


def test_ink_that_is_not_quite_black_is_ink(tmp_path, drawing):
  scanned = np.where(drawing == 0, 20, 250).astype(np.uint8)
  noise = np.random.default_rng(0).integers(0, 6, drawing.shape)
  pictures = [
    save(tmp_path, '1.png', scanned),
    save(tmp_path, '2.png', scanned + noise.astype(np.uint8)),
    save(tmp_path, '3.jpg', drawing, quality=60),
  ]
  found = own.pixels_of(WHAT, pictures, 'here')[..., 0]
  for each in found.astype(float):
    assert np.abs(each - shrink(drawing[None])[0]).mean() < 15


def test_light_on_dark_is_refused(tmp_path, drawing):
  with pytest.raises(DataError, match='turn it round'):
    own.pixels_of(WHAT, [save(tmp_path, '1.png', 255 - drawing)], 'here')
