r"""Closed loop: a model of a car steers that car along a track.

At each period a planner looks for the actions that keep the car in the middle
of the track at a set speed, as far as the model says; the car carries out the
first of them, and the planner looks again from where the car is then (model
predictive control).

References:
  Rawlings, Mayne, Diehl (2017), Model predictive control, chapter 1; Nocedal,
  Wright (2006), Numerical optimization, section 10.3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import PyTree
from metajax.tasks.bicycle import Car, drive
from metajax.tasks.car import CHANGE_SCALE, PERIOD, WHEEL_LIMIT, car_inputs

__all__ = ['Planner', 'Ride', 'Track', 'drive_along', 'foretell', 'make_track']

# (adapted, inputs [5]) -> changes [3], in the units of `tasks.car`.
Predict = Callable[[PyTree, jax.Array], jax.Array]

_KNOTS = 3  # of a planned action over the horizon, linear in between
_MIDDLE, _ALONG, _SPEED, _SMOOTH = 1.0, 1.0, 0.5, 0.3  # weights of a plan
_DAMPING = 1e-2
_STEEPEST = 0.9  # of the way to the centre of a bend, where a plan stops


class Track(NamedTuple):
  """The middle of a closed road, at equal distances along it."""

  length: float  # m
  places: np.ndarray  # [points, 2], m
  headings: np.ndarray  # [points], rad, growing by 2 pi in a round
  curvatures: np.ndarray  # [points], 1/m


class Planner(NamedTuple):
  """How far a planner looks, and what it wants."""

  horizon: int = 12  # periods
  speed: float = 11.0  # m/s
  num_steps: int = 2  # of Gauss and Newton in a period
  road: float = 4.0  # m, either side of the middle; beyond it a ride has ended


class Ride(NamedTuple):
  """What came of it; leaves `[periods, ...]`."""

  states: jax.Array  # [periods, 6]
  actions: jax.Array  # [periods, 2]
  distances: jax.Array  # [periods], m to the left of the middle of the track
  on_road: jax.Array  # [periods], from the first one outside on False


def make_track(
  radius: float = 50.0,
  bends: tuple[float, ...] = (0.0, 0.25, 0.12),
  points: int = 600,
) -> Track:
  r"""A closed track with bends both ways.

  .. math:: R(\varphi) = R (1 + \sum_k c_k \cos((k + 1) \varphi))

  Args:
    radius: R, in m.
    bends: c_1, c_2, ...
    points: of the track.

  Raises:
    ValueError: if the radius is not positive somewhere, or there are fewer than
      16 points.

  Example:
    >>> track = make_track(radius=20., bends=())
    >>> round(track.length, 1), round(float(track.curvatures[0]), 3)
    (125.7, 0.05)
  """
  if points < 16:
    raise ValueError(f'a track has 16 points or more, got {points}')
  if not (0 < radius < np.inf and sum(map(abs, bends)) < 1):
    raise ValueError(
      'the radius of a track must be above 0 everywhere: give a positive one,'
      f' and bends that are less than 1 together; got {radius} and {bends}'
    )
  angle = np.linspace(0, 2 * np.pi, 16 * points + 1)
  waves = np.arange(1, len(bends) + 1)[:, None] * angle
  distance = radius * (1 + np.asarray(bends) @ np.cos(waves))
  fine = np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)
  along = np.append(0, np.cumsum(np.hypot(*np.diff(fine, axis=0).T)))
  wanted = np.linspace(0, along[-1], points, endpoint=False)
  places = np.stack([np.interp(wanted, along, each) for each in fine.T], 1)
  spacing = along[-1] / points
  ahead, behind = np.roll(places, -1, 0), np.roll(places, 1, 0)
  headings = np.unwrap(np.arctan2(*(ahead - behind).T[::-1]))
  first, second = (ahead - behind) / 2, ahead - 2 * places + behind
  turning = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
  return Track(float(along[-1]), places, headings, turning / spacing**3)


def drive_along(
  track: Track,
  car: Car,
  predict: Predict,
  adapted: PyTree,
  periods: int,
  planner: Planner = Planner(),  # noqa: B008  (it cannot be changed)
) -> Ride:
  """Drives a car along a track by what a model says of it.

  Args:
    track: from whose first point the car starts, at the planner's speed.
    car: the true one.
    predict: `(adapted, inputs [5]) -> changes [3]`, the model.
    adapted: what the model knows of this car.
    periods: of `PERIOD` each.
    planner: how far it looks.

  Returns:
    The ride, which ends where the car leaves the road; then it stands.

  Raises:
    ValueError: if the horizon, the steps, the periods, the speed or the road
      are not positive.

  Example:
    >>> from metajax.tasks.car import CarRanges, middle_car
    >>> from metajax.tasks.car_identification import car_change
    >>> car = middle_car(CarRanges())
    >>> ride = jax.eval_shape(
    ...   lambda: drive_along(make_track(), car, car_change, car, periods=20)
    ... )
    >>> ride.states.shape, ride.distances.shape
    ((20, 6), (20,))
  """
  given = {'periods': periods} | planner._asdict()
  for name, value in given.items():
    if not value > 0:
      raise ValueError(f'{name} must be above 0, got {value}')
  if not planner.speed < np.inf:  # a road may be as wide as one likes
    raise ValueError(f'speed must be finite, got {planner.speed}')

  model = _model(predict, adapted)
  curvatures = jnp.asarray(track.curvatures)
  plan = _planned(model, curvatures, track.length, planner)

  def period(carry: Any, _: None) -> Any:
    state, knots, on_road = carry
    along, distance, heading = _on_track(track, state)
    on_road &= jnp.abs(distance) < planner.road
    start = jnp.concatenate([jnp.stack([along, distance, heading]), state[3:]])
    knots = plan(start, knots)
    action = _actions(knots, planner.horizon)[0]
    later = jnp.where(on_road, drive(car, state, action, PERIOD), state)
    shifted = _shifted(knots, planner.horizon)
    return (later, shifted, on_road), Ride(state, action, distance, on_road)

  at_start = [*track.places[0], track.headings[0], planner.speed, 0.0, 0.0]
  start = jnp.array(at_start), jnp.zeros((_KNOTS, 2)), jnp.array(True)
  return jax.lax.scan(period, start, None, length=periods)[1]


def foretell(
  predict: Predict, adapted: PyTree, state: jax.Array, actions: jax.Array
) -> jax.Array:
  """Where a car will be, as a model says, if actions are carried out.

  Args:
    predict: `(adapted, inputs [5]) -> changes [3]`, the model.
    adapted: what the model knows of this car.
    state: `[6]`, from which on it is asked.
    actions: `[periods, 2]`.

  Returns:
    The states `[periods, 6]` after each of them.

  Example:
    >>> from metajax.tasks.car import CarRanges, middle_car
    >>> from metajax.tasks.car_identification import car_change
    >>> state = jnp.array([0., 0., 0., 10., 0., 0.])
    >>> car = middle_car(CarRanges())
    >>> states = foretell(car_change, car, state, jnp.zeros((5, 2)))
    >>> states[:, 0].round(1).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0]
  """
  model = _model(predict, adapted)

  def period(state: jax.Array, action: jax.Array) -> Any:
    motion = model(state[3:], action)
    forward, across, turn = (state[3:] + motion) / 2
    heading = state[2] + PERIOD / 2 * turn
    sine, cosine = jnp.sin(heading), jnp.cos(heading)
    moved = jnp.stack([
      forward * cosine - across * sine, forward * sine + across * cosine, turn
    ])  # fmt: skip
    later = jnp.concatenate([state[:3] + PERIOD * moved, motion])
    return later, later

  return jax.lax.scan(period, state, actions)[1]


def _model(
  predict: Predict, adapted: PyTree
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The motion `[3]` after a period, of the motion before and an action."""

  def model(motion: jax.Array, action: jax.Array) -> jax.Array:
    state = jnp.concatenate([jnp.zeros(3), motion])
    change = predict(adapted, car_inputs(state, action))
    return motion + change * jnp.array(CHANGE_SCALE)

  return model


