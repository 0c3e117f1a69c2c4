"""The posterior is that of Bayes' rule, and with no prior a ridge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax import Batch, Model, Weighted
from metajax.adaptation.solved_head import ridge_regression
from metajax.algorithms import alpaca
from metajax.testing.trials import in_double

NOTHING = Model(
  lambda key, inputs: (), lambda params, inputs: jnp.zeros((len(inputs), 0))
)
KEY = jax.random.key(0)


def task(rows=7, columns=3):
  keys = jax.random.split(KEY, 2)
  return Batch(
    jax.random.normal(keys[0], (rows, columns)),
    jax.random.normal(keys[1], (rows, 1)),
  )


def test_it_is_ridge_regression_where_the_prior_says_nothing():
  support = task()
  learner = alpaca(
    NOTHING, metajax.mean_squared_error, prior=0.5, shift=0.5, noise=2.0
  )
  adapted, _ = learner.adapt(KEY, learner.init(KEY, support.inputs), support)
  features = jnp.pad(support.inputs, ((0, 0), (0, 1)), constant_values=1)
  expected = ridge_regression(features, support.targets, (2 / 0.5) ** 2)
  np.testing.assert_allclose(adapted.weights, expected, atol=1e-5)


@in_double
def test_the_posterior_mean_is_that_of_the_other_form():
  """By precisions: (S^-1 + X'X / s^2)^-1 (S^-1 M + X'y / s^2)."""
  support = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), task())
  learner = alpaca(NOTHING, metajax.mean_squared_error)
  params = learner.init(KEY, support.inputs)
  factor = jnp.eye(4) + jnp.tril(jax.random.normal(KEY, (4, 4)))
  mean = jax.random.normal(KEY, (4, 1))
  params = params._replace(mean=mean, factor=factor, log_noise=jnp.log(0.7))
  adapted, _ = learner.adapt(KEY, params, support)
  x = jnp.pad(support.inputs, ((0, 0), (0, 1)), constant_values=1)
  precision = jnp.linalg.inv(factor @ factor.T)
  expected = jnp.linalg.solve(
    precision + x.T @ x / 0.49,
    precision @ mean + x.T @ support.targets / 0.49,
  )
  np.testing.assert_allclose(adapted.weights, expected, atol=1e-9)
  before = learner.predict(adapted._replace(weights=mean), support.inputs)
  np.testing.assert_allclose(before, x @ mean)


def test_padding_changes_nothing():
  support = task()
  learner = alpaca(NOTHING, metajax.mean_squared_error)
  params = learner.init(KEY, support.inputs)
  padded = Batch(
    jnp.concatenate([support.inputs, 9 * support.inputs[:2]]),
    Weighted(
      jnp.concatenate([support.targets, support.targets[:2]]),
      jnp.array([1.0] * 7 + [0.0] * 2),
    ),
  )
  one, other = (learner.adapt(KEY, params, x)[0] for x in (support, padded))
  np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_what_is_refused():
  with pytest.raises(ValueError, match='must be above 0'):
    alpaca(NOTHING, metajax.mean_squared_error, prior=0.0)
  support = task()._replace(targets=jnp.zeros((7, 2)))
  learner = alpaca(NOTHING, metajax.mean_squared_error)
  with pytest.raises(ValueError, match=r'num_outputs is 1, but .* 2 targets'):
    learner.adapt(KEY, learner.init(KEY, support.inputs), support)
