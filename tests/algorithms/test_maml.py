"""MAML, FOMAML and ANIL against closed forms and ten lines of plain JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import at, parameters, sinusoids

import metajax
from metajax.base import Batch, Model, Task, map_tasks
from metajax.models import mlp
from metajax.testing import slopes

# x^2 + y, whatever the inputs and targets.
PARABOLA = Model(
  init=lambda key, inputs: {'x': jnp.array(2.0), 'y': jnp.array(1.0)},
  apply=lambda params, inputs: params['x'] ** 2 + params['y'],
)
MODEL = mlp([4], 1)
KEY = jax.random.key(2)


def the_output_itself(outputs, targets):
  return outputs, {}


def one_task() -> Task:
  batch = Batch(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
  return Task(batch, batch)


@pytest.mark.parametrize(
  ('factory', 'slope'), [(metajax.maml, 4.0), (metajax.fomaml, -4.0)]
)
def test_one_step_down_x_squared_plus_y(factory, slope):
  learner = factory(
    PARABOLA, the_output_itself, 1.0, 1, adapts=lambda path: path == 'x'
  )
  params = learner.init(KEY, np.zeros((1, 1)))
  gradient, metrics = jax.jit(learner.grad)(KEY, params, one_task())
  assert float(metrics['loss']) == 5.0  # at x = -2, y = 1
  assert float(gradient['x']) == slope
  assert float(gradient['y']) == 1.0


def initial_params():
  return parameters(MODEL.init, np.zeros((4, 1)))


@functools.cache
def gradient_of_maml(steps: int):
  learner = metajax.maml(MODEL, metajax.mean_squared_error, 0.05, steps)
  return jax.jit(learner.grad)


def by_hand(params, tasks: Task, rate: float, steps: int):
  """MAML without metajax: the mean query loss, to be differentiated."""

  def loss(params, batch):
    hidden = batch.inputs @ params['Dense_0']['kernel']
    hidden = jax.nn.relu(hidden + params['Dense_0']['bias'][None])
    outputs = hidden @ params['head']['kernel'] + params['head']['bias'][None]
    return jnp.mean((outputs - batch.targets) ** 2)

  def of_task(support, query):
    adapted = params
    for _ in range(steps):
      gradient = jax.grad(loss)(adapted, support)
      adapted = jax.tree.map(lambda p, g: p - rate * g, adapted, gradient)
    return loss(adapted, query)

  return jnp.mean(jax.vmap(of_task)(*tasks))


@pytest.mark.parametrize('steps', [0, 3])
def test_maml_equals_the_same_written_by_hand(float64, steps):
  params, tasks = initial_params(), sinusoids(3)
  gradient, metrics = gradient_of_maml(steps)(KEY, params, tasks)
  value, expected = jax.jit(
    jax.value_and_grad(lambda params: by_hand(params, tasks, 0.05, steps))
  )(params)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
    gradient,
    expected,
  )


def test_fomaml_is_the_query_gradient_at_the_adapted_parameters(float64):
  params, tasks = initial_params(), sinusoids(3)
  learner = metajax.fomaml(MODEL, metajax.mean_squared_error, 0.05, 3)
  gradient, _ = jax.jit(learner.grad)(KEY, params, tasks)

  @jax.jit
  def at_the_adapted(params):
    def query_gradient(key, task):
      adapted, _ = learner.adapt(key, params, task.support)

      def loss(params):
        outputs = MODEL.apply(params, task.query.inputs)
        return jnp.mean((outputs - task.query.targets) ** 2)

      return jax.grad(loss)(adapted)

    each = map_tasks(query_gradient, KEY, tasks)
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
    gradient,
    at_the_adapted(params),
  )


def test_anil_adapts_the_head_and_meta_learns_the_body(float64):
  params, tasks = initial_params(), sinusoids(3)
  learner = metajax.anil(MODEL, metajax.mean_squared_error, 0.05, 2)
  support = at(tasks.support, 0)
  adapted, _ = jax.jit(learner.adapt)(KEY, params, support)
  jax.tree.map(
    np.testing.assert_array_equal, adapted['Dense_0'], params['Dense_0']
  )
  head = np.asarray(adapted['head']['kernel'])
  assert np.abs(head - params['head']['kernel']).max() > 0
  along = slopes(learner, params, tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)
  gradient, _ = jax.jit(learner.grad)(KEY, params, tasks)
  assert np.abs(gradient['Dense_0']['kernel']).max() > 0


def test_no_two_tasks_adapt_to_each_other(float64):
  params, tasks = initial_params(), sinusoids(3)
  grad = gradient_of_maml(3)
  whole, _ = grad(KEY, params, tasks)
  alone = [grad(KEY, params, at(tasks, slice(i, i + 1)))[0] for i in range(3)]
  mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *alone)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13),
    whole,
    mean,
  )


def test_a_traced_rate_is_learned_like_any_parameter(float64):
  params, tasks = initial_params(), sinusoids(1)

  def loss(rate):
    learner = metajax.maml(MODEL, metajax.mean_squared_error, rate, 2)
    _, metrics = learner.grad(KEY, params, tasks)
    return metrics['loss']

  slope = jax.jit(jax.grad(loss))(0.05)
  value = jax.jit(lambda rate: by_hand(params, tasks, rate, 2))
  ends = [np.asarray(value(0.05 + h)) for h in (1e-5, -1e-5)]
  np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize(
  'factory', [metajax.maml, metajax.fomaml, metajax.anil]
)
@pytest.mark.parametrize(
  ('rate', 'steps', 'message'),
  [
    (0.0, 1, 'inner_lr must be above 0, got 0.0'),
    (-0.1, 1, 'inner_lr must be above 0, got -0.1'),
    (float('nan'), 1, 'inner_lr must be above 0, got nan'),
    (0.1, -1, 'num_steps must be 0 or more, got -1'),
  ],
)
def test_rates_and_counts_that_cannot_be_meant_are_refused(
  factory, rate, steps, message
):
  with pytest.raises(ValueError, match=message):
    factory(MODEL, metajax.mean_squared_error, rate, steps)


def test_anil_refuses_a_network_without_a_head():
  learner = metajax.anil(PARABOLA, the_output_itself, 1.0, 1)
  params = PARABOLA.init(KEY, None)
  with pytest.raises(ValueError, match=r'head selects none.*x, y'):
    learner.grad(KEY, params, one_task())
