"""MAML++: each of its five parts, and how it counts."""

import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpy_draws import at, in_double, numbers_like, sinusoids

import metajax
from metajax.algorithms.maml_plus_plus import (
  LABELS,
  PlusPlusParams,
  step_weights,
)
from metajax.inner import partition
from metajax.models import BatchNorm, from_linen, mlp
from metajax.tasks import sinusoid

KEY = jax.random.key(0)
MODEL = mlp([4], 1)
OBJECTIVE = metajax.mean_squared_error
SAMPLE = sinusoid(4, 5)
STEPS, RATE = 3, 0.05

make = partial(
  metajax.maml_plus_plus, MODEL, OBJECTIVE, RATE, STEPS,
)  # fmt: skip


class Normalised(nn.Module):
  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = jnp.tanh(BatchNorm()(nn.Dense(4)(inputs)))
    return nn.Dense(1, name='head')(hidden)


NORMALISED = from_linen(Normalised())


def start(learner) -> PlusPlusParams:
  meta_params = in_double(jax.jit(learner.init)(KEY, np.zeros((4, 1))))
  rates = jax.tree.map(
    lambda leaf: np.full_like(leaf, np.log(RATE)), meta_params.inner
  )
  return meta_params._replace(inner=rates)


def raveled(tree) -> np.ndarray:
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def assert_close(a, b, rtol=1e-11, atol=1e-12):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b
  )


@functools.cache
def learner_of(multi_step: int, first_order: int):
  return make(multi_step=multi_step, first_order=first_order)


@functools.cache
def gradient_of(learner):
  return jax.jit(learner.grad)


@functools.cache
def maml_of(steps: int, first_order: bool):
  return jax.jit(metajax.maml(MODEL, OBJECTIVE, RATE, steps, first_order).grad)


def weights_of(learner, meta_params, tasks):
  """The part of the gradient that other methods have too."""
  gradient, _ = gradient_of(learner)(KEY, meta_params, tasks)
  return gradient.params


@pytest.mark.long
def test_when_nothing_is_annealed_any_more_it_starts_as_maml(float64):
  tasks = sinusoids(3)
  learner = learner_of(10, 20)
  meta_params = start(learner)
  late = meta_params._replace(step=np.int32(20))
  maml = metajax.maml(MODEL, OBJECTIVE, RATE, STEPS)
  expected, _ = jax.jit(maml.grad)(KEY, meta_params.params, tasks)
  assert_close(weights_of(learner, late, tasks), expected)


@pytest.mark.long
def test_in_between_it_is_first_order(float64):
  tasks = sinusoids(3)
  learner = learner_of(10, 20)
  meta_params = start(learner)
  fomaml = metajax.fomaml(MODEL, OBJECTIVE, RATE, STEPS)
  expected, _ = jax.jit(fomaml.grad)(KEY, meta_params.params, tasks)
  for step in (10, 19):
    between = meta_params._replace(step=np.int32(step))
    assert_close(weights_of(learner, between, tasks), expected)


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'first_order', [0, pytest.param(20, marks=pytest.mark.long)]
)
def test_at_first_the_loss_after_every_step_counts(float64, first_order):
  """The sum of what MAML with 1, 2, ... steps would do."""
  tasks = sinusoids(3)
  learner = learner_of(10, first_order)
  meta_params = start(learner)._replace(step=np.int32(4))
  expected = 0.0
  for steps, weight in zip((1, 2, 3), (0.2, 0.2, 0.6), strict=True):
    maml = maml_of(steps, bool(first_order))
    gradient, _ = maml(KEY, meta_params.params, tasks)
    expected = expected + weight * raveled(gradient)
  result = weights_of(learner, meta_params, tasks)
  assert_close(raveled(result), expected, rtol=1e-6, atol=1e-7)


def test_the_weights_of_steps_move_to_the_last():
  weights = jax.jit(step_weights, static_argnums=(1, 2))
  rows = [weights(np.int32(n), 10, 4).tolist() for n in (0, 5, 10, 99)]
  assert rows == [
    [0.25] * 4,
    [0.125, 0.125, 0.125, 0.625],
    [0, 0, 0, 1],
    [0, 0, 0, 1],
  ]


@pytest.mark.in_ci
def test_the_loss_that_is_reported_is_that_of_the_adapted(float64):
  tasks = sinusoids(3)
  learner = learner_of(10, 0)
  meta_params = start(learner)
  _, metrics = gradient_of(learner)(KEY, meta_params, tasks)
  _, expected = maml_of(STEPS, False)(KEY, meta_params.params, tasks)
  assert_close(metrics, expected)


