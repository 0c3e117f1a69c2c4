"""Implicit MAML against closed forms and unrolled descents."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import sinusoids

import metajax
from metajax.base import Batch, Model, Task
from metajax.models import from_linen

STRENGTH = 0.7
KEY = jax.random.key(0)

# The coefficients of a linear regression.
LINEAR = Model(
  init=lambda key, inputs: jnp.ones(inputs.shape[1:]),
  apply=lambda params, inputs: inputs @ params,
)


class SmoothMLP(nn.Module):
  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = nn.tanh(nn.Dense(5, param_dtype=inputs.dtype)(inputs / 3))
    return nn.Dense(1, param_dtype=inputs.dtype, name='head')(hidden)


SMOOTH = from_linen(SmoothMLP())


def regressions(num: int) -> Task:
  def batch(seed, examples):
    generator = np.random.default_rng(seed)
    return Batch(
      generator.normal(size=(num, examples, 3)),
      generator.normal(size=(num, examples)),
    )

  return Task(batch(0, 4), batch(1, 5))


@pytest.mark.parametrize('damping', [0.0, 3.0])
def test_the_meta_gradient_of_a_linear_regression_is_its_closed_form(
  float64, damping
):
  tasks, phi = regressions(3), np.array([1.0, -2.0, 0.5])
  learner = metajax.imaml(
    LINEAR, metajax.mean_squared_error, 0.1, 2000, strength=STRENGTH,
    solver_tolerance=1e-12, damping=damping,
  )  # fmt: skip
  gradient, _ = jax.jit(learner.grad)(KEY, phi, tasks)
  expected = np.zeros(3)
  for i in range(3):
    x, y = tasks.support.inputs[i], tasks.support.targets[i]
    regular = 2 * x.T @ x / len(x) + STRENGTH * np.eye(3)
    adapted = np.linalg.solve(regular, 2 * x.T @ y / len(x) + STRENGTH * phi)
    x, y = tasks.query.inputs[i], tasks.query.targets[i]
    slope = 2 * x.T @ (x @ adapted - y) / len(x)
    damped = regular + damping * np.eye(3)
    expected += STRENGTH * np.linalg.solve(damped, slope) / 3
  np.testing.assert_allclose(gradient, expected, rtol=1e-8)


def unrolled(params, tasks: Task, rate: float, steps: int):
  """The same inner problem, and a derivative through every one of its steps."""

  def loss(params, batch):
    return jnp.mean((SMOOTH.apply(params, batch.inputs) - batch.targets) ** 2)

  def of_task(support, query):
    def inner(theta):
      squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), theta, params)
      return loss(theta, support) + STRENGTH / 2 * sum(jax.tree.leaves(squares))

    def step(theta, _):
      slope = jax.grad(inner)(theta)
      return jax.tree.map(lambda p, g: p - rate * g, theta, slope), None

    adapted, _ = jax.lax.scan(step, params, length=steps)
    return loss(adapted, query)

  return jnp.mean(jax.vmap(of_task)(*tasks))


@pytest.mark.in_ci
def test_the_meta_gradient_is_that_of_a_descent_that_has_converged(float64):
  tasks = sinusoids(3)
  params = jax.jit(SMOOTH.init)(KEY, tasks.support.inputs[0])
  learner = metajax.imaml(
    SMOOTH, metajax.mean_squared_error, 0.1, 400, strength=STRENGTH,
    solver_iterations=20, solver_tolerance=1e-8,
  )  # fmt: skip
  gradient, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  value, expected = jax.jit(
    jax.value_and_grad(lambda params: unrolled(params, tasks, 0.1, 400))
  )(params)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-12)
  found, wanted = (
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    for tree in (gradient, expected)
  )
  error = np.linalg.norm(found - wanted)
  assert error < 1e-3 * np.linalg.norm(wanted)


@pytest.mark.in_ci
def test_metrics_say_whether_the_inner_problem_was_solved(float64):
  tasks, phi = regressions(3), np.array([1.0, -2.0, 0.5])

  def metrics_of(num_steps, iterations):
    learner = metajax.imaml(
      LINEAR, metajax.mean_squared_error, 0.1, num_steps, strength=STRENGTH,
      solver_tolerance=1e-12, solver_iterations=iterations,
    )  # fmt: skip
    together = jax.jit(learner.grad)(KEY, phi, tasks)[1]
    chunks = jax.jit(metajax.microbatch(learner.grad, 1))(KEY, phi, tasks)[1]
    for name, value in together.items():
      np.testing.assert_allclose(chunks[name], value, rtol=1e-8, atol=1e-11)
    return together

  solved = metrics_of(2000, 3)
  assert solved['inner_gradient_norm'] < 1e-8
  assert solved['solver_residual'] < 1e-8
  assert metrics_of(2, 3)['inner_gradient_norm'] > 0.1
  assert 0.05 < metrics_of(2000, 1)['solver_residual'] < 1


def test_damping_holds_where_the_loss_curves_down(float64):
  """By more than the pull makes up for; undamped, the sign is wrong."""

  def loss(outputs, targets):
    return -jnp.sum(outputs**2) / 2, {}

  model = Model(init=LINEAR.init, apply=lambda params, inputs: params)
  rows = np.ones((1, 1, 1)), np.zeros((1, 1))
  tasks = Task(Batch(*rows), Batch(*rows))

  def slope(damping):
    learner = metajax.imaml(
      model, loss, 0.1, 0, strength=STRENGTH, damping=damping
    )
    gradient, _ = jax.jit(learner.grad)(KEY, np.ones(1), tasks)
    return float(np.asarray(gradient)[0])

  first_order = -1.0
  assert slope(0.0) == pytest.approx(STRENGTH * first_order / (STRENGTH - 1))
  assert slope(2.0) == pytest.approx(STRENGTH * first_order / (STRENGTH + 1))


def bytes_of(learner, params, tasks) -> int:
  """What the compiled meta-gradient needs beside its inputs and outputs."""
  compiled = jax.jit(learner.grad).lower(KEY, params, tasks).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_inner_steps():
  tasks = jax.tree.map(np.float32, sinusoids(2))
  params = jax.jit(SMOOTH.init)(KEY, tasks.support.inputs[0])

  def grown(factory) -> int:
    few, many = (
      bytes_of(factory(SMOOTH, metajax.mean_squared_error, 0.1, steps), params,
               tasks)
      for steps in (20, 320)
    )  # fmt: skip
    return many - few

  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  assert grown(metajax.imaml) < size
  assert grown(metajax.maml) > 300 * size


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
    ({'strength': 0.0}, 'strength must be above 0, got 0.0'),
    ({'strength': float('nan')}, 'strength must be above 0, got nan'),
    ({'solver_iterations': 0}, 'solver_iterations must be 1 or more, got 0'),
    ({'damping': -1.0}, 'damping must be 0 or more, got -1.0'),
  ],
)
def test_what_cannot_be_meant_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    metajax.imaml(LINEAR, metajax.mean_squared_error, **wrong)
