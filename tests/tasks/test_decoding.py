"""Pixels of image files: what a viewer shows, of a size that can be had."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from metajax.tasks import DataError
from metajax.tasks.decoding import Picture, decode

ORIENTATION = 0x0112
INK = np.zeros((8, 8), bool)
INK[3:5] = True


def encoded(image: Image.Image, format: str = 'png', **options) -> bytes:
  file = io.BytesIO()
  image.save(file, format, **options)
  return file.getvalue()


def decoded(*files: bytes, **options) -> np.ndarray:
  pictures = [Picture(f'p{i}', file) for i, file in enumerate(files)]
  return decode(pictures, len(files), 'here', **options)[0]


def drawing(mode: str, ink: int = 0, colour: int = 0) -> bytes:
  """Ink on a transparent ground that has a colour below."""
  if mode == 'P':
    image = Image.fromarray(INK.astype(np.uint8))
    image.putpalette([colour] * 3 + [ink] * 3)
    return encoded(image, transparency=0)
  if mode in ('L', 'RGB'):
    grey = Image.fromarray(np.where(INK, ink, colour + 1).astype(np.uint8))
    hole = colour + 1 if mode == 'L' else (colour + 1,) * 3
    return encoded(grey.convert(mode), transparency=hole)
  pixels = np.full((8, 8, len(mode)), colour, np.uint8)
  pixels[INK] = ink
  pixels[..., -1] = 255 * INK
  return encoded(Image.fromarray(pixels), 'webp' if mode == 'RGBA' else 'png')


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'L', 'RGB'])
def test_what_is_transparent_lies_on_white(mode):
  images = decoded(drawing(mode))
  assert images.ndim == (3 if mode in ('LA', 'L') else 4)
  shown = images[0] if images.ndim == 3 else images[0, ..., 0]
  np.testing.assert_array_equal(shown, np.where(INK, 0, 255))


def test_what_is_half_transparent_is_half_of_its_colour():
  pixels = np.zeros((2, 2, 4), np.uint8)
  pixels[0, 0, 3], pixels[1, 1, 3] = 128, 255
  shown = decoded(encoded(Image.fromarray(pixels)))[0, ..., 0]
  assert shown.tolist() == [[127, 255], [255, 0]]


def test_without_transparency_colours_are_as_they_are():
  pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
  pixels[..., 3] = 255
  (shown,) = decoded(encoded(Image.fromarray(pixels)))
  np.testing.assert_array_equal(shown, pixels[..., :3])


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_ink_as_white_as_the_ground_is_refused_or_left_out(mode):
  white, black = drawing(mode, ink=250), drawing(mode)
  with pytest.raises(
    DataError,
    match=r'1 of 2 images cannot be read: p1 \(it is transparent, and',
  ):
    decoded(black, white)
  with pytest.warns(UserWarning, match='nothing of it can be seen on a white'):
    assert len(decoded(black, white, skip_unreadable=True)) == 1


@pytest.mark.parametrize('format', ['png', 'jpeg', 'webp', 'tiff'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_are_upright(format, orientation):
  pixels = np.zeros((8, 12, 3), np.uint8)
  pixels[:3, :6] = 255
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  photo = encoded(Image.fromarray(pixels), format, exif=exif)
  expected = ImageOps.exif_transpose(Image.open(io.BytesIO(photo)))
  (shown,) = decoded(photo)
  np.testing.assert_array_equal(shown, np.asarray(expected.convert('RGB')))
  assert shown.shape == ((8, 12, 3) if orientation < 5 else (12, 8, 3))


def test_orientation_that_is_damaged_is_none():
  pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
  for exif in (b'Exif\0\0junkjunk', b'Exif\0\0'):
    (shown,) = decoded(encoded(Image.fromarray(pixels), exif=exif))
    np.testing.assert_array_equal(shown, pixels)


def test_too_many_pixels_are_refused_before_they_are_decoded():
  good = encoded(Image.new('L', (10, 10)))
  # Only the head is whole: nothing of this could be decoded.
  large = encoded(Image.new('1', (20_000, 15_000)))[:60]
  message = 'p1 has 20000 x 15000 pixels, more than the 67108864 .*raises that'
  for skip in (False, True):
    with pytest.raises(DataError, match=message):
      decoded(good, large, skip_unreadable=skip)
  with pytest.raises(
    DataError, match=r'p0 has 10 x 10 .* 99 .*max_image_pixels'
  ):
    decoded(good, max_image_pixels=99)
  assert decoded(good, max_image_pixels=100).shape == (1, 10, 10)


def test_the_limit_of_pillow_is_no_limit_here(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert decoded(encoded(Image.new('L', (9, 9)))).shape == (1, 9, 9)
  assert Image.MAX_IMAGE_PIXELS == 10


def test_limits_are_one_or_more():
  for options in ({'max_image_pixels': 0}, {'image_size': 0}):
    with pytest.raises(DataError, match='=0: must be 1 or more'):
      decoded(**options)


def test_progress_is_told_after_each_image():
  good = drawing('RGB')
  told = []
  with pytest.warns(UserWarning, match='1 of 3'):
    decoded(
      good, b'damaged', good, skip_unreadable=True,
      progress=lambda *counts: told.append(counts),
    )  # fmt: skip
  assert told == [(1, 3), (2, 3), (3, 3)]
