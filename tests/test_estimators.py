"""Meta-gradients against central differences, in double precision.

What others shipped: second order that was silently first order, and tests of
it that could not fail. Here first-order MAML is held to the same check, and
must not pass it.
"""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpy_draws import stacked

import metajax
from metajax.base import Batch, Learner, Task, map_tasks
from metajax.estimators import query_loss
from metajax.models import BatchNorm, Conv, from_linen

WAYS, SIDE, KEY = 3, 6, jax.random.key(2)
STEP = 1e-5  # of the differences: their error is of order 1e-10


class SmoothMLP(nn.Module):
  """Layers with a derivative everywhere."""

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs.reshape(len(inputs), -1)[:, ::4]
    hidden = nn.tanh(nn.Dense(4)(hidden))
    return nn.Dense(WAYS, name='head')(hidden)


class SmoothConvNet(nn.Module):
  """The same, with the layers of metajax."""

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs
    for _ in range(2):
      hidden = Conv(2, stride=2, use_bias=False)(hidden)
      hidden = nn.softplus(BatchNorm()(hidden))
    return nn.Dense(WAYS, name='head')(hidden.reshape(len(hidden), -1))


MODELS = {
  'mlp': from_linen(SmoothMLP()),
  'conv': from_linen(SmoothConvNet()),
}


def random_tasks() -> Task:
  """Two tasks in double precision."""
  generator = np.random.default_rng(0)

  def batch(examples: int) -> Batch:
    images = generator.normal(size=(2, examples, SIDE, SIDE, 1))
    return Batch(images, np.tile(np.arange(examples) % WAYS, (2, 1)))

  return Task(batch(4), batch(5))


@cache
def problem(model: str):
  """Meta-parameters in double precision: flat, and what makes trees of them."""
  images = random_tasks().support.inputs[0]
  params = jax.jit(MODELS[model].init)(jax.random.key(0), images)
  params = jax.tree.map(lambda leaf: np.float64(leaf), jax.device_get(params))
  return ravel_pytree(params)


@cache
def by_differences(method: str, model: str) -> tuple[np.ndarray, np.ndarray]:
  """Central differences in every direction, and the loss that they are of."""
  learner = EXACT[method](MODELS[model], metajax.cross_entropy)
  flat, unravel = problem(model)

  def loss(flat: jax.Array, tasks: Task) -> jax.Array:
    def of_task(key: jax.Array, task: Task) -> jax.Array:
      adapted, _ = learner.adapt(key, unravel(flat), task.support)
      value, _ = query_loss(learner, metajax.cross_entropy, adapted, task)
      return value

    return jnp.mean(map_tasks(of_task, KEY, tasks))

  moves = STEP * np.eye(len(flat))
  places = np.asarray(flat) + np.concatenate([moves, -moves, 0 * moves[:1]])
  ends = jax.jit(
    lambda places, tasks: jax.lax.map(lambda flat: loss(flat, tasks), places)
  )(places, random_tasks())
  ahead, behind, here = np.split(np.asarray(ends), [len(flat), 2 * len(flat)])
  return (ahead - behind) / (2 * STEP), here[0]


def relative_error(
  learner: metajax.MetaLearner, method: str, model: str
) -> float:
  """Compares the meta-gradient with central differences in every direction."""
  flat, unravel = problem(model)

  @jax.jit
  def grad(flat: jax.Array, tasks: Task):
    gradient, metrics = learner.grad(KEY, unravel(flat), tasks)
    return ravel_pytree(gradient)[0], metrics

  gradient, metrics = grad(flat, random_tasks())
  assert gradient.dtype == jnp.float64
  expected, value = by_differences(method, model)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-12)
  error = np.asarray(gradient) - expected
  return np.linalg.norm(error) / np.linalg.norm(expected)


def smooth_adam(rate: float) -> optax.GradientTransformation:
  return optax.adam(rate, eps_root=1e-4)


EXACT = {
  'maml': partial(metajax.maml, inner_lr=0.5, num_steps=3),
  'anil': partial(metajax.anil, inner_lr=0.5, num_steps=2),
  'maml_adam': partial(
    metajax.maml, inner_lr=0.05, num_steps=2, inner_optimizer=smooth_adam
  ),
  'protonet': partial(metajax.protonet, num_classes=WAYS),
}
CASES = [
  ('maml', 'mlp'),
  pytest.param('maml', 'conv', marks=pytest.mark.in_ci),
  pytest.param('maml_adam', 'mlp', marks=pytest.mark.in_ci),
  ('anil', 'mlp'),
  ('protonet', 'mlp'),
  pytest.param('protonet', 'conv', marks=pytest.mark.in_ci),
]


@pytest.mark.parametrize(('method', 'model'), CASES)
def test_the_meta_gradient_equals_central_differences(float64, method, model):
  learner = EXACT[method](MODELS[model], metajax.cross_entropy)
  assert relative_error(learner, method, model) < 1e-6


