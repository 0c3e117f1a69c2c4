"""Driving in closed loop: unseen cars on a track, each by several models."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.car import engineers, ranges_of
from experiments.runner.problem import TEST_SEED, Judge, Problem
from experiments.runner.progress import shown
from metajax.base import PyTree
from metajax.objectives import confidence_interval
from metajax.tasks.car import CHANGE_SCALE, PERIOD, car_of_task
from metajax.tasks.car_driving import (
  Planner,
  Ride,
  Track,
  drive_along,
  foretell,
  make_track,
)
from metajax.tasks.car_identification import car_change

__all__ = ['FROM', 'Rides', 'in_closed_loop', 'measured', 'ride']

FROM, _AHEAD = 40, 30  # periods
_ORDER = (
  'before adaptation', 'adapted', 'middle of all cars', 'textbook tyres',
  'identified', 'true car',
)  # fmt: skip
_ROUND = 1.05  # of a round that a ride is long


class Rides(NamedTuple):
  """Rides of the same cars by several models."""

  track: Track
  planner: Planner
  by_model: dict[str, Ride]  # leaves [cars, periods, ...]
  # What each model says of some seconds of the ride by the true car, from
  # `FROM` on: [cars, periods, 6].
  foretold: dict[str, Any]

  @property
  def names(self) -> list[str]:
    """Of the models, from those that know less to those that know more."""
    return sorted(self.by_model, key=_ORDER.index)


def ride(problem: Problem, judge: Judge, meta_params: PyTree) -> Rides:
  """Drives unseen cars along the track, by what each model says of them.

  Args:
    problem: whose tasks, and so cars, they are; the first test tasks have
      others.
    judge: of the problem.
    meta_params: as they are trained.
  """
  settings: Any = problem.settings  # `CarData`, too
  ranges = ranges_of(settings)
  planner = Planner(settings.horizon, settings.track_speed)
  track = make_track()
  periods = int(_ROUND * track.length / planner.speed / PERIOD)
  keys = jax.random.split(jax.random.key(TEST_SEED), settings.rides)
  learner, prepared = judge.learner, judge.prepare(meta_params)

  def learned(adapted: PyTree, inputs: jax.Array) -> jax.Array:
    outputs = learner.predict(adapted, inputs[None])[0]
    # Behind the changes, some methods say how sure they are.
    return outputs[: len(CHANGE_SCALE)]

  def by_learned(
    meta_params: PyTree, key: jax.Array, true: Ride
  ) -> tuple[dict[str, Ride], dict[str, jax.Array]]:
    support = problem.test(key).support
    adapted, adaptation = learner.adapt(key, meta_params, support)
    knows = {
      'before adaptation': adaptation.after(0, adapted),
      'adapted': adapted,
    }
    return driven(key, learned, knows, true)

  def by_equations(
    key: jax.Array,
  ) -> tuple[dict[str, Ride], dict[str, jax.Array]]:
    support = problem.test(key).support
    knows = dict[str, Any]()
    for name in ('textbook_tyres', 'identified'):
      engineer = engineers(settings)[name]
      found, adaptation = engineer.adapt(key, (), support)
      knows.setdefault('middle of all cars', adaptation.after(0, found))
      knows[name.replace('_', ' ')] = found
    knows['true car'] = car_of_task(ranges, key)
    return driven(key, car_change, knows, None)

  def driven(
    key: jax.Array, predict: Any, knows: dict[str, Any], true: Ride | None
  ) -> tuple[dict[str, Ride], dict[str, jax.Array]]:
    """Rides by what is known, and what is foretold of that by the true car."""
    car = car_of_task(ranges, key)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *knows.values())
    rides = jax.vmap(
      lambda known: drive_along(track, car, predict, known, periods, planner)
    )(stacked)
    named = _named(rides, list(knows))
    true = named['true car'] if true is None else true
    states, actions = true.states[FROM], true.actions[FROM : FROM + _AHEAD]
    foretold = jax.vmap(lambda known: foretell(predict, known, states, actions))
    return named, _named(foretold(stacked), list(knows))

  with shown('driving along the track'):
    rides, ahead = jax.jit(jax.vmap(by_equations))(keys)
    of_learned = jax.jit(jax.vmap(by_learned, (None, 0, 0)))
    more, more_ahead = of_learned(prepared, keys, rides['true car'])
  found = Rides(track, planner, more | rides, more_ahead | ahead)
  return found._replace(
    by_model=jax.tree.map(np.asarray, found.by_model),
    foretold=jax.tree.map(np.asarray, found.foretold),
  )


def _named(stacked: Any, names: list[str]) -> dict[str, Any]:
  return {
    name: jax.tree.map(operator.itemgetter(place), stacked)
    for place, name in enumerate(names)
  }


def measured(rides: Rides) -> dict[str, dict[str, Any]]:
  """How far from the middle of the track cars were, by model.

  Of each car the mean over the ride, in metres, and the largest; a car that has
  left the road counts as at its edge from there on. Of all cars the mean and
  its 95% interval, if there are several, and the share that left the road; and
  how far what was foretold is from where the true car was after three seconds,
  in metres.
  """
  found = dict[str, dict[str, Any]]()
  true = rides.by_model['true car'].states
  for name in rides.names:
    each = rides.by_model[name]
    road = rides.planner.road
    ahead = rides.foretold[name]
    missed = ahead[:, -1, :2] - true[:, FROM + ahead.shape[1], :2]
    distance = np.where(each.on_road, np.abs(each.distances), road)
    means = jnp.asarray(distance.mean(axis=1))
    found[name] = {
      'lateral_error': float(means.mean()),
      'ci95': float(confidence_interval(means)) if len(means) > 1 else None,
      'largest': float(np.minimum(distance.max(axis=1), road).mean()),
      'foretold_error': float(np.hypot(*missed.T).mean()),
      'left_the_road': float(1 - each.on_road[:, -1].mean()),
    }
  return found


def in_closed_loop(rides: Rides) -> dict[str, Any]:
  """The entries `closed_loop` and `tables` of `result.json`."""
  found = measured(rides)
  number = len(rides.by_model['true car'].distances)
  lines = [[
    'driven by', 'm from the middle', '95% interval', 'm after 3 s foretold',
    'left the road %',
  ]]  # fmt: skip
  for name, each in found.items():
    half = each['ci95']
    lines.append([
      name,
      f'{each["lateral_error"]:.3f}',
      '' if half is None else f'\N{PLUS-MINUS SIGN} {half:.3f}',
      f'{each["foretold_error"]:.2f}',
      f'{100 * each["left_the_road"]:.0f}',
    ])  # fmt: skip
  title = f'in closed loop, unseen cars: {number}'
  return {'closed_loop': found, 'tables': {title: lines}}
