"""Objectives against numpy, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from metajax.objectives import (
  confidence_interval,
  cross_entropy,
  mean_squared_error,
)


def test_cross_entropy_and_accuracy_are_those_of_numpy(float64):
  generator = np.random.default_rng(0)
  logits = generator.normal(size=(20, 3))
  targets = generator.integers(0, 3, 20)
  loss, metrics = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
  odds = np.exp(logits)
  likelihood = odds[np.arange(20), targets] / odds.sum(1)
  np.testing.assert_allclose(loss, -np.log(likelihood).mean(), rtol=1e-13)
  np.testing.assert_allclose(
    metrics['accuracy'], (logits.argmax(1) == targets).mean()
  )


def test_cross_entropy_does_not_overflow():
  loss, _ = cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))
  np.testing.assert_allclose(loss, 2e4)


@pytest.mark.parametrize(
  ('outputs', 'targets'),
  [((4, 3), (3,)), ((4, 3), (4, 1)), ((4, 3), (4, 3)), ((4,), (4,))],
)
def test_cross_entropy_refuses_shapes_that_do_not_fit(outputs, targets):
  with pytest.raises(ValueError, match='wants logits') as error:
    cross_entropy(jnp.zeros(outputs), jnp.zeros(targets, int))
  assert str(outputs) in str(error.value)
  assert str(targets) in str(error.value)


def test_mean_squared_error_is_a_mean_over_examples_and_outputs():
  loss, metrics = mean_squared_error(
    jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 0.0], [0.0, 4.0]])
  )
  assert float(loss) == float(metrics['mse']) == (4 + 9) / 4


def test_mean_squared_error_never_broadcasts():
  with pytest.raises(ValueError, match=r'\(5, 1\) and \(5,\)'):
    mean_squared_error(jnp.zeros((5, 1)), jnp.zeros(5))


def test_confidence_interval_is_that_of_numpy():
  values = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
  np.testing.assert_allclose(
    confidence_interval(jnp.asarray(values)),
    1.96 * values.std(axis=0, ddof=1) / np.sqrt(30),
    rtol=1e-5,
  )


def test_the_interval_holds_the_true_mean_in_95_of_100_cases():
  draws = np.random.default_rng(2).normal(3.0, 2.0, (200, 1000))
  values = jnp.asarray(draws, jnp.float32)
  missed = np.abs(draws.mean(0) - 3.0) > np.asarray(confidence_interval(values))
  assert 0.03 < missed.mean() < 0.07


def test_the_interval_of_one_task_is_refused():
  with pytest.raises(ValueError, match='needs 2 tasks or more, got 1'):
    confidence_interval(jnp.zeros((1, 3)))
