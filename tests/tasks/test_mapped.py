"""Examples that go through a function once, and the tasks of what it makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks import (
  HostEpisodes,
  classification,
  episodes,
  map_array,
  map_examples,
  sinusoid,
)

KEY = jax.random.key(0)
LABELS = np.arange(30) % 5
IMAGES = np.random.default_rng(0).integers(0, 255, (30, 4, 4), np.uint8)
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(16, 3)), 'float32')


def project(weights, images):
  return images.reshape(len(images), -1) @ weights


ENCODE = jax.tree_util.Partial(project, WEIGHTS)


@pytest.mark.parametrize(
  'sample',
  [
    episodes(IMAGES, LABELS, 3, 1, 2),
    HostEpisodes(IMAGES, LABELS, 3, 1, 2),
    classification(IMAGES, LABELS, 8),
  ],
  ids=['device', 'host', 'all classes'],
)
def test_tasks_of_features_are_the_features_of_tasks(sample):
  done = []
  features = map_examples(
    sample, ENCODE, batch_size=8, progress=lambda *at: done.append(at)
  )
  assert done == [(8, 30), (16, 30), (24, 30), (30, 30)]

  @jax.jit
  def both(features, key):
    return features(key), sample(key)

  for mapped, plain in zip(*both(features, KEY), strict=True):
    np.testing.assert_allclose(
      mapped.inputs, project(WEIGHTS, plain.inputs), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(mapped.targets, plain.targets)


def test_texts_go_by_their_length_without_what_is_padding():
  lengths = np.array([3, 40, 1, 16, 17, 64, 2, 30])
  tokens = np.where(np.arange(64) < lengths[:, None], 7, -1)
  shapes = []

  def count(tokens):
    shapes.append(tokens.shape)
    return jnp.sum(tokens >= 0, axis=1)

  assert map_array(tokens, count, batch_size=2).tolist() == lengths.tolist()
  # Of two texts each, and no program is compiled twice.
  assert shapes == [(2, 16), (2, 32), (2, 64)]


def test_integers_that_are_not_padded_with_minus_one_stay_whole():
  tokens = np.full((3, 40), -5)
  shapes = []

  def first(tokens):
    shapes.append(tokens.shape)
    return tokens[:, 0]

  assert map_array(tokens, first).tolist() == [-5] * 3
  assert shapes == [(3, 40)]


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'batch_size': 0}, 'batch_size must be 1 or more, got 0'),
    ({'examples': IMAGES[:0]}, 'there are no examples to map'),
    ({'function': jnp.sum}, r'a row for each of 30; got \(\)'),
    ({'function': lambda images: (images, images)}, 'returns one array'),
    ({'examples': np.zeros((5, 3, 9, 9), np.uint8)}, 'channels last'),
  ],
)
def test_what_cannot_be_mapped_is_refused(changed, message):
  with pytest.raises(ValueError, match=message):
    map_array(
      **{'examples': IMAGES, 'function': ENCODE, 'batch_size': 64} | changed
    )


def test_a_sampler_without_examples_is_refused():
  with pytest.raises(ValueError, match='holds examples is wanted'):
    map_examples(sinusoid(5, 5), ENCODE)