def _planned(
  model: Callable[[jax.Array, jax.Array], jax.Array],
  curvatures: jax.Array,
  length: float,
  planner: Planner,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Plans knots of actions, from where the car is and the plan before."""

  def residuals(knots: jax.Array, start: jax.Array) -> jax.Array:
    actions = _actions(knots, planner.horizon)

    def period(place: jax.Array, action: jax.Array) -> Any:
      later = _along_track(model, curvatures, length, place, action)
      wrong = jnp.stack([
        _MIDDLE * later[1],
        _ALONG * later[2],
        _SPEED * (later[3] - planner.speed),
      ])  # fmt: skip
      return later, wrong

    wrong = jax.lax.scan(period, start, actions)[1]
    return jnp.concatenate(
      [wrong.ravel(), _SMOOTH * jnp.diff(knots, axis=0).ravel()]
    )

  def plan(start: jax.Array, knots: jax.Array) -> jax.Array:
    def flat(each: jax.Array) -> jax.Array:
      return residuals(each.reshape(knots.shape), start)

    def twice(each: jax.Array) -> tuple[jax.Array, jax.Array]:
      found = flat(each)
      return found, found  # so that slopes and values are compiled once

    def step(_: int, flat_knots: jax.Array) -> jax.Array:
      slopes, now = jax.jacfwd(twice, has_aux=True)(flat_knots)
      curvature = slopes.T @ slopes + _DAMPING * jnp.eye(knots.size)
      change = jnp.linalg.solve(curvature, slopes.T @ now)
      # Where the whole step does not help, a quarter of it may.
      shares = jnp.array([[0.0], [1.0], [0.25]])
      tries = flat_knots[None] - shares * jnp.clip(change, -0.5, 0.5)[None]
      costs = jnp.sum(jax.vmap(flat)(tries) ** 2, axis=1)
      # A cost that is not a number is none to choose.
      return tries[jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))]

    found = jax.lax.fori_loop(0, planner.num_steps, step, knots.ravel())
    return found.reshape(knots.shape)

  return plan


def _along_track(
  model: Callable[[jax.Array, jax.Array], jax.Array],
  curvatures: jax.Array,
  length: float,
  place: jax.Array,
  action: jax.Array,
) -> jax.Array:
  """A period in the coordinates of the track, by the model of the motion.

  Of the way along it, the distance to its left, the angle to it, and motion.
  """
  along, distance, angle = place[:3]
  motion = model(place[3:], action)
  forward, across, turn = (place[3:] + motion) / 2
  at = along / length * len(curvatures)
  curvature = jnp.interp(
    jnp.mod(at, len(curvatures)), jnp.arange(len(curvatures)), curvatures
  )
  halfway = angle + PERIOD / 2 * (turn - curvature * forward)
  sine, cosine = jnp.sin(halfway), jnp.cos(halfway)
  # The inside of a bend is shorter.
  share = 1 - jnp.minimum(curvature * distance, _STEEPEST)
  speed = (forward * cosine - across * sine) / share
  return jnp.concatenate([
    jnp.stack([
      along + PERIOD * speed,
      distance + PERIOD * (forward * sine + across * cosine),
      angle + PERIOD * (turn - curvature * speed),
    ]),
    motion,
  ])  # fmt: skip


def _on_track(
  track: Track, state: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Where a car is: way along the track, distance to its left, angle to it."""
  places = jnp.asarray(track.places)
  from_points = state[None, :2] - places
  nearest = jnp.argmin(jnp.sum(from_points**2, axis=1))
  heading = jnp.asarray(track.headings)[nearest]
  offset = from_points[nearest]
  sine, cosine = jnp.sin(heading), jnp.cos(heading)
  ahead = offset[0] * cosine + offset[1] * sine
  left = offset[1] * cosine - offset[0] * sine
  curvature = jnp.asarray(track.curvatures)[nearest]
  along = nearest * (track.length / len(places)) + ahead
  angle = state[2] - heading - curvature * ahead
  # To the left of a chord is not quite to the left of the bend it stands for.
  left = left - curvature * ahead**2 / 2
  return along, left, jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi


def _actions(knots: jax.Array, horizon: int) -> jax.Array:
  """The actions `[horizon, 2]` of a plan, within what a car can do."""
  at = jnp.linspace(0, _KNOTS - 1, horizon)
  between = jax.vmap(
    lambda each: jnp.interp(at, jnp.arange(_KNOTS), each), 1, 1
  )(knots)
  return jnp.tanh(between) * jnp.array([[WHEEL_LIMIT, 1.0]])


def _shifted(knots: jax.Array, horizon: int) -> jax.Array:
  """A plan as it is a period later."""
  at = jnp.arange(_KNOTS) + (_KNOTS - 1) / max(horizon - 1, 1)
  return jax.vmap(lambda each: jnp.interp(at, jnp.arange(_KNOTS), each), 1, 1)(
    knots
  )
