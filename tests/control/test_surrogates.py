"""Derivatives of surrogates, beside those of the return itself.

All trajectories of small processes are enumerated, so means are exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import (
  ACTIONS,
  EXACT,
  MODEL,
  STATES,
  apply,
  expected,
  listed,
  process,
  task,
  true_return,
)

import metajax
from metajax.control.advantages import advantages
from metajax.control.surrogates import (
  SURROGATES,
  able,
  surrogate_objective,
)

pytestmark = pytest.mark.usefixtures('float64')

with_and_without_jit = pytest.mark.parametrize(
  'jit',
  [pytest.param(False, marks=pytest.mark.in_ci, id='plain'), True],
)

RATE = 2.0
EVERY = [*SURROGATES]


def table(seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(STATES, ACTIONS)))


def loss_of(steps, surrogate, estimate=EXACT, causality=1.0):
  """The expected surrogate as a function of the policy."""
  inputs, chances = listed(process(steps))
  objective = expected(surrogate, estimate, causality)
  return lambda table: objective(apply(table, inputs), chances)[0]


def truth(steps):
  of = process(steps)
  return lambda table: -true_return(table, of) / steps


def gap(found, wanted):
  """The largest difference, as a share of what is wanted."""
  return float(jnp.max(jnp.abs(found - wanted)) / jnp.max(jnp.abs(wanted)))


def test_all_trajectories_make_the_expected_return():
  of = process(3)
  inputs, chances = listed(of)
  outputs = apply(table(), inputs)
  weights = chances * jnp.exp(jnp.sum(outputs.behaviour, axis=1))
  total = jnp.sum(weights * jnp.sum(outputs.rewards, axis=1))
  assert float(jnp.sum(weights)) == pytest.approx(1, abs=1e-14)
  assert float(total) == pytest.approx(float(true_return(table(), of)), 1e-13)


@with_and_without_jit
@pytest.mark.parametrize('steps', [1, 2, 3])
@pytest.mark.parametrize('surrogate', EVERY)
def test_every_surrogate_has_the_gradient_of_the_return(surrogate, steps, jit):
  gradient = jax.grad(loss_of(steps, surrogate))
  found = (jax.jit(gradient) if jit else gradient)(table())
  assert gap(found, jax.grad(truth(steps))(table())) < 1e-12


@pytest.mark.parametrize('steps', [1, 2, 3])
def test_the_second_derivative_of_dice_is_that_of_the_return(steps):
  found = jax.jit(jax.hessian(loss_of(steps, 'dice')))(table())
  assert gap(found, jax.hessian(truth(steps))(table())) < 1e-12


def test_dice_has_derivatives_of_any_order():
  third = jax.jit(jax.jacfwd(jax.hessian(loss_of(2, 'dice'))))(table())
  wanted = jax.jit(jax.jacfwd(jax.hessian(truth(2))))(table())
  assert gap(third, wanted) < 1e-12


@pytest.mark.parametrize('value', ['linear', 'time'])
def test_a_value_takes_nothing_from_the_derivatives_of_dice(value):
  """What does not depend on the action has no part in any of them."""
  estimate = advantages(value, discount=1.0, normalised=False)
  found = jax.jit(jax.hessian(loss_of(3, 'dice', estimate)))(table())
  assert gap(found, jax.hessian(truth(3))(table())) < 1e-10


def hessian_of_single_steps(steps, of_squares):
  """The mean over trajectories of the terms of one step, written out.

  .. math:: E \\sum_t (\\nabla^2 l_t + \\nabla l_t \\nabla l_t^T) R_t
  """
  inputs, chances = listed(process(steps))
  place = table()
  later = np.cumsum(inputs.rewards[:, ::-1], axis=1)[:, ::-1]
  total = jnp.zeros((STATES * ACTIONS,) * 2)

  def log_probability(flat, state, action):
    return jax.nn.log_softmax(flat.reshape(STATES, ACTIONS))[state, action]

  flat = place.ravel()
  chances = chances * jnp.exp(jnp.sum(apply(place, inputs).behaviour, axis=1))
  for state in range(STATES):
    for action in range(ACTIONS):
      slope = jax.grad(log_probability)(flat, state, action)
      term = jax.hessian(log_probability)(flat, state, action)
      if of_squares:
        term = term + jnp.outer(slope, slope)
      here = (inputs.states == state) & (inputs.actions == action)
      total += term * jnp.sum(chances[:, None] * here * later)
  return -total.reshape(2 * (STATES, ACTIONS)) / steps


@pytest.mark.parametrize('surrogate', ['lvc', 'likelihood_ratio'])
def test_low_variance_curvature_drops_what_steps_do_to_each_other(surrogate):
  once, twice = (
    jax.jit(jax.hessian(loss_of(steps, surrogate)))(table()) for steps in (1, 2)
  )
  assert gap(once, jax.hessian(truth(1))(table())) < 1e-12
  assert gap(twice, hessian_of_single_steps(2, of_squares=True)) < 1e-12
  assert gap(twice, jax.hessian(truth(2))(table())) > 0.3


def test_the_naive_surrogate_has_another_second_derivative():
  found = jax.jit(jax.hessian(loss_of(1, 'naive')))(table())
  assert gap(found, hessian_of_single_steps(1, of_squares=False)) < 1e-12
  assert gap(found, jax.hessian(truth(1))(table())) > 0.3


def test_causality_goes_from_low_variance_curvature_to_dice():
  hessians = [
    jax.jit(jax.hessian(loss_of(3, 'dice', causality=share)))(table())
    for share in (0.0, 0.5, 1.0)
  ]
  curvature = jax.jit(jax.hessian(loss_of(3, 'lvc')))(table())
  wanted = jax.hessian(truth(3))(table())
  assert gap(hessians[0], curvature) < 1e-12
  gaps = [gap(each, wanted) for each in hessians]
  assert gaps[0] > gaps[1] > gaps[2]


def meta_gradient(steps, surrogate, method='maml', jit=True):
  """What a method of the library makes of it."""
  learner = getattr(metajax, method)(MODEL, expected(surrogate), RATE, 1)
  tasks = jax.tree.map(lambda leaf: leaf[None], task(process(steps)))
  grad = jax.jit(learner.grad) if jit else learner.grad
  return grad(jax.random.key(0), table(), tasks)[0]


def true_meta_gradient(steps):
  loss = truth(steps)

  def meta_loss(table):
    return loss(table - RATE * jax.grad(loss)(table))

  return jax.grad(meta_loss)(table())


@with_and_without_jit
@pytest.mark.parametrize('steps', [1, 2, 3])
def test_the_meta_gradient_of_dice_is_exact(steps, jit):
  found = meta_gradient(steps, 'dice', jit=jit)
  assert gap(found, true_meta_gradient(steps)) < 1e-12


def test_that_of_low_variance_curvature_is_exact_for_one_step_alone():
  gaps = [
    gap(meta_gradient(steps, 'lvc'), true_meta_gradient(steps))
    for steps in (1, 2)
  ]
  assert gaps[0] < 1e-12 < 1e-3 < gaps[1]


@pytest.mark.parametrize('steps', [1, 2])
def test_that_of_the_naive_surrogate_is_as_wrong_as_first_order(steps):
  wanted = true_meta_gradient(steps)
  naive = gap(meta_gradient(steps, 'naive'), wanted)
  first_order = gap(meta_gradient(steps, 'dice', 'fomaml'), wanted)
  assert naive > 0.5 * first_order > 0.005


def test_likelihood_ratio_judges_what_others_have_played():
  """On trajectories of a first policy it is the return of a second one."""
  inputs, chances = listed(process(1))
  first, second = table(0), table(1)
  played = apply(first, inputs)
  weights = chances * jnp.exp(jnp.sum(played.behaviour, axis=1))
  judged = apply(second, inputs)._replace(behaviour=played.behaviour)
  objective = surrogate_objective('likelihood_ratio', EXACT)
  loss, _ = objective(judged, metajax.Weighted((), weights))
  assert float(loss) == pytest.approx(float(truth(1)(second)), abs=1e-13)


def test_a_clipped_step_has_no_slope_where_it_has_gone_far_enough():
  """An action that was good is not made more than 1.2 times as probable."""
  inputs, chances = listed(process(1))
  played = apply(table(), inputs)
  far = apply(5 * table(1), inputs)._replace(behaviour=played.behaviour)

  def loss(log_probabilities):
    outputs = far._replace(log_probabilities=log_probabilities)
    weights = jnp.asarray(chances)
    return surrogate_objective('clipped', EXACT)(
      outputs, metajax.Weighted((), weights)
    )[0]

  slopes = jax.grad(loss)(far.log_probabilities)
  ratio = jnp.exp(far.log_probabilities - far.behaviour)
  is_far = ((ratio > 1.2) & (inputs.rewards > 0)) | (
    (ratio < 0.8) & (inputs.rewards < 0)
  )
  assert bool(jnp.any(is_far))
  np.testing.assert_array_equal(slopes == 0, is_far)


def test_what_cannot_be_used_is_refused_with_the_names_of_what_can():
  with pytest.raises(ValueError, match=r'PPO cannot use .*lvc.*clipped can'):
    able('lvc', 'PPO', lambda surrogate: surrogate.repeats)
  with pytest.raises(ValueError, match="no surrogate 'dicy'"):
    surrogate_objective('dicy', EXACT)
  with pytest.raises(ValueError, match='only dice discounts'):
    surrogate_objective('lvc', EXACT, 0.5)
  with pytest.raises(ValueError, match='from 0 to 1'):
    surrogate_objective('dice', EXACT, 1.5)
