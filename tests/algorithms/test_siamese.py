"""Siamese networks: pairs, verification, and the most similar example."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.algorithms.siamese import pair_loss, verify
from metajax.base import Batch, Task
from metajax.models import mlp
from metajax.testing import slopes

WAYS, KEY = 3, jax.random.key(0)
MODEL = mlp([6], 4)


def batch(seed: int, targets=(2, 0, 1, 0, 2, 1)) -> Batch:
  targets = np.asarray(targets, np.int32)
  inputs = np.random.default_rng(seed).normal(size=(len(targets), 5))
  return Batch(jnp.asarray(inputs + targets[:, None]), jnp.asarray(targets))


def make(ways=WAYS):
  learner = metajax.siamese(MODEL, metajax.cross_entropy, ways)
  params = jax.jit(learner.init)(jax.random.key(1), batch(0).inputs)
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
  return learner, params._replace(bias=jnp.asarray(0.5))


def logit_in_numpy(params, first, second) -> float:
  twins = [
    1 / (1 + np.exp(-np.asarray(MODEL.apply(params.params, x[None]))[0]))
    for x in (first, second)
  ]
  distances = np.abs(twins[0] - twins[1])
  return float(distances @ np.asarray(params.weights) + params.bias)


def test_verification_is_that_of_numpy(float64):
  _, params = make()
  first, second = batch(0).inputs, batch(1).inputs
  np.testing.assert_allclose(
    verify(MODEL, params, first, second),
    [logit_in_numpy(params, a, b) for a, b in zip(first, second, strict=True)],
    rtol=1e-9,
  )


def test_a_query_is_of_the_class_of_its_most_similar_example(float64):
  learner, params = make()
  support, queries = batch(0), batch(1).inputs
  adapted, _ = learner.adapt(KEY, params, support)
  expected = [
    [
      max(
        logit_in_numpy(params, query, example)
        for example, target in zip(*support, strict=True)
        if target == way
      )
      for way in range(WAYS)
    ]
    for query in queries
  ]
  np.testing.assert_allclose(
    learner.predict(adapted, queries), expected, rtol=1e-9
  )


def test_the_loss_is_that_of_all_pairs_of_a_task(float64):
  learner, params = make()
  task = Task(batch(0), batch(1, (1, 0, 2)))
  tasks = jax.tree.map(lambda leaf: leaf[None], task)
  _, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  inputs = np.concatenate([task.support.inputs, task.query.inputs])
  targets = np.concatenate([task.support.targets, task.query.targets])
  losses = {True: [], False: []}
  for i in range(len(inputs)):
    for j in range(i):
      same = bool(targets[i] == targets[j])
      logit = logit_in_numpy(params, inputs[i], inputs[j])
      losses[same].append(np.log1p(np.exp(-logit if same else logit)))
  expected = (np.mean(losses[True]) + np.mean(losses[False])) / 2
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-9)
  adapted, _ = learner.adapt(KEY, params, task.support)
  outputs = learner.predict(adapted, task.query.inputs)
  np.testing.assert_allclose(
    metrics['accuracy'], np.mean(outputs.argmax(1) == task.query.targets)
  )


def test_the_gradient_is_that_of_differences(float64):
  learner, params = make()
  tasks = jax.tree.map(
    lambda *leaves: jnp.stack(leaves),
    Task(batch(0), batch(1)),
    Task(batch(2), batch(3)),
  )
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


def test_before_the_support_set_all_classes_are_equally_likely(float64):
  learner, params = make()
  _, adaptation = learner.adapt(KEY, params, batch(0))
  before = jax.tree.map(lambda leaf: leaf[0], adaptation.trajectory)
  outputs = learner.predict(before, batch(1).inputs)
  np.testing.assert_array_equal(outputs, np.tile(outputs[:, :1], (1, WAYS)))


@pytest.mark.long
def test_padding_changes_neither_predictions_nor_the_gradient(float64):
  learner, params = make()
  small = Task(batch(0), batch(1, (1, 0, 2)))

  def padded(batch: Batch) -> Batch:
    return Batch(
      jnp.concatenate([batch.inputs, batch.inputs[:2]]),
      jnp.concatenate([batch.targets, jnp.full((2,), -1, jnp.int32)]),
    )

  large = Task(padded(small.support), padded(small.query))
  values = []
  for task in (small, large):
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    adapted, _ = learner.adapt(KEY, params, task.support)
    outputs = learner.predict(adapted, small.query.inputs)
    values.append((learner.grad(KEY, params, tasks), outputs))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
    *values,
  )


def test_pairs_of_one_kind_alone_have_a_finite_loss():
  logits, every = jnp.zeros((3, 3)), jnp.ones((3, 3), bool)
  for same in (every, ~every):
    np.testing.assert_allclose(
      pair_loss(logits, same, every), np.log(2) / 2, rtol=1e-6
    )


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
  first = jnp.eye(5)
  same, other = (
    verify(mlp([16], 16), state.meta_params, first, second)
    for second in (first + 0.05, jnp.roll(first, 1, axis=0))
  )
  assert same.min() > 0
  assert other.max() < 0


@pytest.mark.parametrize('num_classes', [1, 0])
def test_one_class_alone_is_refused(num_classes):
  with pytest.raises(ValueError, match=f'2 or more, got {num_classes}'):
    metajax.siamese(MODEL, metajax.cross_entropy, num_classes)
