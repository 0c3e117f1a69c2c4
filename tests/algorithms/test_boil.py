"""BOIL adapts what ANIL does not."""

import jax
import numpy as np
import pytest
from numpy_draws import at, parameters, sinusoids

import metajax
from metajax.inner import partition
from metajax.models import mlp
from metajax.testing import slopes

KEY = jax.random.key(0)
MODEL = mlp([4], 1)


def test_the_head_stays_and_the_body_moves_as_in_maml(float64):
  support = at(sinusoids(1).support, 0)
  params = parameters(MODEL.init, support.inputs)
  boil, maml = (
    factory(MODEL, metajax.mean_squared_error, 0.05, 1)
    for factory in (metajax.boil, metajax.maml)
  )
  adapted, _ = jax.jit(boil.adapt)(KEY, params, support)
  as_maml, _ = jax.jit(maml.adapt)(KEY, params, support)
  jax.tree.map(np.testing.assert_array_equal, adapted['head'], params['head'])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    adapted['Dense_0'],
    as_maml['Dense_0'],
  )


@pytest.mark.in_ci
def test_the_head_is_learned_outside(float64):
  tasks = sinusoids(2)
  params = parameters(MODEL.init, tasks.support.inputs[0])
  learner = metajax.boil(MODEL, metajax.mean_squared_error, 0.05, 2)
  along = slopes(learner, params, tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)
  gradient, _ = jax.jit(learner.grad)(KEY, params, tasks)
  assert np.abs(np.asarray(gradient['head']['kernel'])).max() > 0


def test_the_body_is_all_that_the_head_is_not():
  paths = ['head/kernel', 'Dense_0/kernel', 'headlight']
  assert [partition.body(path) for path in paths] == [False, True, True]