@pytest.mark.in_ci
def test_rates_and_normalisation_of_every_step_are_learned(float64):
  tasks = sinusoids(3)
  learner = metajax.maml_plus_plus(NORMALISED, OBJECTIVE, RATE, 2)
  meta_params = in_double(jax.jit(learner.init)(KEY, np.zeros((4, 1))))
  _, unravel = ravel_pytree(meta_params[:2])
  noise = numbers_like(meta_params[:2])
  flat = raveled(meta_params[:2]) + 0.2 * raveled(noise)
  along = np.random.default_rng(3).normal(size=(4, len(flat)))

  @jax.jit
  def of(flat):
    point = PlusPlusParams(*unravel(flat), step=meta_params.step)
    gradient, metrics = learner.grad(KEY, point, tasks)
    return ravel_pytree(gradient[:2])[0], metrics['loss']

  gradient = np.asarray(of(flat)[0])
  for direction in along:
    ends = [float(of(flat + size * direction)[1]) for size in (1e-5, -1e-5)]
    np.testing.assert_allclose(
      gradient @ direction, (ends[0] - ends[1]) / 2e-5, rtol=1e-5
    )


def test_normalisation_does_not_adapt_but_has_its_own_weights_a_step(float64):
  task = at(sinusoids(1), 0)
  learner = metajax.maml_plus_plus(NORMALISED, OBJECTIVE, RATE, 3)
  meta_params = in_double(jax.jit(learner.init)(KEY, task.support.inputs))
  later = np.arange(12.0).reshape(3, 4)
  meta_params.inner['BatchNorm_0']['scale'] = later
  _, adaptation = jax.jit(learner.adapt)(KEY, meta_params, task.support)
  scales = adaptation.trajectory.params['BatchNorm_0']['scale']
  np.testing.assert_allclose(
    scales, np.concatenate([np.ones((1, 4)), later]), rtol=1e-12, atol=1e-14
  )
  assert meta_params.inner['head']['kernel'].shape == (3,)
  assert partition.normalisation('BatchNorm_0/bias')
  assert not partition.normalisation('Dense_0/bias')


def test_each_step_has_the_rate_that_is_learned_for_it(float64):
  task = at(sinusoids(1), 0)
  learner = make()
  meta_params = start(learner)
  rates = np.array([0.1, 0.02, 0.3])
  meta_params.inner['head']['bias'] = np.log(rates)
  _, adaptation = jax.jit(learner.adapt)(KEY, meta_params, task.support)
  path = jax.tree.map(np.asarray, adaptation.trajectory.params)

  @jax.jit
  def slope(params):
    def loss(params):
      outputs = MODEL.apply(params, task.support.inputs)
      return jnp.mean((outputs - task.support.targets) ** 2)

    return jax.grad(loss)(params)['head']['bias']

  for t in range(3):
    before = at(path, t)
    np.testing.assert_allclose(
      path['head']['bias'][t + 1],
      before['head']['bias'] - rates[t] * np.asarray(slope(before)),
      rtol=1e-10,
    )


@pytest.mark.long
@pytest.mark.parametrize(
  ('tasks', 'chunk_size', 'steps'), [(41, 41, 3), (10, 3, 12)]
)
def test_outer_steps_are_counted_exactly(tasks, chunk_size, steps):
  learner = make(multi_step=4, first_order=8)
  train = metajax.make_train_step(
    learner,
    metajax.outer_optimizer(optax.adam(1e-3), LABELS),
    SAMPLE,
    tasks_per_step=tasks,
    chunk_size=chunk_size,
  )
  state, metrics = train.run(train.init(KEY), steps)
  assert int(state.meta_params.step) == steps
  assert np.isfinite(metrics['loss'])


@pytest.mark.long
def test_more_steps_at_test_than_in_training_have_the_last_rates():
  meta_params = jax.jit(make().init)(KEY, np.zeros((4, 1)))
  longer = metajax.maml_plus_plus(MODEL, OBJECTIVE, RATE, 5)
  support = at(sinusoids(1), 0).support
  _, adaptation = jax.jit(longer.adapt)(KEY, meta_params, support)
  assert len(jax.tree.leaves(adaptation.trajectory)[0]) == 6


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': 0}, 'num_steps must be 1 or more, got 0'),
    ({'multi_step': -1}, 'multi_step and first_order must be 0 or more'),
    ({'first_order': -1}, 'multi_step and first_order must be 0 or more'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.maml_plus_plus(MODEL, OBJECTIVE, **options)