def test_first_order_maml_does_not_equal_central_differences(float64):
  learner = metajax.fomaml(MODELS['mlp'], metajax.cross_entropy, 0.5, 3)
  assert relative_error(learner, 'maml', 'mlp') > 0.01


def constant_learner(adapt) -> Learner:
  """Parameters are numbers, and predictions the number times the input."""
  return Learner(
    init=lambda key, inputs: jnp.ones(()),
    adapt=adapt,
    predict=lambda adapted, inputs: adapted * inputs,
  )


def line(slope: float) -> Task:
  x = np.ones((2, 1), np.float32)
  return Task(Batch(x, slope * x), Batch(x, slope * x))


TWO_LINES = stacked(line(2.0), line(6.0))
START = np.float32(1)


def test_backprop_averages_gradient_and_metrics_over_tasks():
  learner = constant_learner(lambda key, params, support: (params, None))
  grad = metajax.backprop(learner, metajax.mean_squared_error)
  gradient, metrics = jax.jit(grad)(KEY, START, TWO_LINES)
  # Squared errors 1 and 25, with slopes -2 and -10.
  assert float(gradient) == -6
  assert {name: float(value) for name, value in metrics.items()} == {
    'loss': 13,
    'mse': 13,
  }


def test_displacement_is_the_mean_way_back_from_where_tasks_end():
  def to_the_slope(key, params, support):
    return support.targets[0, 0], None

  grad = metajax.displacement(
    constant_learner(to_the_slope), metajax.mean_squared_error
  )
  gradient, metrics = jax.jit(grad)(KEY, START, TWO_LINES)
  assert float(gradient) == 1 - (2 + 6) / 2
  assert float(metrics['loss']) == 0


@pytest.mark.parametrize('estimator', ['backprop', 'displacement'])
def test_every_task_has_a_key_of_its_own(estimator):
  def to_a_random_place(key, params, support):
    return params + jax.random.uniform(key), None

  grad = getattr(metajax, estimator)(
    constant_learner(to_a_random_place), metajax.mean_squared_error
  )
  tasks = jax.tree.map(lambda leaf: leaf[:1].repeat(2, 0), TWO_LINES)
  one = jax.tree.map(lambda leaf: leaf[:1], tasks)

  @jax.jit
  def gradients():
    keys = [jax.random.fold_in(KEY, i)[None] for i in range(2)]
    alone = [grad(key, START, one)[0] for key in keys]
    return grad(KEY, START, tasks)[0], alone

  both, alone = jax.device_get(gradients())
  assert float(alone[0]) != float(alone[1])
  np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-6)


def test_the_gradient_of_buffers_is_a_zero_of_their_type():
  def init(key, inputs):
    return {
      'constants': jnp.ones(()), 'order': jnp.arange(2), 'scale': jnp.ones(2)
    }  # fmt: skip

  model = metajax.Model(
    init,
    lambda params, inputs: (
      inputs * (params['scale'] * params['constants'])[params['order']][None]
    ),
  )
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 1)
  inputs = jnp.ones((1, 3, 2))
  tasks = Task(Batch(inputs, 3 * inputs), Batch(inputs, 2 * inputs))
  params = learner.init(KEY, inputs[0])
  gradient, _ = learner.grad(KEY, params, tasks)
  assert jnp.abs(gradient.pop('scale')).min() > 0
  zeros = {'constants': jnp.zeros(()), 'order': jnp.zeros(2, jnp.int32)}
  jax.tree.map(
    partial(np.testing.assert_array_equal, strict=True), gradient, zeros
  )


@pytest.mark.parametrize('estimator', [metajax.backprop, metajax.evolution])
def test_counts_that_would_be_taken_for_buffers_are_refused(estimator):
  learner = metajax.reptile(
    from_linen(SmoothMLP()), metajax.cross_entropy, 0.1, 1
  )
  inputs = jnp.ones((1, WAYS, SIDE, SIDE, 1))
  batch = Batch(inputs, jnp.arange(WAYS)[None])
  with pytest.raises(ValueError, match='count, which is int32; take a learner'):
    estimator(learner, metajax.cross_entropy)(
      KEY, learner.init(KEY, inputs[0]), Task(batch, batch)
    )


@pytest.mark.in_ci
@pytest.mark.parametrize('weights', [np.ones(3), np.ones((2, 1)), 1.0])
def test_weights_of_steps_that_there_are_not_are_refused(weights):
  learner = metajax.maml(
    metajax.models.mlp([2], 1), metajax.mean_squared_error, 0.1, 2
  )
  grad = metajax.backprop(learner, metajax.mean_squared_error, weights)
  params = learner.init(KEY, TWO_LINES.support.inputs[0])
  with pytest.raises(ValueError, match=r'each of the 2 steps of the adapt'):
    jax.eval_shape(grad, KEY, params, TWO_LINES)
