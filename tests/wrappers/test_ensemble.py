"""Ensembles: as many trainings as members, and three ways to combine them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import at, noise

import metajax
from metajax.base import Batch, Task, Weighted, task_keys
from metajax.models import mlp
from metajax.tasks import episodes
from metajax.wrappers.ensemble import combine, ensemble
from metajax.wrappers.ensemble import stack as stack_eagerly

KEY = jax.random.key(0)
WAYS, SIZE = 3, 4
stack = jax.jit(stack_eagerly)
MEMBER = metajax.maml(mlp([6], WAYS), metajax.cross_entropy, 0.3, 2)


def sampler():
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (48, 3, 3), np.uint8)
  return episodes(images, np.arange(48) % 6, WAYS, 2, 3)


def drawn(num: int = 4) -> Task:
  return noise(num, WAYS, 2, 3)


def assert_close(one, other, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), one, other
  )


def test_members_start_apart():
  init = jax.jit(ensemble(MEMBER, SIZE).init)
  params = init(KEY, drawn().support.inputs[0])
  kernels = np.asarray(params['Dense_0']['kernel']).reshape(SIZE, -1)
  assert len(np.unique(kernels[:, 0])) == SIZE


@pytest.mark.in_ci
def test_every_member_has_the_meta_gradient_that_it_has_alone(float64):
  learner, tasks = ensemble(MEMBER, SIZE), drawn()
  params = jax.jit(learner.init)(KEY, tasks.support.inputs[0])
  gradients, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  grad = jax.jit(MEMBER.grad)
  alone = [grad(KEY, at(params, index), tasks) for index in range(SIZE)]
  for index, (gradient, _) in enumerate(alone):
    assert_close(at(gradients, index), gradient, rtol=1e-4)
  mean = np.mean([each['loss'] for _, each in alone])
  np.testing.assert_allclose(metrics['loss'], mean, rtol=1e-5)


@pytest.mark.long
def test_members_that_adapt_at_random_have_keys_of_their_own():
  scratch = metajax.from_scratch(
    mlp([4], WAYS), metajax.cross_entropy, num_steps=1
  )
  adapted, _ = ensemble(scratch, SIZE).adapt(KEY, (), at(drawn(), 0)[0])
  kernels = np.asarray(adapted.adapted['Dense_0']['kernel']).reshape(SIZE, -1)
  assert len(np.unique(kernels[:, 0])) == SIZE


@pytest.mark.long
@pytest.mark.parametrize('combination', ['mean', 'vote', 'stacked'])
def test_it_is_a_meta_learner_like_any_other(combination):
  learner = ensemble(MEMBER, SIZE, combination, num_classes=WAYS)
  train = metajax.make_train_step(
    learner, optax.adam(1e-2), sampler(), tasks_per_step=4, chunk_size=2
  )
  state, metrics = train.run(train.init(KEY), 2)
  assert set(metrics) == {'loss', 'accuracy', 'skipped'}
  evaluation = metajax.evaluate(
    learner, metajax.cross_entropy, state.meta_params, sampler(),
    key=KEY, num_tasks=4,
  )  # fmt: skip
  assert evaluation.mean['accuracy'].shape == (3,)
  support = at(drawn().support, 0)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, state.meta_params, support)
  assert_close(at(adaptation.trajectory, -1), adapted)
  np.testing.assert_allclose(jnp.sum(adapted.weights), 1, rtol=1e-5)
  outputs = learner.predict(adapted, drawn().query.inputs[0])
  np.testing.assert_allclose(jnp.sum(jnp.exp(outputs), 1), 1, rtol=1e-5)


def test_the_mean_is_that_of_probabilities():
  logits = np.random.default_rng(0).normal(size=(SIZE, 5, WAYS))
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  weights = np.array([0.1, 0.2, 0.3, 0.4])
  expected = np.log(np.einsum('e,enc->nc', weights, probabilities))
  mixed = jax.jit(combine)(logits.astype(np.float32), weights)
  np.testing.assert_allclose(mixed, expected, rtol=1e-4)


def test_votes_are_counted_and_ties_go_to_the_surer():
  logits = np.float32([[2, 0, 0], [2, 0, 0], [0, 9, 0], [0, 0, 9]])
  vote = jax.jit(partial(combine, votes=True))
  votes = vote(logits[:, None], np.full(4, 0.25, np.float32))
  assert np.argmax(votes) == 0
  tie = vote(logits[1:3, None], np.full(2, 0.5, np.float32))
  assert np.argmax(tie) == 1
  np.testing.assert_allclose(np.exp(votes).sum(), 1, rtol=1e-6)


def test_stacking_finds_the_weights_of_the_highest_likelihood(float64):
  logits = 2 * np.random.default_rng(0).normal(size=(2, 40, WAYS))
  targets = np.arange(40) % WAYS
  weights = stack(logits, np.tile(targets, (2, 1)))
  odds = np.exp(logits)
  own = odds[:, np.arange(40), targets] / odds.sum(-1)
  grid = np.linspace(0, 1, 1001)
  likelihood = [np.log(a * own[0] + (1 - a) * own[1]).sum() for a in grid]
  assert abs(grid[np.argmax(likelihood)] - float(weights[0])) < 0.01


def test_a_member_that_knows_nothing_weighs_little():
  targets = np.arange(9) % WAYS
  sure = 6 * np.eye(WAYS, dtype=np.float32)[targets]
  misled = np.roll(sure, 1, axis=1)
  weights = stack(np.stack([misled, sure]), np.tile(targets, (2, 1)))
  assert np.asarray(weights)[1] > 0.95


def test_padding_has_no_part_in_the_weights():
  logits = 2 * np.random.default_rng(0).normal(size=(2, 9, WAYS))
  logits = logits.astype(np.float32)
  targets = np.array([2, 0, 0, 1, 1, 2, 0, 0, 2])
  real = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0], bool)
  expected = stack(logits[:, real], np.tile(targets[real], (2, 1)))
  both = Weighted(*(np.tile(each, (2, 1)) for each in (targets, real)))
  np.testing.assert_allclose(stack(logits, both), expected, rtol=1e-5)


@pytest.mark.long
def test_an_ensemble_of_networks_beats_its_members():
  generator = np.random.default_rng(1)
  patterns = generator.integers(0, 200, (6, 1, 3, 3))
  noise = generator.integers(0, 56, (6, 8, 3, 3))
  images = (patterns + noise).astype(np.uint8).reshape(-1, 3, 3)
  sample = episodes(images, np.repeat(np.arange(6), 8), WAYS, 1, 4)
  learner = ensemble(MEMBER, 8)
  inputs = sample(KEY).support.inputs
  params = learner.init(KEY, inputs)

  def loss(learner, params):
    evaluation = metajax.evaluate(
      learner, metajax.cross_entropy, params, sample,
      key=KEY, num_tasks=32, chunk_size=32,
    )  # fmt: skip
    return float(evaluation.mean['loss'][-1])

  members = [loss(MEMBER, at(params, index)) for index in range(8)]
  assert loss(learner, params) < np.mean(members)


def test_members_for_regression_have_the_mean_of_their_outputs():
  alone = metajax.maml(mlp([6], 1), metajax.mean_squared_error, 0.01, 1)
  learner = ensemble(alone, SIZE, 'outputs')
  x = np.linspace(-3, 3, 5, dtype=np.float32)[:, None]
  support = Batch(x, np.sin(x))
  params = jax.jit(learner.init)(KEY, x)

  def predicted(learner):
    return jax.jit(
      lambda params: learner.predict(learner.adapt(KEY, params, support)[0], x)
    )

  of_one = predicted(alone)
  outputs = [of_one(at(params, index)) for index in range(SIZE)]
  together = predicted(learner)(params)
  np.testing.assert_allclose(together, np.mean(outputs, axis=0), rtol=1e-5)
  with pytest.raises(ValueError, match='this method classifies'):
    ensemble(alone, SIZE).adapt(KEY, params, support)


@pytest.mark.in_ci
def test_keys_of_tasks_are_accepted():
  # One whose meta-gradient takes little compiling.
  alone = metajax.protonet(mlp([6], 5), metajax.cross_entropy, WAYS)
  learner, tasks = ensemble(alone, 2), drawn()
  params = jax.jit(learner.init)(KEY, tasks.support.inputs[0])
  grad = jax.jit(learner.grad)
  assert_close(
    grad(KEY, params, tasks), grad(task_keys(KEY, 4), params, tasks), rtol=0
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0,), 'size must be 1 or more, got 0'),
    ((2, 'median'), "mean, vote, stacked, outputs; got 'median'"),
    ((2, 'stacked'), 'needs num_classes'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    ensemble(MEMBER, *arguments)


def test_stacking_one_shot_is_refused():
  learner = ensemble(MEMBER, 2, 'stacked', num_classes=WAYS)
  support = Batch(np.zeros((WAYS, 9), np.float32), np.arange(WAYS))
  params = jax.eval_shape(learner.init, KEY, support.inputs)
  with pytest.raises(ValueError, match='2 shots or more'):
    jax.eval_shape(learner.adapt, KEY, params, support)
