"""ALFA: rates and decay by its equation, and MAML as its start."""

import functools

import jax
import numpy as np
import pytest
from numpy_draws import at, in_double, numbers_like, sinusoids

import metajax
from metajax.models import mlp
from metajax.testing import slopes

KEY = jax.random.key(0)
MODEL = mlp([4], 1)
OBJECTIVE = metajax.mean_squared_error
STEPS, RATE = 2, 0.05


@functools.cache
def tasks_and_start(learner):
  tasks = sinusoids(3)
  meta_params = jax.jit(learner.init)(KEY, tasks.support.inputs[0])
  return tasks, in_double(meta_params)


def perturbed(meta_params):
  return jax.tree.map(
    lambda leaf, noise: leaf + 0.2 * noise,
    meta_params,
    numbers_like(meta_params),
  )


@pytest.fixture(scope='module')
def learner():
  return metajax.alfa(MODEL, OBJECTIVE, RATE, STEPS)


@pytest.fixture(scope='module')
def adapt(learner):
  return jax.jit(learner.adapt)


@jax.jit
def slope(params, support):
  def loss(params):
    return OBJECTIVE(MODEL.apply(params, support.inputs), support.targets)[0]

  return jax.grad(loss)(params)


@pytest.mark.in_ci
def test_it_starts_as_maml(float64, learner):
  tasks, meta_params = tasks_and_start(learner)
  rates = np.full_like(meta_params.inner.rates, np.log(RATE))
  meta_params = meta_params._replace(
    inner=meta_params.inner._replace(rates=rates)
  )
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  maml = metajax.maml(MODEL, OBJECTIVE, RATE, STEPS)
  _, values = jax.jit(maml.grad)(KEY, meta_params.params, tasks)
  np.testing.assert_allclose(metrics['loss'], values['loss'], rtol=1e-12)
  # The network already has something to learn.
  assert np.abs(gradient.inner.network['head']['bias']).max() > 0


@pytest.mark.in_ci
def test_all_of_it_is_learned(float64, learner):
  tasks, meta_params = tasks_and_start(learner)
  along = slopes(learner, perturbed(meta_params), tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)


def test_a_step_is_that_of_numpy(float64, learner, adapt):
  tasks, meta_params = tasks_and_start(learner)
  meta_params = perturbed(meta_params)
  support = at(tasks.support, 0)
  _, adaptation = adapt(KEY, meta_params, support)
  path = [
    jax.tree.leaves(at(adaptation.trajectory.params, t))
    for t in range(STEPS + 1)
  ]
  structure = jax.tree.structure(meta_params.params)
  rule = jax.tree.map(np.asarray, meta_params.inner)
  for t in range(STEPS):
    here = path[t]
    gradient = list(
      map(
        np.asarray, jax.tree.leaves(slope(structure.unflatten(here), support))
      )
    )
    seen = np.array([leaf.mean() for leaf in here + gradient])
    hidden, head = rule.network['Dense_0'], rule.network['head']
    hidden = np.maximum(seen @ hidden['kernel'] + hidden['bias'], 0)
    answer = hidden @ head['kernel'] + head['bias']
    for i, end in enumerate(path[t + 1]):
      rate = 2 / (1 + np.exp(-answer[i])) * np.exp(rule.rates[t, i])
      decay = np.tanh(answer[4 + i]) * np.exp(rule.decays[t, i])
      np.testing.assert_allclose(
        end, (1 - decay) * here[i] - rate * gradient[i], rtol=1e-10
      )


def test_tasks_have_rates_of_their_own(float64, learner, adapt):
  """From one start, steps differ by more than the gradients of the tasks do."""
  tasks, meta_params = tasks_and_start(learner)
  meta_params = perturbed(meta_params)
  steps, gradients = [], []
  for i in range(2):
    support = at(tasks.support, i)
    _, adaptation = adapt(KEY, meta_params, support)
    bias = np.asarray(adaptation.trajectory.params['Dense_0']['bias'])
    steps.append(bias[1] - bias[0])
    gradient = slope(meta_params.params, support)
    gradients.append(np.asarray(gradient['Dense_0']['bias']))
  with np.errstate(divide='ignore', invalid='ignore'):
    ratios = [s / g for s, g in zip(steps, gradients, strict=True)]
  common = np.isfinite(ratios[0]) & np.isfinite(ratios[1])
  assert common.any()
  assert (np.abs(ratios[0] - ratios[1])[common] > 1e-6).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': 0}, 'num_steps must be 1 or more, got 0'),
    ({'decay': 0.0}, 'decay must be above 0, got 0.0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.alfa(MODEL, OBJECTIVE, **options)
