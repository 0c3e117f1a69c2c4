"""Driving: what is drawn is what is documented, and what it amounts to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import sample_tasks
from metajax.tasks.bicycle import drive
from metajax.tasks.car import (
  CHANGE_SCALE,
  INPUT_MEAN,
  INPUT_SCALE,
  PERIOD,
  CarRanges,
  car,
  car_inputs,
  car_of_task,
  car_within,
  middle_car,
)


@pytest.fixture(scope='module')
def tasks():
  draw = jax.jit(lambda key: sample_tasks(car(20, 12), key, 1000))
  return jax.tree.map(np.asarray, draw(jax.random.key(0)))


def test_shapes(tasks):
  for batch, examples in ((tasks.support, 20), (tasks.query, 12)):
    assert batch.inputs.shape == (1000, examples, 5)
    assert batch.targets.shape == (1000, examples, 3)


def test_predicting_no_change_costs_a_half_of_each_target(tasks):
  targets = np.concatenate([tasks.support.targets, tasks.query.targets], 1)
  np.testing.assert_allclose((targets**2).mean((0, 1)), 0.5, atol=0.03)


def test_inputs_are_of_the_size_of_one(tasks):
  spread = tasks.query.inputs.std((0, 1))
  assert (spread > 0.7).all()
  assert (spread < 3).all()
  speeds = tasks.query.inputs[..., 0] * INPUT_SCALE[0] + INPUT_MEAN[0]
  assert 4 < np.quantile(speeds, 0.01) < np.quantile(speeds, 0.99) < 20


@pytest.mark.in_ci
def test_a_target_is_what_the_car_of_the_task_does():
  key = jax.random.key(5)
  task = jax.jit(car(3, 2, noise=0.0))(key)
  driven = car_of_task(CarRanges(), key)
  raw = np.asarray(task.support.inputs) * INPUT_SCALE + INPUT_MEAN
  for inputs, target in zip(raw, task.support.targets, strict=True):
    state = jnp.zeros(6).at[3:].set(inputs[:3])
    change = (drive(driven, state, jnp.asarray(inputs[3:]), PERIOD) - state)[3:]
    np.testing.assert_allclose(
      change / jnp.array(CHANGE_SCALE), target, atol=2e-4
    )
    np.testing.assert_allclose(
      car_inputs(state, jnp.asarray(inputs[3:])),
      (inputs - jnp.array(INPUT_MEAN)) / jnp.array(INPUT_SCALE),
      atol=1e-5,
    )


@pytest.mark.in_ci
def test_noise_is_as_large_as_it_is_said_to_be():
  noisy, clean = (
    jax.jit(
      lambda key, noise=noise: sample_tasks(car(16, 1, noise=noise), key, 300)
    )(jax.random.key(1))
    for noise in (0.1, 0.0)
  )
  np.testing.assert_array_equal(noisy.support.inputs, clean.support.inputs)
  added = noisy.support.targets - clean.support.targets
  assert added.std() == pytest.approx(0.1, rel=0.03)


def test_cars_are_within_their_ranges_and_differ():
  ranges = CarRanges(mass=(900.0, 1000.0))
  keys = jax.random.split(jax.random.key(2), 500)
  drawn = jax.vmap(lambda key: car_of_task(ranges, key))(keys)
  assert 900 <= drawn.mass.min() < 905
  assert 995 < drawn.mass.max() <= 1000
  assert 10 <= drawn.steering_ratio.min() < drawn.steering_ratio.max() <= 20
  ratio = drawn.rear_stiffness / drawn.front_stiffness
  assert 1 - 1e-6 <= ratio.min() < ratio.max() <= 1.5 + 1e-6


def test_the_ends_of_ranges_are_at_one_and_what_is_positive_stays_so():
  ranges = CarRanges()
  low, high, far = (
    car_within(ranges, jnp.full(10, place)) for place in (-1.0, 1.0, -4.0)
  )
  assert float(low.grip) == pytest.approx(0.6)
  assert float(high.steering_offset) == pytest.approx(0.02)
  assert float(high.mass) == pytest.approx(2000.0, rel=1e-5)
  assert far.steering_offset < 0
  assert min(far._replace(steering_offset=1.0)) > 0
  assert float(middle_car(ranges).steering_ratio) == 15


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'shots': 0}, 'shots and queries must be 1 or more, got 0 and 2'),
    ({'queries': -1}, 'got 2 and -1'),
    ({'noise': -0.1}, r'noise must be 0 or more, got -0\.1'),
    ({'ranges': CarRanges(mass=(0.0, 5.0))}, 'range of mass .* above 0'),
    ({'ranges': CarRanges(grip=(-1.0, 1.0))}, 'range of grip .* got -1 and 1'),
    ({'ranges': CarRanges(drag=(2.0, 1.0))}, 'smaller one first; got 2 and 1'),
    ({'ranges': CarRanges(mass=(1.0, float('nan')))}, 'range of mass'),
  ],
)
def test_what_is_wrong_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    car(**({'shots': 2, 'queries': 2} | wrong))
