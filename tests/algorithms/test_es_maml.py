"""Evolution: its mean, its memory, and what it needs no derivative of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import parameters, sinusoids

import metajax
from metajax.base import Batch, Learner, Task
from metajax.models import mlp

MODEL = mlp([8], 1)
KEY = jax.random.key(0)


def raveled(tree) -> np.ndarray:
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def es_maml(num_pairs: int, **settings):
  return metajax.es_maml(
    MODEL, metajax.mean_squared_error, 0.01, 2, num_pairs=num_pairs, **settings
  )


@pytest.mark.in_ci
def test_with_4096_pairs_it_points_where_the_gradient_of_maml_does():
  tasks, params = sinusoids(2, 5), parameters(MODEL.init, np.zeros((5, 1)))
  evolved, metrics = jax.jit(es_maml(2048, scale=0.01, chunk_size=256).grad)(
    KEY, params, tasks
  )
  maml = metajax.maml(MODEL, metajax.mean_squared_error, 0.01, 2)
  exact, expected = jax.jit(maml.grad)(KEY, params, tasks)
  evolved, exact = raveled(evolved), raveled(exact)
  lengths = [np.linalg.norm(each) for each in (evolved, exact)]
  assert evolved @ exact / (lengths[0] * lengths[1]) > 0.9
  assert 0.9 < lengths[0] / lengths[1] < 1.1
  np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-5)


def number_learner(adapt) -> Learner:
  """The meta-parameter is a number, and so is what is predicted."""
  return Learner(
    init=lambda key, inputs: jnp.ones(()),
    adapt=adapt,
    predict=lambda adapted, inputs: adapted,
  )


def nothing(num_tasks: int) -> Task:
  batch = Batch(np.zeros((num_tasks, 1, 1)), np.zeros((num_tasks, 1, 1)))
  return Task(batch, batch)


def cubed(outputs, targets):
  return outputs**3, {}


def test_its_mean_is_the_gradient_of_the_smoothed_loss():
  grad = metajax.evolution(
    number_learner(lambda key, params, support: (params, None)),
    cubed,
    num_pairs=4096,
    scale=0.5,
    chunk_size=4096,
  )
  gradient, metrics = jax.jit(grad)(KEY, np.float32(2.0), nothing(4))
  # The mean of (x + 0.5 e)^3 is x^3 + 0.75 x.
  np.testing.assert_allclose(gradient, 3 * 2**2 + 0.75, rtol=0.05)
  assert float(metrics['loss']) == 8


def test_an_adaptation_without_a_derivative_will_do():
  def to_the_next_half(key, params, support):
    return jnp.round(2 * params) / 2, None

  learner = number_learner(to_the_next_half)
  backprop = jax.jit(metajax.backprop(learner, cubed))
  blind, _ = backprop(KEY, np.ones(()), nothing(2))
  assert float(blind) == 0
  grad = jax.jit(metajax.evolution(learner, cubed, num_pairs=64, scale=1.0))
  assert float(grad(KEY, np.ones(()), nothing(2))[0]) > 1


def test_both_ends_of_a_pair_adapt_with_the_same_key():
  def at_random(key, params, support):
    return 0 * params + jax.random.normal(key), None

  grad = jax.jit(
    metajax.evolution(number_learner(at_random), cubed, num_pairs=4)
  )
  assert abs(float(grad(KEY, np.ones(()), nothing(2))[0])) < 1e-6


def evolve_numbers(num_pairs: int, chunk_size: int):
  """Compiled for a thousand numbers, of which the loss is the energy."""
  grad = metajax.evolution(
    number_learner(lambda key, params, support: (params, None)),
    lambda outputs, targets: (jnp.sum(outputs**2), {}),
    num_pairs=num_pairs,
    chunk_size=chunk_size,
  )
  return jax.jit(grad).lower(KEY, np.ones((1000,)), nothing(1)).compile()


def test_the_size_of_a_chunk_changes_nothing(float64):
  numbers = np.ones((1000,))
  one, four = (
    np.asarray(evolve_numbers(8, size)(KEY, numbers, nothing(1))[0])
    for size in (1, 4)
  )
  np.testing.assert_allclose(one, four, rtol=1e-11, atol=1e-11)
  assert abs(one).max() > 0


@pytest.mark.in_ci
def test_memory_is_that_of_a_chunk():
  few, many, wide = (
    evolve_numbers(*sizes).memory_analysis().temp_size_in_bytes
    for sizes in ((16, 16), (256, 16), (256, 256))
  )
  assert many - few < 0.2 * few
  assert wide > 4 * many


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'scale': 0.0}, 'scale must be above 0, got 0.0'),
    ({'num_pairs': 0}, 'num_pairs must be a positive multiple.*got 0 and 1'),
    ({'chunk_size': 0}, 'num_pairs must be a positive multiple.*got 16 and 0'),
    ({'chunk_size': 3}, 'num_pairs must be a positive multiple.*got 16 and 3'),
    ({'inner_lr': -1.0}, 'inner_lr must be above 0, got -1.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
  ],
)
def test_what_cannot_be_meant_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    metajax.es_maml(MODEL, metajax.mean_squared_error, **wrong)
