"""Neural processes: means and attention over codes of the support set."""

import functools

import jax
import numpy as np
import pytest
from numpy_draws import at, parameters, sinusoids

import metajax
from metajax.algorithms.neural_process import dot_product_attention
from metajax.base import Batch
from metajax.models import mlp
from metajax.testing import slopes

KEY = jax.random.key(0)
ENCODER, ATTENTION = mlp([6], 4), mlp([5], 4)
both_kinds = pytest.mark.parametrize('attentive', [False, True])


def make(attentive: bool, outputs=1, objective=metajax.mean_squared_error):
  learner = metajax.neural_process(
    mlp([7], outputs),
    objective,
    encoder=ENCODER,
    attention=ATTENTION if attentive else None,
    heads=2,
  )
  return learner, parameters(learner.init, np.zeros((4, 1)))


def tasks():
  return sinusoids(2, 4, 3)


@functools.cache
def learned(attentive: bool):
  """What is adapted, and predictions before the support set and after it."""
  learner, params = make(attentive)

  @jax.jit
  def of(support: Batch, queries):
    adapted, adaptation = learner.adapt(KEY, params, support)
    ends = [adaptation.after(step, adapted) for step in (0, 1)]
    return [learner.predict(each, queries) for each in (*ends, adapted)]

  return lambda *args: jax.tree.map(np.asarray, of(*args))


def test_the_conditional_process_decodes_the_mean_of_codes(float64):
  _, params = make(attentive=False)
  task = at(tasks(), 0)
  *_, predicted = learned(False)(task.support, task.query.inputs)
  codes = jax.jit(ENCODER.apply)(
    params.encoder, np.concatenate([*task.support], axis=1)
  )
  mean = np.asarray(codes).mean(0)
  seen = np.c_[task.query.inputs, np.tile(mean, (3, 1))]
  np.testing.assert_allclose(
    predicted, jax.jit(mlp([7], 1).apply)(params.params, seen), rtol=1e-9
  )


def test_attention_is_that_of_numpy(float64):
  generator = np.random.default_rng(0)
  queries, keys, values = (
    generator.normal(size=size) for size in ((3, 4), (5, 4), (5, 6))
  )
  parts = []
  for head in range(2):
    q, k = queries[:, 2 * head :][:, :2], keys[:, 2 * head :][:, :2]
    weights = np.exp(q @ k.T / np.sqrt(2))
    weights = weights / weights.sum(1, keepdims=True)
    parts.append(weights @ values[:, 3 * head :][:, :3])
  found = jax.jit(dot_product_attention, static_argnames='heads')(
    queries, keys, values, heads=2
  )
  np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-9)


@both_kinds
def test_the_meta_gradient_is_that_of_differences(float64, attentive):
  learner, params = make(attentive)
  by_gradient, by_differences = slopes(learner, params, tasks())
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


@both_kinds
def test_the_order_of_the_support_set_does_not_matter(float64, attentive):
  support, query = at(tasks(), 0)
  turned = at(support, [2, 0, 3, 1])
  outputs = [
    learned(attentive)(each, query.inputs)[-1] for each in (support, turned)
  ]
  np.testing.assert_allclose(*outputs, rtol=1e-9)


@both_kinds
def test_before_the_support_set_nothing_is_known_of_targets(float64, attentive):
  support, query = at(tasks(), 0)
  outputs = [
    learned(attentive)(each, query.inputs)
    for each in (support, support._replace(targets=support.targets + 1))
  ]
  np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
  assert np.abs(outputs[0][1] - outputs[1][1]).max() > 1e-6


def test_a_process_may_tell_how_sure_it_is(float64):
  learner, params = make(
    attentive=True, outputs=2, objective=metajax.gaussian_likelihood
  )
  by_gradient, by_differences = slopes(learner, params, tasks())
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_the_gaussian_likelihood_is_that_of_the_density(float64):
  generator = np.random.default_rng(0)
  outputs, targets = (
    generator.normal(size=(5, 4)),
    generator.normal(size=(5, 2)),
  )
  mean, deviation = outputs[:, :2], np.exp(outputs[:, 2:] / 2)
  density = np.exp(-(((targets - mean) / deviation) ** 2) / 2)
  density = density / (deviation * np.sqrt(2 * np.pi))
  loss, metrics = jax.jit(metajax.gaussian_likelihood)(outputs, targets)
  np.testing.assert_allclose(loss, -np.mean(np.log(density)), rtol=1e-9)
  np.testing.assert_allclose(metrics['mse'], np.mean((targets - mean) ** 2))


def test_the_gaussian_likelihood_wants_a_variance():
  with pytest.raises(ValueError, match=r'got outputs \(3, 1\)'):
    metajax.gaussian_likelihood(np.zeros((3, 1)), np.zeros((3, 1)))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'heads': 0}, 'heads must be 1 or more, got 0'),
    ({'num_targets': 0}, 'num_targets must be 1 or more, got 0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.neural_process(mlp([4], 1), metajax.mean_squared_error, **options)


def test_classes_are_refused(float64):
  learner, params = make(attentive=False)
  support = Batch(np.zeros((4, 1)), np.array([0, 1, 0, 1]))
  with pytest.raises(ValueError, match='wants 1 numbers per example'):
    learner.adapt(KEY, params, support)


def test_heads_that_do_not_divide_are_refused():
  arrays = np.zeros((3, 4)), np.zeros((5, 4)), np.zeros((5, 4))
  with pytest.raises(ValueError, match='3 heads do not divide a width of 4'):
    dot_product_attention(*arrays, heads=3)
