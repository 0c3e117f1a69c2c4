"""Relation networks: pairs, and both objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import parameters, stacked

import metajax
from metajax.algorithms.relationnet import relation_module
from metajax.base import Batch, Model, Task, Weighted
from metajax.models import conv4, mlp
from metajax.testing import slopes

WAYS, KEY = 3, jax.random.key(0)
EMBEDDING = mlp([6], 4)
# The product of both features, which no distance is.
PRODUCT = Model(
  init=lambda key, inputs: (),
  apply=lambda params, inputs: inputs[1] @ inputs[0].T,
)
IDENTITY = Model(
  init=lambda key, inputs: (), apply=lambda params, inputs: inputs
)


def batch(seed: int, targets=(2, 0, 1, 0, 2)) -> Batch:
  targets = np.asarray(targets, np.int32)
  inputs = np.random.default_rng(seed).normal(size=(len(targets), 5))
  return Batch(inputs, targets)


def make(ways=WAYS, objective=metajax.cross_entropy, relation=None):
  relation = relation or relation_module(8)
  learner = metajax.relationnet(EMBEDDING, objective, ways, relation=relation)
  return learner, parameters(learner.init, batch(0).inputs)


def predictions(learner, params, support: Batch, queries):
  """Before the support set and after it."""

  @jax.jit
  def of(params, support, queries):
    adapted, adaptation = learner.adapt(KEY, params, support)
    before = adaptation.after(0, adapted)
    return tuple(learner.predict(each, queries) for each in (before, adapted))

  return jax.tree.map(np.asarray, of(params, support, queries))


def test_the_module_sees_the_mean_of_a_class_and_a_query():
  learner = metajax.relationnet(
    IDENTITY, metajax.cross_entropy, 2, relation=PRODUCT
  )
  support = Batch(np.array([[1.0], [5.0], [3.0]]), np.array([0, 1, 0]))
  params = learner.init(KEY, support.inputs)
  _, outputs = predictions(learner, params, support, np.array([[10.0], [-1.0]]))
  np.testing.assert_allclose(outputs, [[20, 50], [-2, -5]])


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'objective', [metajax.cross_entropy, metajax.relation_error]
)
def test_the_meta_gradient_is_that_of_differences(float64, objective):
  learner, params = make(objective=objective)
  tasks = stacked(Task(batch(0), batch(1)), Task(batch(2), batch(3)))
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_the_relation_error_is_that_of_numpy():
  outputs = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], np.float32)
  loss, metrics = jax.jit(metajax.relation_error)(outputs, np.array([0, 1]))
  errors = 1 / (1 + np.exp(-outputs)) - np.eye(3)[[0, 1]]
  np.testing.assert_allclose(loss, np.mean(errors**2), rtol=1e-6)
  assert float(metrics['accuracy']) == 0.5


def test_the_relation_error_leaves_out_padding():
  outputs, error = np.array([[2.0, -1.0], [5.0, 5.0]]), metajax.relation_error
  targets = Weighted(np.array([0, 1]), np.array([1.0, 0.0]))
  padded, _ = jax.jit(error)(outputs, targets)
  alone, _ = jax.jit(error)(outputs[:1], np.array([0]))
  np.testing.assert_allclose(padded, alone, rtol=1e-6)


def test_before_the_support_set_all_classes_are_equally_likely(float64):
  outputs, _ = predictions(*make(), batch(0), batch(1).inputs)
  np.testing.assert_allclose(
    outputs, np.tile(outputs[:, :1], (1, WAYS)), rtol=1e-12
  )


def test_padding_and_classes_that_are_not_there_change_nothing(float64):
  small = batch(0, (1, 0, 1, 0))
  padded = Batch(
    small.inputs[[0, 1, 1, 2, 3]],
    Weighted(np.int32([1, 0, 2, 1, 0]), np.array([1.0, 1, 0, 1, 1])),
  )
  outputs = [
    predictions(*make(ways), support, batch(1).inputs)[1]
    for ways, support in ((2, small), (WAYS, padded))
  ]
  np.testing.assert_allclose(outputs[1][:, :2], outputs[0], rtol=1e-9)
  assert (outputs[1][:, 2] < -1e29).all()


@pytest.mark.long
def test_maps_of_features_are_compared_by_convolutions():
  """A query with fixed statistics does not see the other ones."""
  model = conv4(None, width=4, pool='none', halvings=2)
  images = jax.random.normal(KEY, (6, 16, 16, 1))

  @jax.jit
  def outputs(queries: jax.Array) -> jax.Array:
    params = model.init(KEY, images)
    frozen = model.freeze(model.measure(params, images))
    learner = metajax.relationnet(frozen, metajax.cross_entropy, 2)
    meta_params = learner.init(KEY, images)
    support = Batch(images[:4], jnp.array([0, 1, 0, 1]))
    adapted, _ = learner.adapt(KEY, meta_params, support)
    assert adapted.means.shape == (2, 4, 4, 4)
    return learner.predict(adapted, queries)

  first = outputs(images[4:])
  second = outputs(images[4:].at[1].add(1.0))
  assert first.shape == (2, 2)
  np.testing.assert_array_equal(first[0], second[0])
  assert (first[1] != second[1]).all()


def test_no_classes_are_refused():
  with pytest.raises(ValueError, match='1 or more, got 0'):
    metajax.relationnet(EMBEDDING, metajax.cross_entropy, 0)
