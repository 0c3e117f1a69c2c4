r"""A car as a bicycle of two tyres that slip: how it moves in the plane.

The two wheels of an axle count as one. With u, v the speeds along and across
the car, r its yaw rate, and \delta the angle of the front wheel,

.. math::
  m (\dot u - v r) &= F - D u |u| - Y_f \sin\delta \\
  m (\dot v + u r) &= Y_f \cos\delta + Y_r \\
  I \dot r &= a\, Y_f \cos\delta - b\, Y_r \\
  \delta &= w / n + \delta_0

with w the angle of the steering wheel, n the ratio of the steering, and F the
force of the engine or the brakes at the rear wheel. The force Y of a tyre
across itself is Pacejka's formula of its slip, which begins with the axle's
cornering stiffness as its slope and never exceeds grip times load. Loads are
those of a car at rest; forces along a tyre take nothing from those across it.

References:
  Rajamani (2012), Vehicle dynamics and control, chapter 2; Pacejka (2012), Tire
  and vehicle dynamics, chapters 1 and 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
  'FORCE',
  'GRAVITY',
  'Car',
  'derivative',
  'drive',
  'steady_yaw_rate',
  'tyre_force',
]

GRAVITY = 9.81  # m/s^2
FORCE = 5000.0  # N, of the engine at full throttle, and of full brakes
_SHAPE = 1.4  # of Pacejka's curve: behind its peak it falls a little
# Below this speed a wheel slips as it does at this speed, since an angle of
# slip is a quotient by the speed.
_SLOWEST = 5.0  # m/s
_STANDING = 0.5  # m/s, from which on brakes have their force


class Car(NamedTuple):
  """What makes cars differ; leaves may be `[...]` of many cars."""

  mass: jax.Array  # kg
  yaw_inertia: jax.Array  # kg m^2
  front_length: jax.Array  # m, from the centre of mass to the front axle
  rear_length: jax.Array  # m, to the rear axle
  front_stiffness: jax.Array  # N/rad, of both front tyres together
  rear_stiffness: jax.Array  # N/rad
  grip: jax.Array  # largest force of a tyre, as a share of its load
  steering_ratio: jax.Array  # turns of the steering wheel to one of the wheels
  steering_offset: jax.Array  # rad, where the wheels stand at a straight wheel
  drag: jax.Array  # N s^2/m^2, of the air


def tyre_force(
  stiffness: jax.Array, largest: jax.Array, slip: jax.Array
) -> jax.Array:
  r"""The force of an axle across its wheel, in N.

  .. math:: Y = Y_{max} \sin(C \arctan(B \alpha)), \quad B C Y_{max} = K

  Args:
    stiffness: K, the slope at no slip, in N/rad.
    largest: the force that no slip exceeds, in N.
    slip: the angle, or its tangent, between where the wheel points and where it
      goes.

  Example:
    >>> round(float(tyre_force(5e4, 4e3, 1e-4)), 2)
    5.0
  """
  steepness = stiffness / (_SHAPE * largest)
  return largest * jnp.sin(_SHAPE * jnp.arctan(steepness * slip))


def derivative(car: Car, state: jax.Array, action: jax.Array) -> jax.Array:
  """How fast a state changes.

  Args:
    car: a single one.
    state: `[6]`: the place x, y in m, the heading in rad, the speeds along and
      across the car in m/s, the yaw rate in rad/s.
    action: `[2]`: the angle of the steering wheel in rad, left is positive, and
      the throttle from 0 to 1, brakes from 0 to -1.

  Returns:
    `[6]`, per second.

  Example:
    >>> import jax.numpy as jnp
    >>> car = Car(1500., 2500., 1.2, 1.5, 8e4, 9e4, 0.9, 15., 0., 0.4)
    >>> state = jnp.array([0., 0., 0., 10., 0., 0.])
    >>> [round(float(each), 3) + 0.0
    ...  for each in derivative(car, state, jnp.zeros(2))]
    [10.0, 0.0, 0.0, -0.027, 0.0, 0.0]
  """
  _, _, heading, along, across, yaw_rate = state
  wheel = action[0] / car.steering_ratio + car.steering_offset
  weight = car.mass * GRAVITY / (car.front_length + car.rear_length)
  front = tyre_force(
    car.front_stiffness,
    car.grip * weight * car.rear_length,
    _slip(along, across + car.front_length * yaw_rate, wheel),
  )
  rear = tyre_force(
    car.rear_stiffness,
    car.grip * weight * car.front_length,
    _slip(along, across - car.rear_length * yaw_rate, jnp.zeros_like(wheel)),
  )
  brakes = jnp.where(action[1] < 0, jnp.tanh(along / _STANDING), 1.0)
  pushed = FORCE * action[1] * brakes - car.drag * along * jnp.abs(along)
  sine, cosine = jnp.sin(heading), jnp.cos(heading)
  return jnp.stack(
    [
      along * cosine - across * sine,
      along * sine + across * cosine,
      yaw_rate,
      (pushed - front * jnp.sin(wheel)) / car.mass + across * yaw_rate,
      (front * jnp.cos(wheel) + rear) / car.mass - along * yaw_rate,
      (
        car.front_length * front * jnp.cos(wheel) - car.rear_length * rear
      ) / car.yaw_inertia,
    ]
  )  # fmt: skip


def drive(
  car: Car,
  state: jax.Array,
  action: jax.Array,
  seconds: float | jax.Array = 0.1,
  num_steps: int = 4,
) -> jax.Array:
  """The state after an action has been held, by Runge and Kutta's method.

  Args:
    car: a single one.
    state: `[6]`, as `derivative` has it.
    action: `[2]`, the same.
    seconds: for which it is held.
    num_steps: of the integration, of fourth order; of stiff tyres on a light
      car a step has to be 0.025 s or shorter.

  Returns:
    The state `[6]` then.

  Raises:
    ValueError: if there is no step.

  Example:
    >>> import jax.numpy as jnp
    >>> car = Car(1500., 2500., 1.2, 1.5, 8e4, 9e4, 0.9, 15., 0., 0.4)
    >>> state = jnp.array([0., 0., 0., 10., 0., 0.])
    >>> [round(float(each), 3) + 0.0
    ...  for each in drive(car, state, jnp.zeros(2))]
    [1.0, 0.0, 0.0, 9.997, 0.0, 0.0]
  """
  if num_steps < 1:
    raise ValueError(f'num_steps must be 1 or more, got {num_steps}')
  step = seconds / num_steps

  def advanced(state: jax.Array, _: None) -> tuple[jax.Array, None]:
    first = derivative(car, state, action)
    second = derivative(car, state + step / 2 * first, action)
    third = derivative(car, state + step / 2 * second, action)
    fourth = derivative(car, state + step * third, action)
    slope = (first + 2 * second + 2 * third + fourth) / 6
    return state + step * slope, None

  # Compiled once for all steps.
  return jax.lax.scan(advanced, state, None, length=num_steps)[0]


def steady_yaw_rate(car: Car, speed: jax.Array, wheel: jax.Array) -> jax.Array:
  r"""The yaw rate of a steady turn at small angles, in closed form.

  .. math::
    r = \frac{u\, \delta}{L + K u^2}, \quad
    K = \frac{m (b\, C_r - a\, C_f)}{L\, C_f C_r}, \quad L = a + b

  K is the gradient of understeer; a car with a negative one is unstable from
  the speed on at which the denominator is zero.

  Args:
    car: a single one.
    speed: u, in m/s.
    wheel: the angle of the front wheel, in rad.

  Returns:
    In rad/s.

  Example:
    >>> car = Car(1500., 2500., 1.2, 1.5, 8e4, 9e4, 0.9, 15., 0., 0.4)
    >>> round(float(steady_yaw_rate(car, 10., 0.1)), 4)
    0.3332
  """
  length = car.front_length + car.rear_length
  understeer = (
    car.mass
    * (
      car.rear_length * car.rear_stiffness
      - car.front_length * car.front_stiffness
    )
    / (length * car.front_stiffness * car.rear_stiffness)
  )
  return speed * wheel / (length + understeer * speed**2)


def _slip(along: jax.Array, across: jax.Array, wheel: jax.Array) -> jax.Array:
  """The angle between where a wheel points and where it goes, in rad."""
  sine, cosine = jnp.sin(wheel), jnp.cos(wheel)
  rolling = along * cosine + across * sine
  sliding = across * cosine - along * sine
  return -jnp.arctan(sliding / jnp.maximum(jnp.abs(rolling), _SLOWEST))
