"""The delta-encoder: what it keeps, what it learns, what it carries over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import at, classes

import metajax
from metajax.algorithms.delta_encoder import (
  LABELS,
  Moments,
  draw_codes,
  draw_pairs,
  moments_of,
  reconstruction_errors,
)
from metajax.algorithms.hallucination import identity
from metajax.base import Batch, Task, Weighted, sample_tasks
from metajax.models import mlp
from metajax.precision import drawn_like_inputs
from metajax.testing import slopes

WAYS = 3
WIDTH = 32  # a layer that is zero for an example has a kink there
EMBEDDING = drawn_like_inputs(mlp([6], 4))
PROTONET = metajax.protonet(identity, metajax.cross_entropy, WAYS)
KEY = jax.random.key(0)


def random_tasks(num: int) -> Task:
  return classes(num, WAYS, WAYS, 5)


def make(embedding=EMBEDDING, **settings):
  return metajax.delta_encoder(
    embedding,
    metajax.cross_entropy,
    PROTONET,
    4,
    **{'code_size': 2, 'width': WIDTH, **settings},
  )


@functools.cache
def drawn():
  """Meta-parameters in double precision."""
  inputs = random_tasks(1).support.inputs[0]
  return jax.tree.map(np.asarray, jax.jit(make().init)(KEY, inputs))


RATE = 0.25


@jax.jit
def gradient_of(meta_params, tasks: Task, weight):
  learner = make(averaging_rate=RATE, reconstruction_weight=weight)
  return learner.grad(KEY, meta_params, tasks)[0]


@pytest.mark.in_ci
def test_the_gradient_of_the_query_loss_equals_central_differences(float64):
  tasks = random_tasks(3)
  meta_params = drawn()
  # The moments are averages: what the loss thinks of them does not matter.
  learner = make(reconstruction_weight=0.0)
  moments = meta_params.generator.moments
  fixed = learner._replace(
    grad=lambda key, weights, tasks: without_moments(
      learner.grad(key, with_moments(weights, moments), tasks)
    )
  )
  weights, _ = without_moments((meta_params, {}))
  found = slopes(fixed, weights, tasks)
  np.testing.assert_allclose(*found, rtol=1e-5)


def with_moments(weights, moments):
  return weights._replace(generator=weights.generator._replace(moments=moments))


def without_moments(result):
  gradient, metrics = result
  return with_moments(gradient, ()), metrics


@pytest.mark.in_ci
def test_the_auto_encoder_learns_from_fixed_features(float64):
  with_it, without = (
    gradient_of(drawn(), random_tasks(2), weight) for weight in (1.0, 0.0)
  )
  change = jax.tree.map(
    lambda a, b: np.asarray(a) - np.asarray(b), with_it, without
  )
  size = {
    name: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))
    for name, tree in (
      ('embedding', change.params),
      ('encoder', change.generator.encoder),
      ('decoder', change.generator.decoder),
      ('moments', change.generator.moments),
    )
  }
  assert size['embedding'] < 1e-12
  assert size['moments'] < 1e-12
  assert size['encoder'] > 1e-6
  assert size['decoder'] > 1e-6


@pytest.mark.in_ci
def test_moments_move_to_those_of_the_tasks(float64):
  tasks = random_tasks(2)
  meta_params = drawn()
  optimizer = metajax.outer_optimizer(optax.adam(1e-3), LABELS)

  @jax.jit
  def updated(meta_params, gradient):
    updates, _ = optimizer.update(
      gradient, optimizer.init(meta_params), meta_params
    )
    return optax.apply_updates(meta_params, updates)

  after = updated(meta_params, gradient_of(meta_params, tasks, 1.0))
  # With one example of a class each there is no choice of pairs.
  embed = jax.jit(jax.vmap(EMBEDDING.apply, in_axes=(None, 0)))
  references, features = (
    np.asarray(embed(meta_params.params, part.inputs)) for part in tasks
  )
  pairs = np.concatenate([features, references[:, [0, 1, 2, 0, 1]]], axis=2)
  encoder = mlp([WIDTH], 2)
  codes = np.asarray(
    jax.jit(encoder.apply)(meta_params.generator.encoder, pairs.reshape(10, -1))
  )
  before = jax.tree.map(np.asarray, meta_params.generator.moments)
  np.testing.assert_allclose(
    after.generator.moments.first,
    (1 - RATE) * before.first + RATE * codes.mean(axis=0),
    rtol=1e-10,
  )
  np.testing.assert_allclose(
    after.generator.moments.second,
    (1 - RATE) * before.second + RATE * codes.T @ codes / len(codes),
    rtol=1e-10,
  )


def test_codes_are_drawn_with_the_moments_that_were_kept():
  # In a plane, so that the covariance has no inverse.
  plane = np.array([[1.0, 2.0, 0.5], [0.0, 1.0, 1.0]], np.float32)
  kept = np.random.default_rng(0).normal(1, 1, (100, 2)) @ plane
  even = np.full((100,), 0.01)

  @jax.jit
  def drawn(kept, even):
    return draw_codes(KEY, moments_of(kept, even), 20_000)

  codes = np.asarray(drawn(kept, even))
  np.testing.assert_allclose(codes.mean(0), kept.mean(0), atol=0.1)
  np.testing.assert_allclose(
    np.cov(codes.T), np.cov(kept.T, bias=True), rtol=0.05, atol=0.1
  )
  out_of_plane = np.cross(*plane)
  assert np.abs((codes - kept.mean(0)) @ out_of_plane).max() < 0.02


def test_errors_count_by_their_squares():
  features, decoded = np.array([[1.0, 4.0, 0.0]]), np.array([[2.0, 2.0, 0.0]])
  # Errors 1, 2 and 0, of weights 1/5, 4/5 and 0.
  errors = jax.jit(reconstruction_errors)
  found = errors(features, decoded)
  np.testing.assert_allclose(found, [1 / 5 + 8 / 5], rtol=1e-6)
  same = np.ones((1, 3))
  np.testing.assert_array_equal(errors(same, same), [0])


def test_pairs_are_of_one_class_and_padding_counts_nothing():
  known = Weighted(np.array([0, 1, 2, 0, 1, 2]), np.array([1, 1, 1, 1, 1, 0]))
  support = Batch(np.arange(6.0)[:, None], known)
  asked = Weighted(np.tile([2, 1, 0, 1], 10), np.tile([1, 1, 1, 0], 10))
  query = Batch(np.zeros((40, 1)), asked)
  pairs = jax.jit(draw_pairs)(KEY, support, query)
  partners = np.asarray(pairs.references[:, 0]).reshape(10, 4)
  assert set(partners[:, 0]) == {2}
  assert set(partners[:, 1]) == {1, 4}
  assert set(partners[:, 2]) == {0, 3}
  np.testing.assert_allclose(
    pairs.weights, np.tile([1 / 30, 1 / 30, 1 / 30, 0], 10)
  )


def test_a_query_without_a_partner_is_no_pair():
  support = Batch(np.arange(2.0)[:, None], np.array([0, 0]))
  asked = Weighted(np.array([0, 1, 0, 0]), np.array([1, 1, 1, 0]))
  query = Batch(np.zeros((4, 1)), asked)
  pairs = jax.jit(draw_pairs)(KEY, support, query)
  np.testing.assert_allclose(pairs.weights, [1 / 2, 0, 1 / 2, 0])


DIRECTION = np.array([0.6, 0.0, 0.8, 0.0])


def stretched(key: jax.Array) -> Task:
  """Classes are places in space, and all of them are long the same way."""
  centre_key, *keys = jax.random.split(key, 3)
  centres = jax.random.normal(centre_key, (WAYS, 4))

  def batch(key: jax.Array, each: int) -> Batch:
    targets = jnp.repeat(jnp.arange(WAYS), each)
    length = jax.random.normal(key, (WAYS * each, 1))
    return Batch(
      centres[targets] + length * jnp.asarray(DIRECTION)[None], targets
    )

  return Task(batch(keys[0], 1), batch(keys[1], 5))


@pytest.mark.long
def test_the_way_in_which_classes_vary_is_carried_over_to_new_ones():
  learner = make(embedding=identity)
  train = metajax.make_train_step(
    learner,
    metajax.outer_optimizer(optax.adam(3e-3), LABELS),
    stretched,
    tasks_per_step=8,
  )
  state, _ = train.run(train.init(KEY), 600)
  moments = state.meta_params.generator.moments
  assert isinstance(moments, Moments)
  support = sample_tasks(stretched, jax.random.key(1), 1).support
  support = at(support, 0)

  def spread(seed):
    adapted, _ = learner.adapt(jax.random.key(seed), state.meta_params, support)
    return adapted.learner.means[:, :]

  means = jax.jit(jax.vmap(spread))(jnp.arange(200))
  changes = np.asarray(means - means.mean(0, keepdims=True)).reshape(-1, 4)
  along = np.square(changes @ DIRECTION).sum()
  assert along > 0.9 * np.square(changes).sum()
  # The mean of one real example and four of another length: 4/5 by root 4.
  assert 0.1 < np.sqrt(along / len(changes)) < 1


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'num_extra': -1}, 'num_extra must be 0 or more, got -1'),
    ({'code_size': 0}, 'code_size must be 1 or more, got 0'),
    ({'averaging_rate': 0.0}, 'averaging_rate must be above 0 and up to 1'),
    ({'averaging_rate': 1.5}, 'averaging_rate must be above 0 and up to 1'),
  ],
)
def test_what_cannot_be_meant_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    metajax.delta_encoder(EMBEDDING, metajax.cross_entropy, PROTONET, **wrong)
