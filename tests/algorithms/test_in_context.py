"""In-context learning: what a query sees, and what class numbers mean."""

import functools

import jax
import numpy as np
import pytest
from numpy_draws import at, parameters, sinusoids, stacked

import metajax
from metajax.base import Batch, Task, Weighted
from metajax.models import mlp
from metajax.testing import slopes

WAYS, KEY = 3, jax.random.key(0)
EMBEDDING = mlp([6], 4)
TARGETS = np.array([2, 0, 1, 0, 2, 1], np.int32)


def batch(seed: int, targets=TARGETS) -> Batch:
  inputs = np.random.default_rng(seed).normal(size=(len(targets), 5))
  return Batch(inputs, np.asarray(targets))


def make(ways=WAYS, objective=metajax.cross_entropy, inputs=None):
  learner = metajax.in_context(
    EMBEDDING, objective, ways, label_size=6, width=8, depth=2, heads=2
  )
  inputs = batch(0).inputs if inputs is None else inputs
  return learner, parameters(learner.init, inputs)


@functools.cache
def compiled():
  learner, params = make()

  @jax.jit
  def outputs(support: Batch, queries, order):
    """Before the support set, after it, and with other codes of classes."""
    adapted, adaptation = learner.adapt(KEY, params, support)
    before = adaptation.after(0, adapted)
    renumbered = adapted._replace(code=adapted.code[order])
    return [
      learner.predict(each, queries) for each in (before, adapted, renumbered)
    ]

  return outputs


def outputs_of(support: Batch, queries, order=(0, 1, 2)):
  found = compiled()(support, queries, np.asarray(order))
  return jax.tree.map(np.asarray, found)


@pytest.fixture
def learned(float64):
  return lambda support, queries: outputs_of(support, queries)[1]


def test_a_query_sees_the_support_set_and_no_other_query(learned):
  support, queries = batch(0), batch(1).inputs
  outputs = learned(support, queries)
  others = learned(support, queries + (np.arange(6) > 0)[:, None])
  np.testing.assert_allclose(others[0], outputs[0], rtol=1e-12)
  assert np.abs(others[1:] - outputs[1:]).max() > 1e-6
  changed = support._replace(inputs=support.inputs + np.eye(6)[0][:, None])
  assert np.abs(learned(changed, queries) - outputs).max() > 1e-6


def test_the_order_of_the_support_set_does_not_matter(learned):
  support, queries = batch(0), batch(1).inputs
  turned = at(support, [3, 5, 0, 1, 4, 2])
  np.testing.assert_allclose(
    learned(turned, queries), learned(support, queries), rtol=1e-9
  )


def test_numbering_the_classes_anew_numbers_the_predictions_anew(float64):
  """If what stands for the classes is numbered anew with them."""
  anew = np.array([2, 0, 1])
  _, outputs, renumbered = outputs_of(batch(0), batch(1).inputs, anew)
  np.testing.assert_allclose(renumbered, outputs[:, anew], rtol=1e-9)


def test_before_the_support_set_all_classes_are_equally_likely(float64):
  outputs, *_ = outputs_of(batch(0), batch(1).inputs)
  np.testing.assert_array_equal(outputs, np.zeros((6, WAYS)))


def test_other_ways_and_shots_than_in_training_are_possible(float64):
  learner, _ = make(ways=4)
  _, params = make()

  @jax.jit
  def outputs(support, queries):
    adapted, _ = learner.adapt(KEY, params, support)
    return learner.predict(adapted, queries)

  support = batch(0, np.arange(8, dtype=np.int32) % 4)
  assert outputs(support, batch(1).inputs).shape == (6, 4)


@pytest.mark.long
def test_padding_and_classes_that_are_not_there_change_nothing(learned):
  small = batch(0, np.array([1, 0, 1, 0], np.int32))
  padded = Batch(
    small.inputs[[0, 1, 1, 2, 3]],
    Weighted(np.int32([1, 0, 2, 1, 0]), np.array([1.0, 1, 0, 1, 1])),
  )
  outputs = [learned(support, batch(1).inputs) for support in (small, padded)]
  np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-9)
  assert (outputs[0][:, 2] < -1e29).all()
  assert (outputs[0][:, :2] > -1e29).all()


@pytest.mark.in_ci
def test_the_meta_gradient_is_that_of_differences(float64):
  learner, params = make()
  tasks = stacked(Task(batch(0), batch(1)), Task(batch(2), batch(3)))
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


@pytest.mark.long
def test_targets_that_are_numbers_are_predicted_as_numbers(float64):
  tasks = sinusoids(2, 4, 3)
  learner, params = make(
    None, metajax.mean_squared_error, tasks.support.inputs[0]
  )
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_more_targets_than_labels_have_room_for_are_refused(float64):
  learner, params = make(None, metajax.mean_squared_error)
  support = Batch(batch(0).inputs, np.zeros((6, 7)))
  with pytest.raises(ValueError, match=r'label_size is 6.* 7 targets'):
    jax.eval_shape(learner.adapt, KEY, params, support)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_classes': 0}, 'num_classes must be 1 or more, got 0'),
    ({'label_size': 0}, 'label_size must be 1 or more, got 0'),
    ({'heads': 3}, '3 heads do not divide a width of 64'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.in_context(EMBEDDING, metajax.cross_entropy, **options)
