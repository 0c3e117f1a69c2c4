"""Prototypical networks against numpy."""

import jax
import numpy as np
import pytest
from numpy_draws import at, parameters

import metajax
from metajax.base import Batch, Task
from metajax.models import mlp
from metajax.testing import slopes

WAYS = 3
EMBEDDING = mlp([4], 2)
KEY = jax.random.key(0)


def support_set() -> Batch:
  """Classes of different sizes, in no order."""
  targets = np.array([2, 0, 1, 0, 2, 2], np.int32)
  return Batch(inputs_of(0, 6), targets)


def inputs_of(seed: int, *shape: int) -> np.ndarray:
  inputs = np.random.default_rng(seed).normal(size=(*shape, 5))
  return inputs.astype(np.float32)


@pytest.fixture(scope='module')
def params():
  drawn = parameters(EMBEDDING.init, inputs_of(0, 1))
  return jax.tree.map(lambda leaf: leaf.astype(np.float32), drawn)


@pytest.fixture(scope='module')
def learner():
  return metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)


@pytest.fixture(scope='module')
def adapt(learner):
  return jax.jit(learner.adapt)


@pytest.fixture(scope='module')
def predict(learner):
  return jax.jit(learner.predict)


def test_logits_are_minus_squared_distances_to_class_means(
  adapt, predict, params
):
  support = support_set()
  queries = inputs_of(2, 6)
  adapted, _ = adapt(KEY, params, support)
  logits = predict(adapted, queries)
  embed = jax.jit(EMBEDDING.apply)
  features = np.asarray(embed(params, support.inputs))
  embedded = np.asarray(embed(params, queries))
  targets = support.targets
  expected = [
    [-((query - features[targets == way].mean(0)) ** 2).sum()
     for way in range(WAYS)]
    for query in embedded
  ]  # fmt: skip
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_meta_gradient_is_that_of_differences(float64, learner):
  def batch(seed: int, targets: list[int]) -> Batch:
    return Batch(
      inputs_of(seed, 2, len(targets)).astype(np.float64),
      np.tile(targets, (2, 1)),
    )

  tasks = Task(batch(3, [2, 0, 1, 0]), batch(4, [1, 2, 0]))
  params = parameters(learner.init, inputs_of(0, 1))
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_before_the_support_set_all_classes_are_equally_likely(
  adapt, predict, params
):
  adapted, adaptation = adapt(KEY, params, support_set())
  before = adaptation.after(0, adapted)
  logits = np.asarray(predict(before, inputs_of(2, 6)))
  np.testing.assert_array_equal(logits, np.tile(logits[:, :1], (1, WAYS)))


def test_the_order_of_the_support_set_does_not_matter(adapt, params):
  support = support_set()
  first, _ = adapt(KEY, params, support)
  second, _ = adapt(KEY, params, at(support, [3, 5, 0, 1, 4, 2]))
  np.testing.assert_allclose(first.means, second.means, rtol=1e-5, atol=1e-6)


def test_numbering_the_classes_anew_numbers_the_predictions_anew(adapt, params):
  support = support_set()
  renumbered = np.array([1, 2, 0], np.int32)
  first, _ = adapt(KEY, params, support)
  second, _ = adapt(
    KEY, params, support._replace(targets=renumbered[support.targets])
  )
  np.testing.assert_allclose(
    np.asarray(second.means)[renumbered], first.means, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('num_classes', [0, -1])
def test_no_classes_are_refused(num_classes):
  with pytest.raises(ValueError, match=f'1 or more, got {num_classes}'):
    metajax.protonet(EMBEDDING, metajax.cross_entropy, num_classes)
