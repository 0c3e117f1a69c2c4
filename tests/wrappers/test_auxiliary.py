"""A second loss beside that of a method, its weight set or learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import noise

import metajax
from metajax import testing
from metajax.equality import Frozen
from metajax.models import mlp
from metajax.models.frozen import hold
from metajax.wrappers.auxiliary import with_auxiliary
from metajax.wrappers.weighting import uncertainty_weighted

KEY = jax.random.key(0)
LEARNER = metajax.fomaml(testing.small_network(), metajax.cross_entropy, 0.1, 1)
EXACT = metajax.protonet(testing.small_network(), metajax.cross_entropy, 3)


def pull(key, params, task):
  """Depends on all that it may: a draw, the parameters, and the task."""
  target = jax.random.normal(key, dtype=task.query.inputs.dtype)
  apart = sum(jnp.sum((x - target) ** 2) for x in jax.tree.leaves(params))
  return apart * jnp.mean(task.query.inputs), {'apart': apart}


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'weight', [pytest.param(0.3, marks=pytest.mark.in_ci), 'learned']
)
def test_the_gradient_is_that_of_the_weighted_sum(float64, weight):
  trial = testing.make_trial(with_auxiliary(EXACT, pull, weight))
  testing.check_differences(trial)
  testing.check_structure(trial)
  more = {'apart', 'task_loss', 'auxiliary_loss'}
  if weight == 'learned':
    more |= {'task_weight', 'auxiliary_weight'}
  testing.check_metrics(trial, more=more)
  metrics = trial.metrics
  expected = metrics['task_loss'] + metrics['auxiliary_loss'] * (
    1.0 if weight == 'learned' else weight
  )
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-12)


@pytest.mark.in_ci
@pytest.mark.parametrize('weight', [0.3, 'learned'])
def test_it_does_all_that_a_method_must(weight):
  more = ['apart', 'task_loss', 'auxiliary_loss']
  if weight == 'learned':
    more += ['task_weight', 'auxiliary_weight']
  testing.check_method(
    with_auxiliary(EXACT, pull, weight),
    adapts_at_random=True,  # the second loss draws
    more_metrics=more,
  )


@pytest.mark.in_ci
def test_an_estimate_that_is_no_derivative_stays_what_it_is():
  learner = with_auxiliary(LEARNER, pull, 0.5)
  tasks = noise(2, 3, 1, 2)
  params = jax.jit(LEARNER.init)(KEY, tasks.support.inputs[0])
  gradient, _ = jax.jit(learner.grad)(KEY, params, tasks)
  own, _ = jax.jit(LEARNER.grad)(KEY, params, tasks)
  other, _ = jax.jit(with_auxiliary(LEARNER, pull, 1.0).grad)(
    KEY, params, tasks
  )
  jax.tree.map(
    lambda a, b, c: np.testing.assert_allclose(a, (b + c) / 2, 1e-4, 1e-6),
    gradient, own, other,
  )  # fmt: skip


def test_learned_weights_come_to_their_closed_form(float64):
  losses = {'task': 0.5, 'auxiliary': 4.0}
  optimizer = optax.adam(0.1)

  @jax.jit
  def descended(variances):
    def step(carry, _):
      variances, state = carry
      gradient = jax.grad(uncertainty_weighted, 1)(losses, variances)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(variances, updates), state), None

    start = variances, optimizer.init(variances)
    return jax.lax.scan(step, start, length=600)[0][0]

  found = descended(dict.fromkeys(losses, jnp.zeros(())))
  for name, loss in losses.items():
    np.testing.assert_allclose(found[name], np.log(2 * loss), atol=1e-6)
    np.testing.assert_allclose(np.exp(-found[name]) * loss, 0.5, atol=1e-6)


def test_frozen_models_stay_arguments():
  network = hold(mlp([8], 3), {})
  made = with_auxiliary(
    metajax.maml(network, metajax.cross_entropy, 0.1, 1), pull, 'learned'
  )
  assert isinstance(made, Frozen)


def test_a_learner_that_counts_its_steps_is_refused():
  counting = metajax.maml_plus_plus(
    mlp([4], 3), metajax.cross_entropy, multi_step=3
  )
  tasks = noise(2, 3, 1, 2)
  params = jax.eval_shape(counting.init, KEY, tasks.support.inputs[0])
  learner = with_auxiliary(counting, lambda *_: (jnp.zeros(()), {}))
  with pytest.raises(ValueError, match='take a learner that keeps no count'):
    jax.eval_shape(learner.grad, KEY, params, tasks)


@pytest.mark.parametrize('weight', [0.0, -1, 'much', float('nan')])
def test_weights_that_cannot_be_meant_are_refused(weight):
  with pytest.raises(ValueError, match='weight must be a number above 0'):
    with_auxiliary(LEARNER, pull, weight)
