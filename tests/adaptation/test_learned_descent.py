"""Learned inner optimisers: what they share, and Meta-SGD, the simplest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import at, in_double, sinusoids

import metajax
from experiments.recipes import images, regression
from experiments.recipes.kinds import published
from metajax.adaptation.learned_descent import (
  LearnedDescent,
  at_step,
  by_step,
  learned_descent,
)
from metajax.base import Task
from metajax.inner import partition
from metajax.models import mlp
from metajax.tasks import sinusoid
from metajax.testing import slopes

KEY = jax.random.key(0)
MODEL = mlp([4], 1)
OBJECTIVE = metajax.mean_squared_error


def initial(learner, tasks: Task):
  """In double precision, and not yet on a device."""
  init = jax.jit(learner.init)
  return in_double(init(jax.random.key(1), tasks.support.inputs[0]))


def perturbed(meta_params, size: float = 0.1):
  """Away from a start that may be special."""
  generator = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: leaf + size * generator.normal(size=leaf.shape), meta_params
  )


def assert_slopes_are_right(learner, meta_params, tasks):
  along = slopes(learner, meta_params, tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)


@pytest.mark.long
def test_what_an_optimiser_is_made_of_is_learned(float64):
  tasks = sinusoids(3)

  def decaying(rate):
    return by_step(
      lambda gradient, params, step: jax.tree.map(
        lambda slope, param: -rate / (1 + step) * slope - 0.1 * rate * param,
        gradient,
        params,
      )
    )

  learner = learned_descent(
    MODEL, OBJECTIVE, 3, lambda key, params: jnp.array(0.05), decaying
  )
  learner = metajax.MetaLearner(
    *learner, grad=metajax.backprop(learner, OBJECTIVE)
  )
  meta_params = initial(learner, tasks)
  assert_slopes_are_right(learner, meta_params, tasks)


def test_the_number_of_the_step_counts_from_zero_and_the_last_value_stays():
  rates = jnp.array([1.0, 10.0])
  optimizer = by_step(
    lambda gradient, params, step: -at_step(rates, step) * gradient
  )
  end, descent = jax.jit(
    lambda start: metajax.descend(
      lambda x, step: x, start, optimizer, num_steps=3
    )
  )(np.float32(0))
  assert descent.trajectory.tolist() == [0, -1, -11, -21]
  assert float(end) == -21


def test_only_what_adapts_has_something_learned_for_it():
  learner = metajax.meta_sgd(MODEL, OBJECTIVE, 0.05, 1, adapts=partition.head)
  meta_params = jax.eval_shape(learner.init, KEY, jnp.zeros((1, 1)))
  assert set(meta_params.params) == {'Dense_0', 'head'}
  assert len(jax.tree.leaves(meta_params.inner)) == 2


def test_the_weights_are_those_that_the_model_draws():
  learner = metajax.meta_sgd(MODEL, OBJECTIVE)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.jit(learner.init)(KEY, np.zeros((1, 1), np.float32)).params,
    jax.jit(MODEL.init)(KEY, np.zeros((1, 1), np.float32)),
  )


@pytest.mark.parametrize('steps', [0, 2])
def test_meta_sgd_with_constant_rates_is_maml(float64, steps):
  tasks = sinusoids(3)
  learner = metajax.meta_sgd(MODEL, OBJECTIVE, 0.05, steps)
  meta_params = initial(learner, tasks)
  meta_params = meta_params._replace(
    inner=jax.tree.map(
      lambda leaf: np.full_like(leaf, np.log(0.05)), meta_params.inner
    )
  )
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  maml = metajax.maml(MODEL, OBJECTIVE, 0.05, steps)
  expected, values = jax.jit(maml.grad)(KEY, meta_params.params, tasks)
  np.testing.assert_allclose(metrics['loss'], values['loss'], rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
    gradient.params,
    expected,
  )


def test_meta_sgd_learns_every_rate(float64):
  tasks = sinusoids(3)
  learner = metajax.meta_sgd(MODEL, OBJECTIVE, 0.05, 2)
  assert_slopes_are_right(learner, perturbed(initial(learner, tasks)), tasks)


def test_meta_sgd_steps_by_each_rate_on_its_own(float64):
  task = at(sinusoids(1), 0)
  learner = metajax.meta_sgd(MODEL, OBJECTIVE, 0.05, 1)
  meta_params = perturbed(initial(learner, sinusoids(1)))
  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, task.support)

  @jax.jit
  def slope(params):
    def loss(params):
      outputs = MODEL.apply(params, task.support.inputs)
      return jnp.mean((outputs - task.support.targets) ** 2)

    return jax.grad(loss)(params)

  jax.tree.map(
    lambda end, start, rate, slope: np.testing.assert_allclose(
      end, start - np.exp(rate) * slope, rtol=1e-12
    ),
    adapted.params,
    meta_params.params,
    meta_params.inner,
    jax.device_get(slope(meta_params.params)),
  )


@pytest.mark.in_ci
def test_rates_that_meta_sgd_learns_too_fast_stay_positive_and_finite():
  learner = metajax.meta_sgd(MODEL, OBJECTIVE, 0.01, 1)
  train = metajax.make_train_step(
    learner, optax.adam(0.05), sinusoid(5, 5), tasks_per_step=4
  )
  state, metrics = train.run(train.init(KEY), 200)
  assert int(metrics['skipped']) == 0
  for leaf in jax.tree.leaves(state.meta_params.inner):
    assert np.isfinite(leaf).all()


def test_adapting_keeps_nothing_that_predictions_do_not_need():
  learner = metajax.meta_sgd(MODEL, OBJECTIVE, 0.05, 2)
  support = at(sinusoids(1).support, 0)
  meta_params = jax.eval_shape(learner.init, KEY, support.inputs)
  adapted, adaptation = jax.eval_shape(learner.adapt, KEY, meta_params, support)
  assert adapted.inner == ()
  assert isinstance(adaptation.trajectory, LearnedDescent)


@pytest.mark.parametrize(
  'name', ['meta_sgd', 'meta_curvature', 'maml_plus_plus', 'alfa']
)
def test_where_a_step_is_learned_a_test_takes_as_many_as_training(name):
  for recipe in (
    published(regression, name),
    published(images, name, 5, 1),
    published(images, name, 20, 1),
  ):
    assert recipe.eval_inner_steps == recipe.inner_steps


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
  ],
)
def test_settings_that_meta_sgd_cannot_mean_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.meta_sgd(MODEL, OBJECTIVE, **options)
