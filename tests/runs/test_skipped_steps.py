"""Steps that were not applied are told of, with the likely cause."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.models import mlp
from metajax.tasks import episodes, sinusoid

KEY = jax.random.key(0)
SINUSOID = sinusoid(3, 3)


def trained(learner, sample, steps: int = 3, optimizer=None):
  train = metajax.make_train_step(
    learner,
    optimizer or optax.sgd(0.1),
    sample,
    tasks_per_step=2,
    max_skipped_in_a_row=3,
  )
  return train.run(train.init(KEY), steps)


def test_more_ways_than_outputs():
  features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
  sample = episodes(features, np.arange(30) % 5, ways=5, shots=1, queries=1)
  learner = metajax.maml(mlp([], 3), metajax.cross_entropy, 0.1, 1)
  message = (
    '^3 of 3 steps were skipped, and training stopped at step 3: tasks have'
    ' classes from 0 to 4 as targets, 5 ways, but the learner has 3 outputs'
  )
  with pytest.warns(metajax.SkippedSteps, match=message.replace('.', r'\.')):
    state, metrics = trained(learner, sample, 100)
  assert int(state.skipped) == int(metrics['skipped']) == 3


def test_a_loss_that_is_not_finite():
  """It is a reason of its own: its gradient may be finite."""

  def objective(outputs, targets):
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss + jax.lax.stop_gradient(jnp.inf * loss)

  model = mlp([], 1)
  learner = metajax.maml(model, objective, 0.1, 0)
  with pytest.warns(
    metajax.SkippedSteps, match='the loss was not finite; a sm'
  ):
    state, _ = trained(learner, SINUSOID)
  before = metajax.make_train_step(
    learner, optax.sgd(0.1), SINUSOID, tasks_per_step=2
  ).init(KEY)
  jax.tree.map(
    np.testing.assert_array_equal, state.meta_params, before.meta_params
  )


def test_a_gradient_that_is_not_finite():
  """A norm at 0 has a value, and no derivative."""

  def objective(outputs, targets):
    return jnp.linalg.norm(outputs - outputs)

  learner = metajax.maml(mlp([], 1), objective, 0.1, 0)
  message = 'of 3 the loss was finite, the meta-gradient or the new'
  with pytest.warns(metajax.SkippedSteps, match=message):
    trained(learner, SINUSOID)


def test_parameters_that_would_not_be_finite():
  learner = metajax.maml(mlp([], 1), metajax.mean_squared_error, 0.1, 1)
  with pytest.warns(
    metajax.SkippedSteps, match='or the new parameters were not'
  ):
    state, _ = trained(learner, SINUSOID, optimizer=optax.sgd(jnp.inf))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state[1]))


def test_nothing_is_said_of_steps_that_were_applied(recwarn):
  learner = metajax.maml(mlp([], 1), metajax.mean_squared_error, 0.01, 1)
  state, metrics = trained(learner, SINUSOID)
  assert (int(state.step), int(metrics['skipped'])) == (3, 0)
  assert not [each for each in recwarn if each.category is metajax.SkippedSteps]


def test_a_constant_need_not_be_finite():
  """A mask of minus infinities is no reason to skip a step."""

  def apply(params, inputs):
    masked = jnp.maximum(params['constants']['mask'], params['scale'])
    return inputs * jnp.max(masked)

  model = metajax.Model(
    lambda key, inputs: {
      'scale': jnp.ones(1), 'constants': {'mask': jnp.array([-jnp.inf])}
    },
    apply,
  )  # fmt: skip
  learner = metajax.maml(model, metajax.mean_squared_error, 0.01, 1)
  state, _ = trained(learner, SINUSOID)
  assert int(state.skipped) == 0


@pytest.mark.in_ci
def test_the_reason_is_looked_for_where_it_can_be():
  """A learner that does not adapt to what it trains on loses nothing by it."""
  learner = metajax.maml(mlp([4], 1), metajax.mean_squared_error, 1e38, 3)
  mined = metajax.hardest(learner, metajax.mean_squared_error)
  with pytest.warns(metajax.SkippedSteps, match='the loss was not finite'):
    state, _ = trained(mined, metajax.candidates(SINUSOID, 2))
  assert int(state.skipped) == 3


@pytest.mark.in_ci
def test_the_reason_is_looked_for_at_the_step_that_was_skipped():
  features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  good = episodes(features, np.arange(12) % 3, ways=3, shots=1, queries=1)

  def sample(key, step):
    task = good(key)
    query = task.query._replace(targets=task.query.targets + (step >= 2))
    return task._replace(query=query)

  learner = metajax.maml(mlp([], 3), metajax.cross_entropy, 0.1, 1)
  with pytest.warns(metajax.SkippedSteps, match='classes from 1 to 3'):
    state, _ = trained(learner, metajax.ByStep(sample), 5)
  assert int(state.skipped) == 3


@pytest.mark.in_ci
@pytest.mark.filterwarnings('ignore:Some donated buffers')
def test_a_run_that_is_traced_has_nobody_to_tell():
  learner = metajax.maml(mlp([], 1), metajax.mean_squared_error, 0.01, 1)
  train = metajax.make_train_step(
    learner, optax.sgd(0.1), SINUSOID, tasks_per_step=2
  )
  seeds = jax.random.split(KEY, 2)
  losses = jax.vmap(lambda key: train.run(train.init(key), 2)[1]['loss'])(seeds)
  alone = train.run(train.init(seeds[1]), 2)[1]['loss']
  np.testing.assert_allclose(losses[1], alone, rtol=1e-4)


@pytest.mark.in_ci
def test_a_moment_that_overflows_is_not_kept():
  """It would hold its parameter still in all later steps, without a word."""

  def objective(outputs, targets):
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss * jnp.where(targets[0, 0] > 0, 1e25, 1.0)

  learner = metajax.maml(mlp([], 1), objective, 1e-30, 1)
  with pytest.warns(metajax.SkippedSteps):
    state, _ = trained(learner, SINUSOID, 30, optax.adam(1e-3))
  assert all(
    np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.optimizer_state)
  )


def test_a_state_that_begins_with_infinities_is_no_reason():
  learner = metajax.maml(mlp([], 1), metajax.mean_squared_error, 0.01, 1)
  infinite = optax.GradientTransformation(
    lambda params: jnp.inf, lambda updates, state, params: (updates, state)
  )
  optimizer = optax.chain(infinite, optax.sgd(0.01))
  state, _ = trained(learner, SINUSOID, optimizer=optimizer)
  assert int(state.skipped) == 0
