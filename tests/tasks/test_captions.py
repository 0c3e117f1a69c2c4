"""Captions of signs: they tell the class, vary, and keep their form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks.captions import (
  LENGTH,
  caption,
  caption_tokenizer,
  described_strokes,
)
from metajax.tasks.signs import KINDS, StrokeProgram

CLASSES, EACH = 60, 4
decode = caption_tokenizer().decode
describe = jax.jit(caption)


@pytest.fixture(scope='module')
def signs():
  return described_strokes('test', CLASSES, EACH)


def sign(*boxes) -> tuple[jax.Array, StrokeProgram]:
  """Strokes of kinds from corner to corner: (kind, left, top, right, low)."""
  points, kinds = np.zeros((4, 10, 2), np.float32), np.zeros(4, np.int32)
  for place, (kind, left, top, right, low) in enumerate(boxes):
    kinds[place] = KINDS.index(kind)
    points[place] = np.linspace((left, top), (right, low), 10)
  used = np.arange(4) < len(boxes)
  return jnp.asarray(kinds), StrokeProgram(jnp.asarray(points), used)


def words(*boxes) -> set[str]:
  """All words of many captions."""
  kinds, program = sign(*boxes)
  keys = jax.random.split(jax.random.key(0), 60)
  texts = [decode(describe(key, kinds, program)) for key in keys]
  return set(' '.join(texts).split())


def test_what_is_drawn_is_said():
  said = words(('ring', -0.9, -0.8, 0.3, -0.6))
  assert said == {
    'a', 'one', 'some', 'large', 'big', 'huge', 'level', 'flat', 'wide', 'ring',
    'circle', 'oval', 'top', 'above', 'upper', 'left', 'leftmost', 'west',
  }  # fmt: skip
  said = words(('dot', 0.5, 0.6, 0.55, 0.65))
  assert {'point', 'tiny', 'square', 'below', 'east'} <= said


def test_strokes_are_told_in_their_order():
  kinds, program = sign(('bar', 0, -0.5, 0.1, 0.5), ('ring', 0.5, 0, 0.9, 0.4))
  for seed in range(20):
    text = decode(describe(jax.random.key(seed), kinds, program)).split()
    first = [word in ('bar', 'line', 'stick') for word in text].index(True)
    second = [word in ('ring', 'circle', 'oval') for word in text].index(True)
    assert first < second


def test_tokens_have_their_padding_at_the_end(signs):
  assert signs.texts.shape == (CLASSES * EACH, LENGTH)
  assert signs.texts.dtype == np.int32
  real = signs.texts >= 0
  assert (real == np.sort(real, axis=1)[:, ::-1]).all()
  assert real.any(axis=1).all()
  assert signs.texts.max() < caption_tokenizer().vocabulary
  assert signs.texts[real].min() > 0  # no word is unknown


def test_pictures_are_those_of_handwriting(signs):
  assert signs.images.dtype == np.uint8
  ink = signs.images.mean(axis=(1, 2)) / 255
  assert ink.min() > 0.005
  assert 0.04 < ink.mean() < 0.1


def test_captions_vary_and_tell_the_class(signs):
  texts = signs.texts.reshape(CLASSES, EACH, LENGTH)
  assert len(np.unique(signs.texts, axis=0)) > 0.9 * CLASSES * EACH
  # Whoever knows which words are names of one thing finds the class again.
  kinds = np.array([meaning(text) for text in signs.texts])
  kinds = kinds.reshape(CLASSES, EACH, -1)
  alike = (kinds[:, None, 0] * kinds[None, :, 1]).sum(-1) / np.sqrt(
    (kinds[:, None, 0] ** 2).sum(-1) * (kinds[None, :, 1] ** 2).sum(-1)
  )
  found = (alike.argmax(axis=0) == np.arange(CLASSES)).mean()
  assert found > 0.6  # of 60 classes; chance: 0.017
  assert texts.shape == (CLASSES, EACH, LENGTH)


def meaning(text: np.ndarray) -> np.ndarray:
  """Counts of what words mean, as the tables of the module say."""
  from metajax.tasks.captions import _tables

  rows = np.concatenate(_tables())
  return np.array([np.isin(text, row).sum() for row in rows], float)


def test_the_same_classes_however_many_are_drawn(signs):
  fewer = described_strokes('test', 3, EACH)
  np.testing.assert_array_equal(fewer.texts, signs.texts[: 3 * EACH])
  np.testing.assert_array_equal(fewer.images, signs.images[: 3 * EACH])
  other = described_strokes('validation', 3, EACH)
  assert (other.images != fewer.images).any()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('dev', 1, 1), "train, validation, test; got 'dev'"),
    (('test', 0, 1), 'num_classes must be 1 or more, got 0'),
    (('test', 1, 0), 'each must be 1 or more, got 0'),
  ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    described_strokes(*arguments)
