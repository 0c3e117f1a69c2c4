"""Minima and their derivatives, against quadratics in closed form."""

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


def test_no_iterations_are_refused():
  with pytest.raises(ValueError, match='max_iterations must be 1 or more'):
    metajax.implicit_minimum(
      lambda x: x**2, lambda loss, x: (x, ()), 0.0, max_iterations=0
    )
