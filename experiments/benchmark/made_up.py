"""Made-up examples, as files and rows that a learner is asked about."""

import base64
import io
from typing import Any

import numpy as np

__all__ = ['examples']

_PAPER = 105  # pixels of a drawing


def examples(manifest: Any, number: int, seed: int) -> tuple[Any, list[Any]]:
  """A support set of one example a class, and queries."""
  rng = np.random.default_rng(seed)
  what, outputs = manifest['inputs'], manifest['outputs']

  def some(number: int) -> list[Any]:
    if what['kind'] == 'images':
      return [_image(what, rng) for _ in range(number)]
    if what['kind'] == 'texts':
      return [' '.join(f'word{each}' for each in rng.integers(0, 99, 8))
              for _ in range(number)]  # fmt: skip
    return rng.normal(size=(number, *what['shape'])).tolist()

  if 'classes' in outputs:
    names = [f'class {each}' for each in range(outputs['classes'])]
    return {name: some(1) for name in names}, some(number)
  targets = rng.normal(size=(1, len(outputs['names']))).tolist()
  return {'inputs': some(1), 'targets': targets}, some(number)


def _image(what: Any, rng: np.random.Generator) -> str:
  """A PNG file: lines on paper where the learner knows drawings, else noise."""
  import PIL.Image
  import PIL.ImageDraw

  height, width, channels = what['shape']
  if what.get('files', {}).get('ink'):
    image = PIL.Image.new('L', (_PAPER, _PAPER), 255)
    points = [tuple(each) for each in rng.integers(10, 95, (5, 2)).tolist()]
    PIL.ImageDraw.Draw(image).line(points, 0, 3)
  else:
    pixels = rng.integers(0, 256, (height, width, channels), np.uint8)
    image = PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
  made = io.BytesIO()
  image.save(made, 'PNG')
  return base64.b64encode(made.getvalue()).decode()
