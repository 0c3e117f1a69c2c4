"""Descent, and its derivatives, against closed forms on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.inner.descend import descend

RATE, STEPS = 0.1, 3
HESSIAN = np.array([[2.0, 0.5], [0.5, 1.0]])
START = np.array([1.0, -2.0])
STEP = np.eye(2) - RATE * HESSIAN  # what one step of SGD multiplies by


def quadratic(params: jax.Array, step: jax.Array) -> jax.Array:
  del step
  return 0.5 * params @ jnp.asarray(HESSIAN) @ params


def test_sgd_on_a_quadratic_is_a_power_of_a_matrix(float64):
  last, descent = descend(quadratic, START, optax.sgd(RATE), STEPS)
  expected = [np.linalg.matrix_power(STEP, t) @ START for t in range(STEPS + 1)]
  np.testing.assert_allclose(descent.trajectory, expected, rtol=1e-13)
  np.testing.assert_array_equal(last, descent.trajectory[-1])
  np.testing.assert_allclose(
    descent.losses, [0.5 * p @ HESSIAN @ p for p in expected[:-1]], rtol=1e-13
  )


def test_the_derivative_is_that_of_every_step(float64):
  jacobian = jax.jacobian(
    lambda start: descend(quadratic, start, optax.sgd(RATE), STEPS)[0]
  )(START)
  np.testing.assert_allclose(
    jacobian, np.linalg.matrix_power(STEP, STEPS), rtol=1e-13
  )


def test_the_derivative_to_first_order_is_the_identity(float64):
  jacobian = jax.jacobian(
    lambda start: descend(
      quadratic, start, optax.sgd(RATE), STEPS, second_order='none'
    )[0]
  )(START)
  np.testing.assert_allclose(jacobian, np.eye(2), rtol=1e-13)


def test_first_order_ends_where_second_order_ends(float64):
  ends = [
    descend(quadratic, START, optax.sgd(RATE), STEPS, second_order=mode)[0]
    for mode in ('mixed', 'none')
  ]
  np.testing.assert_array_equal(*ends)


def test_the_rate_can_be_learned(float64):
  def end(rate):
    return descend(quadratic, START, optax.sgd(rate), 1)[0]

  np.testing.assert_allclose(
    jax.jacobian(end)(RATE), -HESSIAN @ START, rtol=1e-13
  )


def test_a_descent_goes_on_from_its_optimizer_state(float64):
  adam = optax.adam(RATE)
  whole, _ = descend(quadratic, START, adam, 4)
  middle, descent = descend(quadratic, START, adam, 2)
  resumed, _ = descend(
    quadratic, middle, adam, 2, optimizer_state=descent.optimizer_state
  )
  restarted, _ = descend(quadratic, middle, adam, 2)
  np.testing.assert_allclose(resumed, whole, rtol=1e-14)
  assert np.abs(restarted - whole).max() > 1e-4


def test_the_loss_sees_the_number_of_the_step():
  targets = jnp.array([1.0, 5.0, 7.0])

  def loss(params, step):
    return 0.5 * (params - targets[step]) ** 2

  _, descent = descend(loss, jnp.zeros(()), optax.sgd(1.0), 3)
  np.testing.assert_array_equal(descent.trajectory, [0, 1, 5, 7])


def test_no_steps_change_nothing_and_have_derivative_one():
  def end(start):
    last, descent = descend(quadratic, start, optax.sgd(RATE), 0)
    assert descent.losses.shape == (0,)
    assert descent.trajectory.shape == (1, 2)
    return jnp.sum(last)

  np.testing.assert_array_equal(jax.grad(end)(jnp.asarray(START)), [1, 1])


def test_a_negative_number_of_steps_is_refused():
  with pytest.raises(ValueError, match='num_steps must be 0 or more, got -1'):
    descend(quadratic, START, optax.sgd(RATE), -1)
