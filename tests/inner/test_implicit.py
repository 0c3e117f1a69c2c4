"""Minima and their derivatives, against quadratics in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax

SIZE = 4
# One quadratic bowl per row, of different curvatures and tilts.
BOWLS = np.random.default_rng(0).normal(size=(3, SIZE, SIZE))
TILTS = np.random.default_rng(1).normal(size=(3, SIZE))


def curvature(bowl):
  return bowl @ bowl.T + 0.5 * jnp.eye(SIZE)


def descend_far(loss, start):
  return metajax.descend(
    lambda params, step: loss(params), start, optax.sgd(0.05), 1500
  )


def minimum(bowl, tilt):
  """Finds that of a quadratic by steps; its derivative is the implicit one."""

  def loss(place):
    x = jnp.concatenate([place['left'], place['right']])
    return x @ curvature(bowl) @ x / 2 - tilt @ x

  place, _ = metajax.implicit_minimum(
    loss,
    descend_far,
    {'left': jnp.ones(1), 'right': jnp.ones(SIZE - 1)},
    tolerance=1e-12,
  )
  return jnp.concatenate([place['left'], place['right']])


def closed_form(bowl, tilt):
  return jnp.linalg.solve(curvature(bowl), tilt)


def test_the_derivative_of_a_quadratic_minimum_is_that_of_its_closed_form(
  float64,
):
  @jax.jit
  def slopes(bowl, tilt):
    def value(function):
      weights = jnp.arange(1.0, SIZE + 1)
      return lambda bowl, tilt: weights @ function(bowl, tilt)

    return tuple(
      jax.value_and_grad(value(function), argnums=(0, 1))(bowl, tilt)
      for function in (minimum, closed_form)
    )

  implicit, expected = slopes(BOWLS[0], TILTS[0])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10),
    implicit,
    expected,
  )


def test_minima_that_are_vectorised_are_those_of_each(float64):
  def slope(bowl, tilt):
    return jax.grad(lambda tilt: jnp.sum(minimum(bowl, tilt) ** 2))(tilt)

  together = jax.jit(jax.vmap(slope))(BOWLS, TILTS)
  alone = jax.jit(lambda *rows: jax.lax.map(lambda row: slope(*row), rows))(
    BOWLS, TILTS
  )
  np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_where_the_search_starts_has_no_derivative():
  def from_start(start):
    def solve(loss, start):
      return start - jax.grad(loss)(start), ()

    return metajax.implicit_minimum(lambda x: x**2 / 2, solve, start)[0]

  assert float(jax.grad(from_start)(3.0)) == 0


def descended(loss, start, num_steps):
  return metajax.descend(
    lambda params, step: loss(params), start, optax.sgd(0.05), num_steps
  )


@pytest.mark.in_ci
def test_what_has_not_converged_says_by_how_much(float64):
  def search(num_steps, probe, tilt, max_iterations=SIZE):
    def loss(x):
      return x @ curvature(BOWLS[0]) @ x / 2 - tilt @ x

    return metajax.implicit_minimum(
      loss,
      partial(descended, num_steps=num_steps),
      jnp.ones(SIZE),
      tolerance=0.0,
      max_iterations=max_iterations,
      probe=probe,
    )

  tilt = jnp.asarray(TILTS[0])
  for num_steps in (3, 1500):
    place, solution = search(num_steps, 0.0, tilt)
    assert solution.info.losses.shape == (num_steps,)
    slope = curvature(BOWLS[0]) @ place - tilt
    np.testing.assert_allclose(
      solution.residual, np.linalg.norm(slope), rtol=1e-8, atol=1e-12
    )
  assert solution.residual < 1e-8

  def missed(max_iterations):
    def total(probe):
      return 3 * jnp.sum(search(3, probe, tilt, max_iterations)[0])

    return float(jax.grad(total)(0.0))

  assert missed(SIZE) < 1e-8
  # One step of conjugate gradients, from 0 along the cotangent.
  hessian, right = np.asarray(curvature(BOWLS[0])), np.full(SIZE, 3.0)
  along = right * (right @ right) / (right @ hessian @ right)
  expected = np.linalg.norm(right - hessian @ along) / np.linalg.norm(right)
  np.testing.assert_allclose(missed(1), expected, rtol=1e-8)


def repeat_step(function, start):
  def step(_, place):
    return jax.tree.map(jnp.add, place, function(place))

  return jax.lax.fori_loop(0, 400, step, start), ()


# A contraction that is not symmetric.
MIXING = 0.4 * BOWLS[0] / np.linalg.norm(BOWLS[0], 2)


def fixed_point(mixing, tilt, probe=0.0, bend=jnp.tanh, **options):
  """Where x = bend(mixing x + tilt)."""

  def function(place):
    x = jnp.concatenate([place['left'], place['right']])
    change = bend(mixing @ x + tilt) - x
    return {'left': change[:1], 'right': change[1:]}

  place, solution = metajax.implicit_root(
    function,
    repeat_step,
    {'left': jnp.ones(1), 'right': jnp.ones(SIZE - 1)},
    tolerance=1e-13,
    probe=probe,
    **options,
  )
  return jnp.concatenate([place['left'], place['right']]), solution


WEIGHTS = np.arange(1.0, SIZE + 1)


def test_the_derivative_of_a_linear_fixed_point_is_its_closed_form(float64):
  def found(mixing, tilt):
    return WEIGHTS @ fixed_point(mixing, tilt, bend=lambda x: x)[0]

  def closed(mixing, tilt):
    return WEIGHTS @ jnp.linalg.solve(jnp.eye(SIZE) - mixing, tilt)

  for own, exact in zip(
    *(
      jax.jit(jax.grad(each, argnums=(0, 1)))(MIXING, TILTS[0])
      for each in (found, closed)
    ),
    strict=True,
  ):
    np.testing.assert_allclose(own, exact, rtol=1e-9, atol=1e-11)


def test_the_derivative_of_a_fixed_point_is_that_of_differences(float64):
  def value(tilt):
    return WEIGHTS @ fixed_point(MIXING, tilt)[0]

  slope = jax.jit(jax.grad(value))(TILTS[0])
  for index, direction in enumerate(np.eye(SIZE)):
    ahead, behind = (
      value(TILTS[0] + size * direction) for size in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(slope[index], (ahead - behind) / 2e-5, rtol=1e-7)


@pytest.mark.in_ci
def test_fixed_points_that_are_vectorised_are_those_of_each(float64):
  slope = jax.grad(lambda tilt: jnp.sum(fixed_point(MIXING, tilt)[0] ** 2))
  together = jax.jit(jax.vmap(slope))(TILTS)
  for tilt, one in zip(TILTS, together, strict=True):
    np.testing.assert_allclose(one, slope(tilt), rtol=1e-9)


@pytest.mark.in_ci
def test_a_root_says_what_it_missed_by(float64):
  _, solution = fixed_point(MIXING, TILTS[0])
  assert solution.residual < 1e-12

  def missed(iterations):
    def total(probe):
      point, _ = fixed_point(MIXING, TILTS[0], probe, max_iterations=iterations)
      return WEIGHTS @ point

    return float(jax.grad(total)(0.0))

  assert missed(SIZE) < 1e-10 < 1e-3 < missed(1)
  far, solution = metajax.implicit_root(
    lambda x: x - 3.0, lambda function, x: (x, ()), 0.0
  )
  assert (float(far), float(solution.residual)) == (0, 3)


@pytest.mark.in_ci
def test_a_search_is_not_differentiated_nor_a_cotangent_of_zero(float64):
  slope = jax.grad(lambda tilt: 0 * jnp.sum(fixed_point(MIXING, tilt)[0]))
  np.testing.assert_array_equal(slope(TILTS[0]), np.zeros(SIZE))


def test_a_function_that_is_not_like_its_parameters_is_refused():
  with pytest.raises(ValueError, match=r'got \(3,\) for \(2,\)'):
    metajax.implicit_root(
      lambda x: jnp.ones(3), lambda function, x: (x, ()), jnp.ones(2)
    )


@pytest.mark.parametrize(
  'implicit', [metajax.implicit_minimum, metajax.implicit_root]
)
def test_no_iterations_are_refused(implicit):
  with pytest.raises(ValueError, match='max_iterations must be 1 or more'):
    implicit(lambda x: x**2, lambda loss, x: (x, ()), 0.0, max_iterations=0)


@pytest.mark.parametrize('tolerance', [-1.0, 1.0, float('nan')])
@pytest.mark.parametrize(
  'implicit', [metajax.implicit_minimum, metajax.implicit_root]
)
def test_a_tolerance_that_ends_the_solver_at_once_is_refused(
  implicit, tolerance
):
  with pytest.raises(ValueError, match='tolerance must be from 0 to below 1'):
    implicit(lambda x: x, lambda f, x: (x, ()), 0.0, tolerance=tolerance)
