r"""Driving: every task is another car, to be known from a few transitions.

An example is a tenth of a second of a drive. Its inputs are how the car moved
and what the driver did, its targets how the motion changed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Batch, Task
from metajax.equality import EqualPartial
from metajax.tasks.bicycle import Car, drive

__all__ = [
  'CHANGE_SCALE',
  'INPUT_MEAN',
  'INPUT_SCALE',
  'PERIOD',
  'WHEEL_LIMIT',
  'CarRanges',
  'car',
  'car_inputs',
  'car_of_task',
  'car_within',
  'draw_car',
  'middle_car',
]

PERIOD = 0.1  # s, for which an action is held
WHEEL_LIMIT = 3.0  # rad, either way, of the steering wheel
_TRANSITIONS = 16  # of one drive
_STRIDE = 2  # periods from one transition of a drive to the next one
_SPEEDS = 6.0, 18.0  # m/s, that a driver aims at

# Speed along (m/s), speed across (m/s), yaw rate (rad/s), steering wheel (rad),
# throttle: what is subtracted, and divided by.
INPUT_MEAN = 12.0, 0.0, 0.0, 0.0, 0.0
INPUT_SCALE = 3.0, 0.2, 0.25, 1.3, 0.6
# m/s, m/s, rad/s, in a period: so that to predict no change has a mean squared
# error of a half, for each of the three.
CHANGE_SCALE = 0.314, 0.187, 0.165


class CarRanges(NamedTuple):
  """From where to where each property of cars is uniform; see `Car`."""

  mass: tuple[float, float] = (1000.0, 2000.0)  # kg
  # As a share of mass times both lengths, as it is about 1 for most cars.
  yaw_inertia: tuple[float, float] = (0.8, 1.2)
  front_length: tuple[float, float] = (1.1, 1.4)  # m
  rear_length: tuple[float, float] = (1.3, 1.7)  # m
  front_stiffness: tuple[float, float] = (5e4, 1.1e5)  # N/rad
  # As a share of that of the front.
  rear_stiffness: tuple[float, float] = (1.0, 1.5)
  grip: tuple[float, float] = (0.6, 1.0)
  steering_ratio: tuple[float, float] = (10.0, 20.0)
  steering_offset: tuple[float, float] = (-0.02, 0.02)  # rad
  drag: tuple[float, float] = (0.3, 0.8)  # N s^2/m^2


def draw_car(ranges: CarRanges, key: jax.Array) -> Car:
  """Draws a car.

  Args:
    ranges: what each property is drawn from, each for itself.
    key: of the draw.

  Example:
    >>> import jax
    >>> drawn = draw_car(CarRanges(mass=(900., 901.)), jax.random.key(0))
    >>> 900 <= drawn.mass <= 901
    Array(True, dtype=bool)
  """
  shares = jax.random.uniform(key, (len(Car._fields),))
  bounds = jnp.array(ranges, shares.dtype)
  return _of(*(bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * shares))


def car_of_task(ranges: CarRanges, key: jax.Array) -> Car:
  """The car that a task of `car` is of, which the task itself does not say.

  Args:
    ranges: of the distribution.
    key: that the task is drawn by.

  Example:
    >>> import jax
    >>> car_of_task(CarRanges(), jax.random.key(0)).mass.shape
    ()
  """
  return draw_car(ranges, jax.random.split(key, 3)[0])


def middle_car(ranges: CarRanges) -> Car:
  """The car in the middle of all ranges.

  Example:
    >>> float(middle_car(CarRanges()).mass)
    1500.0
  """
  bounds = jnp.array(ranges, jnp.result_type(float))
  return _of(*bounds.mean(axis=1))


def car_within(ranges: CarRanges, places: jax.Array) -> Car:
  """The car whose properties are at these places in their ranges.

  Args:
    ranges: of each property.
    places: `[10]`, in the order of `Car`; -1 is the smaller end of a range and
      1 the larger one. What is positive stays so beyond them: in between and
      outside places count in equal factors.

  Example:
    >>> import jax.numpy as jnp
    >>> [round(float(car_within(CarRanges(), jnp.full(10, place)).mass))
    ...  for place in (-1., 0., 1., 3.)]
    [1000, 1414, 2000, 4000]
  """
  bounds = jnp.array(ranges, places.dtype)
  middle, half = bounds.mean(axis=1), (bounds[:, 1] - bounds[:, 0]) / 2
  logarithms = jnp.log(jnp.where(bounds > 0, bounds, 1.0))
  centre = logarithms.mean(axis=1)
  spread = (logarithms[:, 1] - logarithms[:, 0]) / 2
  signed = jnp.array([name == 'steering_offset' for name in Car._fields])
  return _of(
    *jnp.where(
      signed, middle + half * places, jnp.exp(centre + spread * places)
    )
  )


def _of(*properties: jax.Array) -> Car:
  """A car of properties some of which are shares of others (`CarRanges`)."""
  made = Car(*properties)
  inertia = made.yaw_inertia * made.mass * made.front_length
  return made._replace(
    yaw_inertia=inertia * made.rear_length,
    rear_stiffness=made.rear_stiffness * made.front_stiffness,
  )


def car_inputs(state: jax.Array, action: jax.Array) -> jax.Array:
  """What a model of a car sees: motion and action, in units of their scales.

  Args:
    state: `[..., 6]`, as `derivative` has it; place and heading are left out,
      since no car depends on them.
    action: `[..., 2]`.

  Returns:
    `[..., 5]`.

  Example:
    >>> import jax.numpy as jnp
    >>> state = jnp.array([7., 7., 0., 15., 0., 0.5])
    >>> car_inputs(state, jnp.array([0., -0.6])).tolist()
    [1.0, 0.0, 2.0, 0.0, -1.0]
  """
  both = jnp.concatenate([state[..., 3:], action], axis=-1)
  mean, scale = (
    jnp.broadcast_to(jnp.array(each), both.shape)
    for each in (INPUT_MEAN, INPUT_SCALE)
  )
  return (both - mean) / scale


def car(
  shots: int,
  queries: int,
  ranges: CarRanges = CarRanges(),  # noqa: B008  (it cannot be changed)
  noise: float = 0.02,
) -> jax.tree_util.Partial:
  """The distribution of cars, each with transitions of its drives.

  A drive starts at 6 to 18 m/s and straight on; now and then the driver turns
  the wheel, to what would be up to 6 m/s^2 across in the middle of all cars,
  and aims at another speed. Support and query are of different drives.

  Args:
    shots: transitions that a car is known from.
    queries: others, to be predicted.
    ranges: what cars are drawn from.
    noise: deviation of what is added to targets, in their unit.

  Returns:
    `sample(key) -> Task`. Inputs are `[transitions, 5]`: speed along the car,
    speed across it, yaw rate, angle of the steering wheel, throttle, each less
    `INPUT_MEAN` and by `INPUT_SCALE`. Targets are `[transitions, 3]`: the
    changes of the first three within `PERIOD`, by `CHANGE_SCALE`.

  Raises:
    ValueError: if a count is not positive, if the noise is negative, or if a
      range is not of numbers from a smaller to a larger one, or not above zero
      where it has to be.

  Example:
    >>> import jax
    >>> sample = car(shots=16, queries=8)
    >>> task = jax.eval_shape(sample, jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((16, 5), (8, 3))
  """
  if shots < 1 or queries < 1:
    raise ValueError(
      f'shots and queries must be 1 or more, got {shots} and {queries}'
    )
  if not 0 <= noise < float('inf'):
    raise ValueError(f'noise must be 0 or more, got {noise}')
  for name, (low, high) in zip(ranges._fields, ranges, strict=True):
    least = 0.0 if name != 'steering_offset' else -float('inf')
    if not (low > least and low <= high < float('inf')):
      raise ValueError(
        f'the range of {name} must be two numbers'
        f'{" above 0" if least == 0 else ""}, the smaller one first; got'
        f' {low:g} and {high:g}'
      )
  return jax.tree_util.Partial(
    EqualPartial(_sample, shots, queries, ranges, noise)
  )


def _sample(
  shots: int, queries: int, ranges: CarRanges, noise: float, key: jax.Array
) -> Task:
  _, drive_key, noise_key = jax.random.split(key, 3)
  drawn = car_of_task(ranges, key)
  usual = middle_car(ranges)
  of_support = -(-shots // _TRANSITIONS)
  count = of_support - (-queries // _TRANSITIONS)
  keys = jax.random.split(drive_key, count)
  inputs, targets = jax.vmap(lambda key: _drive(drawn, usual, key))(keys)
  targets += noise * jax.random.normal(noise_key, targets.shape)

  def batch(start: int, end: int, number: int) -> Batch:
    return Batch(
      inputs[start:end].reshape(-1, inputs.shape[-1])[:number],
      targets[start:end].reshape(-1, targets.shape[-1])[:number],
    )

  return Task(batch(0, of_support, shots), batch(of_support, count, queries))


def _drive(
  driven: Car, usual: Car, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The transitions of one drive; the driver knows the usual car alone."""
  speed_key, goal_key, wheel_key, turn_key = jax.random.split(key, 4)
  length = _STRIDE * _TRANSITIONS
  speed = jax.random.uniform(
    speed_key, (), minval=_SPEEDS[0], maxval=_SPEEDS[1]
  )
  goals = jax.random.uniform(
    goal_key, (length,), minval=_SPEEDS[0], maxval=_SPEEDS[1]
  )
  turns = jax.random.uniform(turn_key, (length,), minval=-6.0, maxval=6.0)
  changes = jax.random.uniform(wheel_key, (2, length)) < jnp.array(
    [[0.1], [0.3]]
  )
  base = usual.front_length + usual.rear_length
  state = jnp.zeros(6).at[3].set(speed)

  def period(carry: Any, drawn: Any) -> Any:
    state, goal, turn = carry
    changes, new_goal, new_turn = drawn
    goal = jnp.where(changes[0], new_goal, goal)
    turn = jnp.where(changes[1], new_turn, turn)
    wheel = usual.steering_ratio * turn * base / jnp.maximum(state[3], 5.0) ** 2
    action = jnp.stack([
      jnp.clip(wheel, -WHEEL_LIMIT, WHEEL_LIMIT),
      jnp.clip(0.5 * (goal - state[3]), -1.0, 1.0),
    ])  # fmt: skip
    later = drive(driven, state, action, PERIOD)
    change = (later - state)[3:] / jnp.array(CHANGE_SCALE)
    return (later, goal, turn), (car_inputs(state, action), change)

  start = (state, speed, turns[0])
  _, recorded = jax.lax.scan(period, start, (changes.T, goals, turns))
  return jax.tree.map(lambda leaf: leaf[_STRIDE - 1 :: _STRIDE], recorded)
