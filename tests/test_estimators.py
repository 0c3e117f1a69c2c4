"""Meta-gradients against central differences, in double precision.

What others shipped: second order that was silently first order, and tests of
it that could not fail. Here first-order MAML is held to the same check, and
must not pass it.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import metajax
from metajax.base import Batch, Learner, Model, Task, map_tasks, sample_tasks
from metajax.estimators import query_loss
from metajax.models import BatchNorm, Conv, from_linen

WAYS, SIDE = 3, 6
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


def random_task(key: jax.Array) -> Task:
  def batch(key: jax.Array, examples: int) -> Batch:
    images = jax.random.normal(key, (examples, SIDE, SIDE, 1), jnp.float64)
    return Batch(images, jnp.arange(examples) % WAYS)

  support_key, query_key = jax.random.split(key)
  return Task(batch(support_key, 4), batch(query_key, 5))


def problem(model: Model) -> tuple[jax.Array, Task]:
  """Meta-parameters and tasks in double precision."""

  @jax.jit
  def draw(key: jax.Array) -> tuple[jax.Array, Task]:
    params_key, tasks_key = jax.random.split(key)
    tasks = sample_tasks(random_task, tasks_key, 2)
    params = model.init(params_key, tasks.support.inputs[0])
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params), tasks

  return draw(jax.random.key(0))


def relative_error(learner: metajax.MetaLearner, model: Model) -> float:
  """Compares the meta-gradient with central differences in every direction."""
  params, tasks = problem(model)
  flat, unravel = ravel_pytree(params)
  key = jax.random.key(2)
  gradient, metrics = jax.jit(learner.grad)(key, params, tasks)
  assert jax.tree.leaves(gradient)[0].dtype == jnp.float64

  def loss(flat: jax.Array) -> jax.Array:
    def of_task(key: jax.Array, task: Task) -> jax.Array:
      adapted, _ = learner.adapt(key, unravel(flat), task.support)
      value, _ = query_loss(learner, metajax.cross_entropy, adapted, task)
      return value

    return jnp.mean(map_tasks(of_task, key, tasks))

  @jax.jit
  def differences(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
    moves = STEP * jnp.eye(len(flat))
    ends = jax.lax.map(
      loss,
      flat[None] + jnp.concatenate([moves, -moves, 0 * moves[:1]]),
      batch_size=8,
    )
    ahead, behind, here = jnp.split(ends, [len(flat), 2 * len(flat)])
    return (ahead - behind) / (2 * STEP), here[0]

  expected, value = differences(flat)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-12)
  error = np.asarray(ravel_pytree(gradient)[0]) - np.asarray(expected)
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
  ('maml', 'conv'),
  ('maml_adam', 'mlp'),
  ('anil', 'mlp'),
  ('protonet', 'mlp'),
  ('protonet', 'conv'),
]


@pytest.mark.parametrize(('method', 'model'), CASES)
def test_the_meta_gradient_equals_central_differences(float64, method, model):
  learner = EXACT[method](MODELS[model], metajax.cross_entropy)
  assert relative_error(learner, MODELS[model]) < 1e-6


def test_first_order_maml_does_not_equal_central_differences(float64):
  learner = metajax.fomaml(MODELS['mlp'], metajax.cross_entropy, 0.5, 3)
  assert relative_error(learner, MODELS['mlp']) > 0.01


def constant_learner(adapt) -> Learner:
  """Parameters are numbers, and predictions the number times the input."""
  return Learner(
    init=lambda key, inputs: jnp.ones(()),
    adapt=adapt,
    predict=lambda adapted, inputs: adapted * inputs,
  )


def line(slope: float) -> Task:
  x = jnp.ones((2, 1))
  return Task(Batch(x, slope * x), Batch(x, slope * x))


TWO_LINES = jax.tree.map(
  lambda *leaves: jnp.stack(leaves), line(2.0), line(6.0)
)


def test_backprop_averages_gradient_and_metrics_over_tasks():
  learner = constant_learner(lambda key, params, support: (params, None))
  grad = metajax.backprop(learner, metajax.mean_squared_error)
  gradient, metrics = grad(jax.random.key(0), jnp.ones(()), TWO_LINES)
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
  gradient, metrics = grad(jax.random.key(0), jnp.ones(()), TWO_LINES)
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
  both, _ = grad(jax.random.key(0), jnp.ones(()), tasks)
  key = jax.random.key(0)
  alone = [
    grad(
      jax.random.fold_in(key, i)[None],
      jnp.ones(()),
      jax.tree.map(lambda leaf: leaf[:1], tasks),
    )[0]
    for i in range(2)
  ]
  assert float(alone[0]) != float(alone[1])
  np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-6)
