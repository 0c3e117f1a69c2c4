"""A car as a bicycle: what is known in closed form, and symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks.bicycle import (
  FORCE,
  GRAVITY,
  Car,
  derivative,
  drive,
  steady_yaw_rate,
  tyre_force,
)

CAR = Car(1500.0, 2600.0, 1.2, 1.5, 8e4, 9.5e4, 0.9, 15.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def car(**properties):
  return jax.tree.map(jnp.float64, CAR._replace(**properties))


def state_at(speed):
  return jnp.zeros(6).at[3].set(speed)


@jax.jit
def held(car, state, action, seconds, num_steps):
  """Many short steps, compiled once for all tests."""

  def step(_, state):
    return drive(car, state, action, seconds / num_steps, 1)

  return jax.lax.fori_loop(0, num_steps, step, state)


def test_without_steering_a_car_goes_straight_on():
  later = held(car(), state_at(13.0), jnp.zeros(2), 10.0, 400)
  np.testing.assert_allclose(later, [130, 0, 0, 13, 0, 0], atol=1e-9)


@pytest.mark.parametrize('speed', [6.0, 12.0, 20.0])
@pytest.mark.parametrize(
  ('front', 'rear'), [(8e4, 9.5e4), (9e4, 1.5e5), (1e5, 7.8e4)]
)
def test_a_steady_turn_is_that_of_the_gradient_of_understeer(
  speed, front, rear
):
  driven = car(front_stiffness=front, rear_stiffness=rear)
  angle = 1e-6  # of the front wheel; terms are quadratic in it
  action = jnp.array([15 * angle, 0.0])
  later = held(driven, state_at(speed), action, 40.0, 2000)
  expected = steady_yaw_rate(driven, speed, angle)
  assert later[3] == pytest.approx(speed, rel=1e-9)
  assert later[5] == pytest.approx(float(expected), rel=1e-8)
  # The angle at which it floats: of the rear wheel's lever, less its slip.
  slip = 1500.0 * 1.2 * speed**2 / (rear * 2.7)
  assert later[4] / speed == pytest.approx(
    float(expected / speed * (1.5 - slip)), rel=1e-7
  )


def test_an_offset_of_the_steering_is_as_if_the_wheel_was_turned():
  turned = held(car(), state_at(10.0), jnp.array([0.3, 0.0]), 3.0, 200)
  offset = held(
    car(steering_offset=0.02), state_at(10.0), jnp.zeros(2), 3.0, 200
  )
  np.testing.assert_allclose(offset, turned, rtol=1e-12)


def test_a_step_of_the_integration_is_of_fourth_order():
  action = jnp.array([1.0, 0.3])
  exact = held(car(drag=0.4), state_at(12.0), action, 1.0, 4000)
  errors = [
    float(
      abs(held(car(drag=0.4), state_at(12.0), action, 1.0, count) - exact).max()
    )
    for count in (40, 80, 160)
  ]
  orders = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(orders, 4, atol=0.35)


def test_drag_alone_slows_a_car_down_as_the_solution_says():
  later = held(car(drag=0.6), state_at(20.0), jnp.zeros(2), 10.0, 400)
  rate = 0.6 / 1500
  assert later[3] == pytest.approx(20 / (1 + rate * 20 * 10), rel=1e-10)
  assert later[0] == pytest.approx(np.log(1 + rate * 20 * 10) / rate, rel=1e-10)


def test_energy_grows_by_the_work_of_the_engine():
  later = held(car(), state_at(8.0), jnp.array([0.0, 0.7]), 5.0, 400)
  gained = 1500 / 2 * (later[3] ** 2 - 8**2)
  assert gained == pytest.approx(0.7 * FORCE * float(later[0]), rel=1e-9)


def test_tyres_take_energy_and_never_give_any():
  state = jnp.array([0.0, 0.0, 0.0, 12.0, 1.0, -0.5])

  def energy(state):
    speed = state[3] ** 2 + state[4] ** 2
    return 1500 / 2 * speed + 2600 / 2 * state[5] ** 2

  energies = []
  for _ in range(20):
    energies.append(float(energy(state)))
    state = held(car(), state, jnp.zeros(2), 0.2, 20)
  assert (np.diff(energies) < 1e-6).all()  # to rounding, once it is straight
  assert energies[-1] < energies[0] - 300


def test_a_mirrored_wheel_mirrors_the_path():
  left, right = (
    held(car(drag=0.4), state_at(12.0), jnp.array([side, 0.2]), 4.0, 300)
    for side in (1.3, -1.3)
  )
  mirror = np.array([1, -1, -1, 1, -1, -1])
  np.testing.assert_allclose(right, mirror * left, rtol=1e-12)
  assert left[1] > 1


def test_where_a_car_is_and_points_changes_nothing_else():
  action, turn = jnp.array([1.0, 0.1]), 0.7
  here = held(car(), state_at(12.0), action, 2.0, 100)
  start = state_at(12.0).at[:3].set(jnp.array([5.0, -3.0, turn]))
  there = held(car(), start, action, 2.0, 100)
  np.testing.assert_allclose(there[3:], here[3:], rtol=1e-12)
  rotation = np.array(
    [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
  )
  np.testing.assert_allclose(
    there[:2], rotation @ np.asarray(here[:2]) + [5, -3]
  )


def test_a_tyre_begins_with_its_stiffness_and_ends_with_its_grip():
  slope = jax.grad(tyre_force, argnums=2)(8e4, 5e3, 0.0)
  assert slope == pytest.approx(8e4)
  slips = jnp.linspace(0, 1.5, 400)
  forces = tyre_force(8e4, 5e3, slips)
  assert 4990 < forces.max() <= 5e3
  np.testing.assert_allclose(tyre_force(8e4, 5e3, -slips), -forces)


@pytest.mark.parametrize('speed', [0.0, 1e-9, 0.1, 1.0, 4.0])
def test_slow_cars_are_not_singular(speed):
  action = jnp.array([2.0, -1.0])
  slopes = jax.jacfwd(drive, argnums=1)(car(), state_at(speed), action)
  assert np.isfinite(slopes).all()
  later = held(car(), state_at(speed), action, 10.0, 400)
  assert np.isfinite(later).all()
  # Brakes stop a car, and do not drive it back.
  np.testing.assert_allclose(later[3:], 0, atol=1e-3)


def test_a_car_that_stands_stays_where_it_is_with_its_wheel_turned():
  action = jnp.array([2.0, 0.0])
  np.testing.assert_array_equal(derivative(car(), state_at(0.0), action), 0)


def test_no_turn_is_sharper_than_grip_allows():
  slippery, action = car(grip=0.3), jnp.array([1.5, 0.0])
  state, across = state_at(18.0), []
  for _ in range(20):
    state = held(slippery, state, action, 0.1, 10)
    across.append(
      float(derivative(slippery, state, action)[4] + state[3] * state[5])
    )
  assert 0.95 * 0.3 * GRAVITY < max(across) <= 0.3 * GRAVITY
  wanted = float(steady_yaw_rate(slippery, 18.0, 0.1)) * 18
  assert wanted > 2 * 0.3 * GRAVITY


def test_an_integration_without_steps_is_refused():
  with pytest.raises(ValueError, match='num_steps must be 1 or more, got 0'):
    drive(CAR, state_at(5.0), jnp.zeros(2), num_steps=0)
