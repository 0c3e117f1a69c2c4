"""Nearest means of bags of words are those of a naive count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.adaptation.bag_of_words import bag_of_words_scores
from metajax.base import Batch, Weighted

scores_of = jax.jit(bag_of_words_scores, static_argnums=2)


def draw(rng, texts, length=7, vocabulary=12):
  tokens = rng.integers(0, vocabulary, (texts, length))
  lengths = rng.integers(1, length + 1, texts)
  return np.where(np.arange(length) < lengths[:, None], tokens, -1)


def naive(tokens, vocabulary=12):
  bags = np.zeros((len(tokens), vocabulary))
  for row, text in zip(bags, tokens, strict=True):
    for token in text[text >= 0]:
      row[token] += 1
  return bags / np.linalg.norm(bags, axis=1, keepdims=True)


def test_scores_are_distances_to_means_of_counts():
  rng = np.random.default_rng(0)
  known, asked = draw(rng, 9), draw(rng, 20, length=5)
  classes = np.arange(9) % 3
  scores = scores_of(
    Batch(jnp.asarray(known), jnp.asarray(classes)), jnp.asarray(asked), 3
  )
  means = np.stack([naive(known)[classes == k].mean(0) for k in range(3)])
  expected = -((naive(asked)[:, None] - means) ** 2).sum(-1)
  np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_padding_and_absent_classes_count_for_nothing():
  rng = np.random.default_rng(1)
  known, asked = draw(rng, 4), jnp.asarray(draw(rng, 6))
  classes = jnp.array([0, 1, 0, 1])
  plain = scores_of(Batch(jnp.asarray(known), classes), asked, 2)
  padded = Batch(
    jnp.pad(jnp.asarray(known), ((0, 2), (0, 3)), constant_values=-1),
    Weighted(jnp.pad(classes, (0, 2)), jnp.array([1, 1, 1, 1, 0, 0])),
  )
  scores = scores_of(padded, asked, 3)
  np.testing.assert_allclose(scores[:, :2], plain, atol=1e-6)
  assert (scores.argmax(1) < 2).all()


def test_what_is_no_token_is_refused():
  images = jnp.zeros((2, 4, 4, 1))
  with pytest.raises(ValueError, match='are of tokens, integers'):
    bag_of_words_scores(Batch(images, jnp.arange(2)), images, 2)
