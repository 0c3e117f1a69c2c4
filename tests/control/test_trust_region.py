"""Outer steps that judge other meta-parameters on recorded episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.control import (
  Navigation,
  advantages,
  as_environment,
  episode_tasks,
  policy_for,
  rollout_model,
  surrogate_objective,
)
from metajax.control.navigation import draw_goal
from metajax.control.trust_region import proximal, trust_region
from metajax.models import mlp

WORLD = as_environment(Navigation())
POLICY = policy_for(WORLD.actions, mlp([8], 2))
MODEL = rollout_model(POLICY, WORLD, 6)
RATIO = surrogate_objective('likelihood_ratio', advantages('time'))
KEY = jax.random.key(0)


def learner(steps=1):
  return metajax.maml(MODEL, RATIO, 0.1, steps)


def tasks():
  return metajax.sample_tasks(episode_tasks(draw_goal, 6, 6), KEY, 4)


def start():
  return MODEL.init(jax.random.key(1), None)


@pytest.mark.in_ci
def test_a_step_stays_within_the_trust_region_and_lowers_the_loss():
  grad = jax.jit(trust_region(learner(), RATIO, POLICY.divergence, most=0.01))
  back, metrics = grad(KEY, start(), tasks())
  assert 0.001 < float(metrics['divergence']) <= 0.01
  assert {'return', 'loss', 'divergence'} == set(metrics)
  # It goes down the meta-gradient, though not along it.
  slope, _ = jax.jit(learner().grad)(KEY, start(), tasks())
  along = sum(
    float(jnp.vdot(one, other))
    for one, other in zip(
      jax.tree.leaves(back), jax.tree.leaves(slope), strict=True
    )
  )
  assert along > 0


@pytest.mark.in_ci
def test_one_proximal_update_without_clipping_is_the_meta_gradient():
  """On its own episodes a likelihood ratio has the slope that a play has."""
  grad = proximal(
    learner(), RATIO, POLICY.divergence, optax.sgd(1.0), updates=1, penalty=0.0
  )
  back, _ = jax.jit(grad)(KEY, start(), tasks())
  recorded = jax.jit(_meta_gradient_without_key)(start(), tasks())
  for one, other in zip(
    jax.tree.leaves(back), jax.tree.leaves(recorded), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def _meta_gradient_without_key(params, tasks):
  """By hand: adapt by a play, and play again, by the keys of the episodes."""

  def loss(params, task):
    def inner(params):
      outputs = MODEL.apply(params, task.support.inputs)
      return RATIO(outputs, ())[0]

    slope = jax.grad(inner)(params)
    adapted = jax.tree.map(lambda x, d: x - 0.1 * d, params, slope)
    return RATIO(MODEL.apply(adapted, task.query.inputs), ())[0]

  return jax.grad(
    lambda params: jnp.mean(jax.vmap(loss, (None, 0))(params, tasks))
  )(params)


@pytest.mark.in_ci
def test_several_updates_move_further_than_one():
  far = []
  for updates in (1, 4):
    grad = proximal(
      learner(), RATIO, POLICY.divergence, optax.sgd(1.0), updates=updates
    )
    far.append(float(jax.jit(grad)(KEY, start(), tasks())[1]['divergence']))
  assert far[1] > far[0] > 0


def test_more_inner_steps_are_refused():
  grad = trust_region(learner(2), RATIO, POLICY.divergence)
  with pytest.raises(ValueError, match='one inner step, got 2'):
    jax.eval_shape(grad, KEY, start(), tasks())


@pytest.mark.parametrize(
  'wrong',
  [
    {'most': 0.0},
    {'most': np.inf},
    {'shrink': 1.0},
    {'damping': -1.0},
    {'damping': np.nan},
  ],
)
def test_numbers_without_a_meaning_are_refused(wrong):
  with pytest.raises(ValueError, match='must be'):
    trust_region(learner(), RATIO, POLICY.divergence, **wrong)


def test_no_updates_are_refused():
  with pytest.raises(ValueError, match='updates must be above 0'):
    proximal(learner(), RATIO, POLICY.divergence, optax.sgd(1.0), updates=0)


def test_a_penalty_that_is_no_number_is_refused():
  with pytest.raises(ValueError, match='penalty must be 0 or more'):
    proximal(
      learner(), RATIO, POLICY.divergence, optax.sgd(1.0), penalty=np.nan
    )
