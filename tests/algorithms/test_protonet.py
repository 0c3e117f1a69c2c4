"""Prototypical networks against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.base import Batch, Task
from metajax.models import mlp
from metajax.testing import slopes

WAYS = 3
EMBEDDING = mlp([4], 2)
KEY = jax.random.key(0)


def support_set() -> Batch:
  """Classes of different sizes, in no order."""
  targets = jnp.array([2, 0, 1, 0, 2, 2])
  return Batch(jax.random.normal(KEY, (6, 5)), targets)


@pytest.fixture(scope='module')
def params():
  return jax.jit(EMBEDDING.init)(jax.random.key(1), jnp.zeros((1, 5)))


@pytest.fixture(scope='module')
def learner():
  return metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)


def test_logits_are_minus_squared_distances_to_class_means(learner, params):
  support = support_set()
  queries = jax.random.normal(jax.random.key(2), (4, 5))
  adapted, _ = jax.jit(learner.adapt)(KEY, params, support)
  logits = jax.jit(learner.predict)(adapted, queries)
  embed = jax.jit(EMBEDDING.apply)
  features = np.asarray(embed(params, support.inputs))
  embedded = np.asarray(embed(params, queries))
  targets = np.asarray(support.targets)
  expected = [
    [-((query - features[targets == way].mean(0)) ** 2).sum()
     for way in range(WAYS)]
    for query in embedded
  ]  # fmt: skip
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_meta_gradient_is_that_of_differences(float64, learner):
  def batch(seed: int, targets: list[int]) -> Batch:
    inputs = jax.random.normal(jax.random.key(seed), (2, len(targets), 5))
    return Batch(inputs, jnp.tile(jnp.array(targets)[None], (2, 1)))

  tasks = Task(batch(3, [2, 0, 1, 0]), batch(4, [1, 2, 0]))
  params = jax.tree.map(
    lambda leaf: leaf.astype(jnp.float64),
    learner.init(jax.random.key(1), jnp.zeros((1, 5), jnp.float32)),
  )
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_before_the_support_set_all_classes_are_equally_likely(learner, params):
  _, adaptation = jax.jit(learner.adapt)(KEY, params, support_set())
  before = jax.tree.map(lambda leaf: leaf[0], adaptation.trajectory)
  logits = learner.predict(before, jax.random.normal(KEY, (4, 5)))
  np.testing.assert_array_equal(logits, np.tile(logits[:, :1], (1, WAYS)))


def test_the_order_of_the_support_set_does_not_matter(learner, params):
  support = support_set()
  order = np.array([3, 5, 0, 1, 4, 2])
  adapt = jax.jit(learner.adapt)
  first, _ = adapt(KEY, params, support)
  second, _ = adapt(
    KEY, params, jax.tree.map(lambda leaf: leaf[order], support)
  )
  np.testing.assert_allclose(first.means, second.means, rtol=1e-5, atol=1e-6)


def test_numbering_the_classes_anew_numbers_the_predictions_anew(
  learner, params
):
  support = support_set()
  renumbered = jnp.array([1, 2, 0])
  adapt = jax.jit(learner.adapt)
  first, _ = adapt(KEY, params, support)
  second, _ = adapt(
    KEY, params, support._replace(targets=renumbered[support.targets])
  )
  np.testing.assert_allclose(
    second.means[renumbered], first.means, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('num_classes', [0, -1])
def test_no_classes_are_refused(num_classes):
  with pytest.raises(ValueError, match=f'1 or more, got {num_classes}'):
    metajax.protonet(EMBEDDING, metajax.cross_entropy, num_classes)
