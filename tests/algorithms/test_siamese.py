"""Siamese networks: pairs, verification, and the most similar example."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import parameters, stacked

import metajax
from metajax.algorithms.siamese import pair_loss, verify
from metajax.base import Batch, Task, Weighted
from metajax.models import mlp
from metajax.testing import slopes

WAYS, KEY = 3, jax.random.key(0)
MODEL = mlp([6], 4)
embed = jax.jit(MODEL.apply)


def batch(seed: int, targets=(2, 0, 1, 0, 2, 1)) -> Batch:
  targets = np.asarray(targets, np.int32)
  inputs = np.random.default_rng(seed).normal(size=(len(targets), 5))
  return Batch(inputs + targets[:, None], targets)


def make(ways=WAYS):
  learner = metajax.siamese(MODEL, metajax.cross_entropy, ways)
  params = parameters(learner.init, batch(0).inputs)
  return learner, params._replace(bias=np.asarray(0.5))


def logits_in_numpy(params, first, second) -> np.ndarray:
  """Of every one of the first and every one of the second, by rows."""
  one, other = (
    1 / (1 + np.exp(-np.asarray(embed(params.params, x))))
    for x in (first, second)
  )
  distances = np.abs(one[:, None] - other[None])
  return distances @ params.weights + params.bias


@functools.cache
def compiled():
  """Predictions before the support set and after it."""
  learner, _ = make()

  @jax.jit
  def of(params, support, queries):
    adapted, adaptation = learner.adapt(KEY, params, support)
    before = adaptation.after(0, adapted)
    return [learner.predict(each, queries) for each in (before, adapted)]

  return lambda *args: jax.tree.map(np.asarray, of(*args))


def test_verification_is_that_of_numpy(float64):
  _, params = make()
  first, second = batch(0).inputs, batch(1).inputs
  np.testing.assert_allclose(
    jax.jit(partial(verify, MODEL))(params, first, second),
    np.diag(logits_in_numpy(params, first, second)),
    rtol=1e-9,
  )


def test_a_query_is_of_the_class_of_its_most_similar_example(float64):
  _, params = make()
  support, queries = batch(0), batch(1).inputs
  logits = logits_in_numpy(params, queries, support.inputs)
  expected = [
    logits[:, support.targets == way].max(axis=1) for way in range(WAYS)
  ]
  _, found = compiled()(params, support, queries)
  np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-9)


def test_the_loss_is_that_of_all_pairs_of_a_task(float64):
  learner, params = make()
  task = Task(batch(0), batch(1, (1, 0, 2)))
  tasks = stacked(task)
  _, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  inputs = np.concatenate([task.support.inputs, task.query.inputs])
  targets = np.concatenate([task.support.targets, task.query.targets])
  logits = logits_in_numpy(params, inputs, inputs)
  losses = {True: [], False: []}
  for i in range(len(inputs)):
    for j in range(i):
      same = bool(targets[i] == targets[j])
      logit = logits[i, j]
      losses[same].append(np.log1p(np.exp(-logit if same else logit)))
  expected = (np.mean(losses[True]) + np.mean(losses[False])) / 2
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-9)
  # Filled up to as many as in the other tests, and cut again.
  queries = np.resize(task.query.inputs, (6, 5))
  outputs = compiled()(params, task.support, queries)[1][:3]
  np.testing.assert_allclose(
    metrics['accuracy'], np.mean(outputs.argmax(1) == task.query.targets)
  )


@pytest.mark.in_ci
def test_the_gradient_is_that_of_differences(float64):
  learner, params = make()
  tasks = stacked(Task(batch(0), batch(1)), Task(batch(2), batch(3)))
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_before_the_support_set_all_classes_are_equally_likely(float64):
  _, params = make()
  outputs, _ = compiled()(params, batch(0), batch(1).inputs)
  np.testing.assert_array_equal(outputs, np.tile(outputs[:, :1], (1, WAYS)))


@pytest.mark.long
def test_padding_changes_neither_predictions_nor_the_gradient(float64):
  learner, params = make()
  small = Task(batch(0), batch(1, (1, 0, 2)))

  def padded(batch: Batch) -> Batch:
    return Batch(
      np.concatenate([batch.inputs, batch.inputs[:2]]),
      Weighted(
        np.concatenate([batch.targets, batch.targets[:2]]),
        np.arange(len(batch.targets) + 2) < len(batch.targets),
      ),
    )

  grad = jax.jit(learner.grad)
  large = Task(padded(small.support), padded(small.query))
  values = []
  for task in (small, large):
    _, outputs = compiled()(params, task.support, small.query.inputs)
    values.append((grad(KEY, params, stacked(task)), outputs))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
    *values,
  )


def test_pairs_of_one_kind_alone_have_a_finite_loss():
  logits, every = np.zeros((3, 3)), np.ones((3, 3), bool)
  for same in (every, ~every):
    np.testing.assert_allclose(
      jax.jit(pair_loss)(logits, same, every), np.log(2) / 2, rtol=1e-6
    )


@pytest.mark.in_ci
def test_verification_is_learned_and_holds_for_new_classes():
  """Classes are directions; twins of any two examples tell them apart."""

  def sample(key: jax.Array) -> Task:
    keys = jax.random.split(key, 3)
    centres = jax.random.choice(keys[0], jnp.eye(5), (2,), replace=False)

    def draw(key: jax.Array) -> Batch:
      targets = jnp.array([0, 1])
      return Batch(
        centres[targets] + 0.1 * jax.random.normal(key, (2, 5)), targets
      )

    return Task(draw(keys[1]), draw(keys[2]))

  learner = metajax.siamese(mlp([16], 16), metajax.cross_entropy, 2)
  train = metajax.make_train_step(
    learner, optax.adam(0.02), sample, tasks_per_step=16
  )
  state, _ = train.run(train.init(KEY), 150)
  first = np.eye(5)
  verified = jax.jit(partial(verify, mlp([16], 16)))
  same, other = (
    np.asarray(verified(state.meta_params, first, second))
    for second in (first + 0.05, np.roll(first, 1, axis=0))
  )
  assert same.min() > 0
  assert other.max() < 0


@pytest.mark.parametrize('num_classes', [1, 0])
def test_one_class_alone_is_refused(num_classes):
  with pytest.raises(ValueError, match=f'2 or more, got {num_classes}'):
    metajax.siamese(MODEL, metajax.cross_entropy, num_classes)
