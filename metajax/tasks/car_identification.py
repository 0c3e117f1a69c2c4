r"""Identification of a car: its properties by least squares, no learning.

What a plain engineer does with the same transitions, and with the equations of
the car, which no learner is given.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import Adaptation, Batch, Learner, PyTree
from metajax.equality import by_value
from metajax.tasks.bicycle import Car, drive
from metajax.tasks.car import (
  CHANGE_SCALE,
  INPUT_MEAN,
  INPUT_SCALE,
  PERIOD,
  CarRanges,
  car_within,
)

__all__ = ['car_change', 'identify_car']

_LINEAR = 1e3  # grip, of tyres whose force is their stiffness times their slip
_FARTHEST = 4.0  # from the middle of a range, where its ends are at 1
_TARGETS = len(CHANGE_SCALE)


def car_change(car: Car, inputs: jax.Array) -> jax.Array:
  """What a car does within a period, in the units of `tasks.car`.

  Args:
    car: a single one.
    inputs: `[..., 5]`, as `car_inputs` makes them.

  Returns:
    `[..., 3]`.

  Example:
    >>> from metajax.tasks.car import CarRanges, middle_car
    >>> change = car_change(middle_car(CarRanges()), jnp.zeros((4, 5)))
    >>> change.shape
    (4, 3)
  """
  mean, scale = (
    jnp.broadcast_to(jnp.array(each), inputs.shape)
    for each in (INPUT_MEAN, INPUT_SCALE)
  )
  raw = inputs * scale + mean
  placeless = jnp.zeros((*raw.shape[:-1], 3), raw.dtype)
  states = jnp.concatenate([placeless, raw[..., :3]], axis=-1)
  step = jnp.vectorize(
    lambda state, action: drive(car, state, action, PERIOD),
    signature='(s),(a)->(s)',
  )
  later = step(states, raw[..., 3:])
  change = (later - states)[..., 3:]
  return change / jnp.broadcast_to(jnp.array(CHANGE_SCALE), change.shape)


@by_value  # learners made alike are equal, and so compiled once
def identify_car(
  ranges: CarRanges = CarRanges(),  # noqa: B008  (it cannot be changed)
  noise: float = 0.02,
  *,
  prior: bool = True,
  linear_tyres: bool = False,
  num_steps: int = 10,
) -> Learner:
  r"""Finds the properties of a car from its transitions.

  .. math::
    \min_z \sum_i \left\| f(c(z), x_i) - y_i \right\|^2 / \sigma^2 + 3 |z|^2

  with f the equations of the car, c(z) the car whose properties are at z in
  their ranges, from -1 to 1, and three the precision of such a uniform number.
  Solved by Levenberg and Marquardt's steps from the middle of the ranges.

  Args:
    ranges: what cars are drawn from.
    noise: deviation of targets, at least a thousandth.
    prior: whether the last term is there; without it this is plain least
      squares, in which properties are as far as e times from their ranges.
    linear_tyres: whether tyres are those of a textbook, which never slide; then
      the equations are wrong where real tyres are at their limit.
    num_steps: of the solver.

  Returns:
    A `Learner` without meta-parameters, whose `adapted` is a `Car`.

  Raises:
    ValueError: if the number of steps is not positive, or noise is
      negative or infinite; and, as it adapts, if
      there are fewer numbers in the support than unknown ones and no prior.

  Example:
    >>> import jax
    >>> from metajax.tasks.car import car
    >>> task = jax.eval_shape(car(16, 8), jax.random.key(0))
    >>> learner = identify_car()
    >>> found, _ = jax.eval_shape(
    ...   learner.adapt, jax.random.key(0), (), task.support
    ... )
    >>> sorted(found._fields)[:3]
    ['drag', 'front_length', 'front_stiffness']
  """
  if not 0 <= noise < float('inf'):
    raise ValueError(f'noise must be 0 or more, got {noise}')
  if num_steps < 1:
    raise ValueError(f'num_steps must be 1 or more, got {num_steps}')
  unknown = len(Car._fields) - linear_tyres
  deviation = max(noise, 1e-3)

  def car_at(z: jax.Array) -> Car:
    found = car_within(ranges, z)
    if not linear_tyres:
      return found
    return found._replace(grip=jnp.full_like(found.grip, _LINEAR))

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Car, Adaptation]:
    del key, meta_params  # there are none
    if not prior and support.targets.size < unknown:
      raise ValueError(
        f'{len(support.targets)} transitions are {support.targets.size}'
        f' numbers, and a car has {unknown} unknown properties; give'
        f' {-(-unknown // _TARGETS)} transitions or more, or prior=True'
      )

    def residuals(z: jax.Array) -> jax.Array:
      error = car_change(car_at(z), support.inputs) - support.targets
      wide = z * jnp.sqrt(3.0) * prior
      return jnp.concatenate([error.ravel() / deviation, wide])

    z, losses = _levenberg_marquardt(
      residuals, jnp.zeros(len(Car._fields)), num_steps
    )
    before, found = car_at(jnp.zeros_like(z)), car_at(z)
    path = jax.tree.map(lambda *leaves: jnp.stack(leaves), before, found)
    return found, Adaptation(losses[:1], path)  # the solution counts as a step

  return Learner(lambda key, inputs: (), adapt, car_change)


def _levenberg_marquardt(
  residuals: Callable[[jax.Array], jax.Array], z: jax.Array, num_steps: int
) -> tuple[jax.Array, jax.Array]:
  """Least squares; a step that does not help is not taken, and damped more."""

  def twice(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = residuals(z)
    return found, found  # so that slopes and values are compiled once

  def step(carry: Any, _: None) -> Any:
    z, damping, loss = carry
    slopes, now = jax.jacfwd(twice, has_aux=True)(z)
    curvature = slopes.T @ slopes
    scale = jnp.diag(jnp.diag(curvature) + 1e-6)
    change = jnp.linalg.solve(curvature + damping * scale, slopes.T @ now)
    tried = jnp.clip(z - change, -_FARTHEST, _FARTHEST)
    better = jnp.sum(residuals(tried) ** 2)
    helps = better < loss
    z = jnp.where(helps, tried, z)
    damping = jnp.clip(jnp.where(helps, damping / 5, damping * 5), 1e-8, 1e8)
    return (z, damping, jnp.where(helps, better, loss)), loss

  start = z, jnp.ones(()), jnp.sum(residuals(z) ** 2)
  (z, _, _), losses = jax.lax.scan(step, start, None, length=num_steps)
  return z, losses
