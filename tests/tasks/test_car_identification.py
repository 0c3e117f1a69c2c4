"""Least squares on the equations of a car: exact where they are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import Batch, sample_tasks
from metajax.tasks.car import CarRanges, car, car_of_task, middle_car
from metajax.tasks.car_identification import car_change, identify_car

pytestmark = pytest.mark.in_ci  # they compile slopes of a simulation


def errors(learner, tasks):
  def of_task(task):
    found, _ = learner.adapt(jax.random.key(0), (), task.support)
    outputs = learner.predict(found, task.query.inputs)
    return jnp.mean((outputs - task.query.targets) ** 2)

  return np.asarray(jax.jit(jax.vmap(of_task))(tasks))


def test_without_noise_the_car_is_found():
  key = jax.random.key(0)
  task = jax.jit(car(64, 32, noise=0.0))(key)
  learner = identify_car(noise=0.0, prior=False, num_steps=20)
  found, adaptation = jax.jit(learner.adapt)(key, (), task.support)
  true = car_of_task(CarRanges(), key)
  # Mass is known by the force of the engine, and all that is beside it.
  np.testing.assert_allclose(found.mass, true.mass, rtol=0.02)
  np.testing.assert_allclose(
    found.steering_ratio, true.steering_ratio, rtol=0.02
  )
  np.testing.assert_allclose(
    found.steering_offset, true.steering_offset, atol=5e-4
  )
  outputs = learner.predict(found, task.query.inputs)
  assert abs(outputs - task.query.targets).max() < 5e-3
  assert adaptation.trajectory.mass.shape == (2,)


def test_the_prior_helps_and_wrong_equations_do_not():
  tasks = jax.jit(lambda key: sample_tasks(car(16, 32), key, 40))(
    jax.random.key(3)
  )
  found = {
    name: errors(identify_car(**options), tasks).mean()
    for name, options in {
      'prior': {},
      'plain': {'prior': False},
      'linear': {'linear_tyres': True},
    }.items()
  }
  middle = jax.vmap(
    lambda batch: car_change(middle_car(CarRanges()), batch.inputs)
  )(tasks.query)
  from_middle = float(jnp.mean((middle - tasks.query.targets) ** 2))
  assert 0.02**2 * 0.9 < found['prior'] < 0.0015
  assert found['prior'] < found['plain'] < found['linear'] < from_middle


def test_fewer_numbers_than_unknown_properties_are_refused():
  few = Batch(jnp.zeros((3, 5)), jnp.zeros((3, 3)))
  learner = identify_car(prior=False)
  with pytest.raises(ValueError, match=r'3 transitions are 9 numbers.* give 4'):
    learner.adapt(jax.random.key(0), (), few)
  found, _ = identify_car(num_steps=1).adapt(jax.random.key(0), (), few)
  assert np.isfinite(jax.tree.leaves(found)).all()


def test_no_steps_are_refused_and_learners_made_alike_are_equal():
  with pytest.raises(ValueError, match='num_steps must be 1 or more, got 0'):
    identify_car(num_steps=0)
  assert identify_car() == identify_car()


@pytest.mark.parametrize('noise', [-1.0, float('nan'), float('inf')])
def test_noise_that_cannot_be_is_refused(noise):
  with pytest.raises(ValueError, match='noise must be 0 or more'):
    identify_car(noise=noise)
