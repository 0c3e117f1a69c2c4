"""Sine waves: what is drawn is what is documented."""

import jax
import numpy as np
import pytest

from metajax.base import sample_tasks
from metajax.tasks import sinusoid

NUM_TASKS = 4000


@pytest.fixture(scope='module')
def tasks():
  draw = jax.jit(lambda key: sample_tasks(sinusoid(12, 8), key, NUM_TASKS))
  return jax.tree.map(np.asarray, draw(jax.random.key(0)))


@pytest.fixture(scope='module')
def fitted(tasks):
  """Amplitude, phase, and what they leave unexplained, of every task.

  A sin(x - p) = (A cos p) sin x - (A sin p) cos x is linear in two unknowns.
  """
  x = np.concatenate([tasks.support.inputs, tasks.query.inputs], 1)
  y = np.concatenate([tasks.support.targets, tasks.query.targets], 1)
  design = np.concatenate([np.sin(x), -np.cos(x)], -1).astype(np.float64)
  solution = np.linalg.pinv(design) @ y
  residual = np.abs(design @ solution - y).max((1, 2))
  sine, cosine = solution[:, 1, 0], solution[:, 0, 0]
  return np.hypot(sine, cosine), np.arctan2(sine, cosine), residual


def test_shapes(tasks):
  for batch, examples in ((tasks.support, 12), (tasks.query, 8)):
    assert batch.inputs.shape == (NUM_TASKS, examples, 1)
    assert batch.targets.shape == (NUM_TASKS, examples, 1)


def test_support_and_query_lie_on_one_wave_of_period_two_pi(fitted):
  _, _, residual = fitted
  assert residual.max() < 1e-4


def test_amplitudes_are_uniform_between_a_tenth_and_five(fitted):
  amplitude, _, _ = fitted
  assert 0.1 - 1e-3 < amplitude.min() < 0.15
  assert 4.95 < amplitude.max() < 5.0 + 1e-3
  np.testing.assert_allclose(
    np.quantile(amplitude, [0.25, 0.5, 0.75]),
    0.1 + 4.9 * np.array([0.25, 0.5, 0.75]),
    atol=0.15,
  )


def test_phases_are_uniform_between_zero_and_pi(fitted):
  _, phase, _ = fitted
  assert -1e-2 < phase.min() < 0.05
  assert np.pi - 0.05 < phase.max() < np.pi + 1e-2
  np.testing.assert_allclose(
    np.quantile(phase, [0.25, 0.5, 0.75]),
    np.pi * np.array([0.25, 0.5, 0.75]),
    atol=0.1,
  )


def test_amplitude_and_phase_are_independent(fitted):
  amplitude, phase, _ = fitted
  assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.06


def test_inputs_are_uniform_between_minus_five_and_five(tasks):
  x = tasks.support.inputs
  assert -5 <= x.min() < -4.99
  assert 4.99 < x.max() <= 5
  np.testing.assert_allclose(
    np.quantile(x, [0.25, 0.5, 0.75]), [-2.5, 0, 2.5], atol=0.1
  )


def test_predicting_zero_costs_four_and_a_quarter(tasks):
  np.testing.assert_allclose((tasks.query.targets**2).mean(), 4.25, atol=0.25)


def test_tasks_differ_and_their_support_differs_from_their_queries(tasks):
  assert len(np.unique(tasks.support.inputs[:, 0])) > NUM_TASKS - 10
  assert not np.isin(tasks.support.inputs[0], tasks.query.inputs[0]).any()


def test_a_task_depends_on_its_key_alone():
  sample = sinusoid(3, 3)
  first, again, other = (sample(jax.random.key(i)) for i in (1, 1, 2))
  np.testing.assert_array_equal(first.query.targets, again.query.targets)
  assert (first.query.targets != other.query.targets).all()


@pytest.mark.parametrize(('shots', 'queries'), [(0, 5), (5, 0), (-1, 5)])
def test_counts_that_are_not_positive_are_refused(shots, queries):
  with pytest.raises(ValueError, match=f'got {shots} and {queries}'):
    sinusoid(shots, queries)
