"""Looks into pictures: their files and their figures."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

TITLE = 'MAML, strokes, 5-way 1-shot, transductive, 1000 test tasks'


def pixels(path):
  """The pixels of a PNG, decoded in full, so that a torn file fails."""
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def count(image, color):
  return int(np.all(image == np.round(255 * np.array(to_rgb(color))), -1).sum())


def assert_nothing_is_cut(image):
  """The outermost pixels are white: no text or line runs out of the picture."""
  for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
    assert (edge > 250).all()


def texts(figure):
  return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def task(ways=5, queries=3, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(ways), queries))
  return {
    'support_images': rng.random((ways, 28, 28, channels)),
    'support_labels': np.arange(ways),
    'query_images': rng.random((len(labels), 28, 28, channels)),
    'query_labels': labels,
    'predictions_before': (labels + 1) % ways,
    'predictions_after': labels.copy(),
  }
