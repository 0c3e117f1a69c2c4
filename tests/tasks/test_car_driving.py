"""Closed loop: tracks, plans, and rides by right and wrong models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks.bicycle import drive
from metajax.tasks.car import PERIOD, CarRanges, middle_car
from metajax.tasks.car_driving import (
  Planner,
  drive_along,
  foretell,
  make_track,
)
from metajax.tasks.car_identification import car_change

CAR = middle_car(CarRanges())


def test_a_round_track_is_a_circle():
  track = make_track(radius=30.0, bends=())
  assert track.length == pytest.approx(2 * np.pi * 30, rel=1e-5)
  np.testing.assert_allclose(track.curvatures, 1 / 30, rtol=1e-4)
  np.testing.assert_allclose(np.hypot(*track.places.T), 30, rtol=1e-5)


def test_the_usual_track_is_closed_and_bends_both_ways():
  track = make_track()
  turned = track.curvatures.mean() * track.length
  assert turned == pytest.approx(2 * np.pi, rel=1e-3)
  assert track.curvatures.min() < -0.03 < 0.03 < track.curvatures.max()
  steps = np.hypot(*np.diff(track.places, axis=0, append=track.places[:1]).T)
  np.testing.assert_allclose(steps, steps.mean(), rtol=1e-2)


@pytest.mark.in_ci
def test_what_is_foretold_by_the_equations_is_what_happens():
  actions = jnp.tile(jnp.array([0.6, 0.1]), (20, 1))
  start = jnp.zeros(6).at[3].set(11.0)
  said = jax.jit(lambda: foretell(car_change, CAR, start, actions))()
  state = start
  for action in actions:
    state = drive(CAR, state, action, PERIOD)
  np.testing.assert_allclose(said[-1, 3:], state[3:], rtol=1e-3)
  np.testing.assert_allclose(said[-1, :2], state[:2], atol=0.05)


@pytest.mark.in_ci
def test_the_true_model_keeps_to_the_middle_and_a_wrong_one_does_not():
  ride = jax.jit(
    lambda knows: drive_along(make_track(), CAR, car_change, knows, 150)
  )
  true = ride(CAR)
  assert true.on_road.all()
  assert abs(true.distances).max() < 0.1
  np.testing.assert_allclose(true.states[-1, 3], 11, atol=0.3)
  offset = ride(CAR._replace(steering_offset=CAR.steering_offset + 0.02))
  assert abs(offset.distances).mean() > 3 * abs(true.distances).mean()
  left = ride(CAR._replace(steering_ratio=-CAR.steering_ratio))
  assert not left.on_road[-1]
  # Who has left the road stands.
  np.testing.assert_array_equal(left.states[-1], left.states[-2])


@pytest.mark.parametrize(
  ('wrong', 'periods', 'name'),
  [
    ({'horizon': 0}, 5, 'horizon'),
    ({'speed': -1.0}, 5, 'speed'),
    ({'num_steps': 0}, 5, 'num_steps'),
    ({'road': 0.0}, 5, 'road'),
    ({}, 0, 'periods'),
  ],
)
def test_what_is_not_positive_is_refused(wrong, periods, name):
  with pytest.raises(ValueError, match=f'{name} must be above 0'):
    drive_along(make_track(), CAR, car_change, CAR, periods, Planner(**wrong))


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'points': 3}, '16 points or more, got 3'),
    ({'radius': 0.0}, 'above 0 everywhere'),
    ({'radius': np.nan}, 'above 0 everywhere'),
    ({'radius': np.inf}, 'above 0 everywhere'),
    ({'bends': (np.nan,)}, 'above 0 everywhere'),
    ({'bends': (0.5, 0.5)}, 'less than 1 together'),
  ],
)
def test_a_track_that_is_none_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    make_track(**wrong)


def test_no_car_is_to_be_infinitely_fast():
  with pytest.raises(ValueError, match='speed must be finite'):
    drive_along(
      make_track(), CAR, car_change, CAR, 5, Planner(speed=float('inf'))
    )
