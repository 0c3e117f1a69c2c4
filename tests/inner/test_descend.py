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


@pytest.mark.parametrize('number', [2.0, jnp.float32(2)])
def test_a_number_of_steps_that_is_none_is_refused(number):
  with pytest.raises(ValueError, match='must be a Python integer, got'):
    descend(quadratic, START, optax.sgd(RATE), number)


def test_a_traced_number_of_steps_is_told_about_active_steps():
  with pytest.raises(ValueError, match='and this as active_steps'):
    jax.jit(lambda n: descend(square, jnp.ones(()), optax.sgd(RATE), n))(3)


def square(params, step):
  del step
  return params**2


ADAM = optax.adam(RATE)
CHECKPOINTS = pytest.mark.parametrize('checkpoint', ['none', 'step', 'nested'])


@pytest.mark.in_ci
@CHECKPOINTS
@pytest.mark.parametrize('active', [0, 1, 4, 5])
def test_a_traced_number_of_active_steps_is_that_many(
  float64, traced_once, active, checkpoint
):
  @jax.jit
  @traced_once
  def both(start, active):
    def end(start):
      last, descent = descend(
        quadratic, start, ADAM, 5, active_steps=active, checkpoint=checkpoint
      )
      return last @ jnp.arange(1.0, 3), descent

    return jax.value_and_grad(end, has_aux=True)(start)

  def plainly(start):
    last, descent = descend(quadratic, start, ADAM, active)
    return last @ jnp.arange(1.0, 3), descent

  (value, descent), slope = both(START, active)
  both(START, 3)
  (expected, plain), wanted = jax.value_and_grad(plainly, has_aux=True)(START)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  np.testing.assert_allclose(slope, wanted, rtol=1e-12)
  np.testing.assert_allclose(
    descent.trajectory[: active + 1], plain.trajectory, rtol=1e-12
  )
  np.testing.assert_array_equal(
    descent.trajectory[active:],
    jnp.broadcast_to(descent.trajectory[active], (6 - active, 2)),
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
    descent.optimizer_state,
    plain.optimizer_state,
  )


@pytest.mark.parametrize('active', [-1, 6])
def test_active_steps_that_there_are_not_are_refused(active):
  with pytest.raises(ValueError, match=f'0 to num_steps=5, got {active}'):
    descend(quadratic, START, ADAM, 5, active_steps=active)


@CHECKPOINTS
def test_a_descent_that_goes_on_counts_on(float64, checkpoint):
  weights = jnp.arange(1.0, 6.0)

  def loss(params, step):
    return weights[step] * quadratic(params, step)

  whole, descent = descend(loss, START, ADAM, 5, checkpoint=checkpoint)

  @jax.jit
  def continued(middle, state, start_step):
    return descend(
      loss, middle, ADAM, 3, optimizer_state=state, start_step=start_step,
      checkpoint=checkpoint,
    )  # fmt: skip

  middle, first = descend(loss, START, ADAM, 2, checkpoint=checkpoint)
  last, then = continued(middle, first.optimizer_state, 2)
  np.testing.assert_allclose(last, whole, rtol=1e-12)
  np.testing.assert_allclose(then.losses, descent.losses[2:], rtol=1e-12)


@pytest.mark.in_ci
@CHECKPOINTS
@pytest.mark.parametrize('num_steps', [0, 1, 4])
def test_a_loss_may_return_more(float64, checkpoint, num_steps):
  def loss(params, step):
    value = quadratic(params, step)
    return value, {'step': step, 'double': 2 * value}

  def total(start):
    _, descent = descend(
      loss, start, ADAM, num_steps, has_aux=True, checkpoint=checkpoint
    )
    return jnp.sum(descent.aux['double']), descent

  def expected(start):
    _, descent = descend(quadratic, start, ADAM, num_steps)
    return 2 * jnp.sum(descent.losses)

  (value, descent), slope = jax.value_and_grad(total, has_aux=True)(START)
  np.testing.assert_array_equal(descent.aux['step'], np.arange(num_steps))
  np.testing.assert_allclose(value, expected(START), rtol=1e-12)
  np.testing.assert_allclose(slope, jax.grad(expected)(START), rtol=1e-12)


@CHECKPOINTS
def test_optimisers_that_want_the_value_of_the_loss_have_it(
  float64, checkpoint
):
  polyak = optax.polyak_sgd(max_learning_rate=10.0)
  last, _ = descend(quadratic, START, polyak, 2, checkpoint=checkpoint)
  place = START
  for _ in range(2):
    slope = HESSIAN @ place
    place = place - 0.5 * place @ HESSIAN @ place / (slope @ slope) * slope
  np.testing.assert_allclose(last, place, rtol=1e-12)


@pytest.mark.in_ci
def test_a_line_search_has_the_function(float64):
  last, descent = descend(quadratic, START, optax.lbfgs(), 6)
  np.testing.assert_allclose(last, np.zeros(2), atol=1e-6)
  assert (np.diff(descent.losses) < 0).all()


def test_losses_have_the_type_of_the_loss():
  _, descent = descend(square, jnp.ones((), jnp.bfloat16), optax.sgd(RATE), 2)
  assert descent.losses.dtype == descent.trajectory.dtype == jnp.bfloat16
