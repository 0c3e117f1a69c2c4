"""What somebody who knows JAX writes by hand, for one workload at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark.speed.base import (
  EPSILON,
  SEED,
  Problem,
  Program,
  Workload,
)
from experiments.benchmark.speed.in_jax import (
  device_bytes,
  draw_tasks,
  in_float64,
  in_precision,
  inner_adam,
  limit_threads,
  nested,
  network_of,
  sampler_of,
  temp_bytes,
)
from metajax.base import Model, PyTree, Task

__all__ = ['in_plain_jax', 'plain_loss_and_gradient']


def in_plain_jax(problem: Problem) -> Program:
  """What somebody who knows JAX writes for this one workload.

  Tasks come from metajax's sampler, for no other draws the same ones.
  """
  workload = problem.workload
  limit_threads(workload)
  optimizer = optax.adam(workload.outer_lr)
  loss_and_gradient = plain_loss_and_gradient(problem)
  _, key = jax.random.split(jax.random.key(SEED))
  draw = jax.tree_util.Partial(
    partial(draw_tasks, workload.tasks), sampler_of(workload), key
  )

  @partial(jax.jit, donate_argnums=0)
  def run(
    carry: PyTree, first: jax.Array, num_steps: jax.Array, draw: Any
  ) -> PyTree:
    def step(index: jax.Array, carry: PyTree) -> PyTree:
      weights, state, _ = carry
      value, gradient = loss_and_gradient(weights, draw(index))
      updates, state = optimizer.update(gradient, state, weights)
      return optax.apply_updates(weights, updates), state, value

    return jax.lax.fori_loop(first, first + num_steps, step, carry)

  weights = jax.tree.map(jnp.asarray, nested(problem.weights))
  carry = jax.tree.map(
    jnp.copy, (weights, optimizer.init(weights), jnp.zeros(()))
  )
  taken = 0

  def advance(num_steps: int) -> float:
    nonlocal carry, taken
    carry = run(carry, jnp.int32(taken), jnp.int32(num_steps), draw)
    taken += num_steps
    return float(carry[2])

  return Program(
    advance,
    in_float64(jax.jit(loss_and_gradient)),
    lambda: temp_bytes(run.lower(carry, jnp.int32(0), jnp.int32(1), draw)),
    device_bytes,
  )


def plain_loss_and_gradient(
  problem: Problem,
) -> Callable[[PyTree, Task], tuple[jax.Array, PyTree]]:
  """`value_and_grad` of the mean of a `vmap` over tasks."""
  workload = problem.workload
  apply = in_precision(
    problem, Model(network_of(problem).init, _plain_network(problem))
  ).apply
  objective = _plain_objective(workload)

  def task_loss(weights: PyTree, task: Task) -> jax.Array:
    def support_loss(weights: PyTree) -> jax.Array:
      return objective(
        apply(weights, task.support.inputs), task.support.targets
      )

    descend = _plain_adam if workload.network == 'transformer' else _plain_sgd
    adapted = descend(workload, jax.grad(support_loss), weights)
    return objective(apply(adapted, task.query.inputs), task.query.targets)

  @jax.value_and_grad
  def mean_loss(weights: PyTree, tasks: Task) -> jax.Array:
    return jnp.mean(jax.vmap(task_loss, in_axes=(None, 0))(weights, tasks))

  return mean_loss


def _plain_sgd(
  workload: Workload, gradient: Callable[[PyTree], PyTree], weights: PyTree
) -> PyTree:
  for _ in range(workload.inner_steps):
    weights = jax.tree.map(
      lambda weight, slope: weight - workload.inner_lr * slope,
      weights,
      gradient(weights),
    )
  return weights


def _plain_adam(
  workload: Workload, gradient: Callable[[PyTree], PyTree], weights: PyTree
) -> PyTree:
  """A scan, since twenty copies of a transformer compile for minutes."""
  optimizer = inner_adam(workload.inner_lr)

  def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
    weights, state = carry
    updates, state = optimizer.update(gradient(weights), state, weights)
    return (optax.apply_updates(weights, updates), state), None

  carry = weights, optimizer.init(weights)
  (weights, _), _ = jax.lax.scan(step, carry, length=workload.inner_steps)
  return weights


def _plain_network(
  problem: Problem,
) -> Callable[[PyTree, jax.Array], jax.Array]:
  network = problem.workload.network
  if network == 'mlp':
    return plain_mlp
  # By hand it would be of flax, too; that of adapters is for counting alone.
  if network in ('transformer', 'lora'):
    return network_of(problem).apply
  if network == 'resnet12':
    return network_of(problem, 'native').apply
  return partial(plain_conv4, network == 'conv4_max_pool')


def plain_mlp(weights: PyTree, inputs: jax.Array) -> jax.Array:
  """The sinusoid network, from the weights of metajax's."""
  *hidden, head = (weights[name] for name in sorted(weights))
  for layer in hidden:
    inputs = jax.nn.relu(inputs @ layer['kernel'] + layer['bias'])
  return inputs @ head['kernel'] + head['bias']


def plain_conv4(pooled: bool, weights: PyTree, inputs: jax.Array) -> jax.Array:
  """Conv-4 of the operations that JAX has for it."""
  stride = (1, 1) if pooled else (2, 2)
  for index in range(4):
    outputs = jax.lax.conv_general_dilated(
      inputs,
      weights[f'Conv_{index}']['kernel'],
      stride,
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    norm = weights[f'BatchNorm_{index}']
    mean = jnp.mean(outputs, (0, 1, 2))
    variance = jnp.mean(jnp.square(outputs - mean), (0, 1, 2))
    factor = norm['scale'] * jax.lax.rsqrt(variance + EPSILON)
    inputs = jax.nn.relu((outputs - mean) * factor + norm['bias'])
    if pooled:
      inputs = jax.lax.reduce_window(
        inputs, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
      )
  head = weights['head']
  return jnp.mean(inputs, (1, 2)) @ head['kernel'] + head['bias']


def _plain_objective(
  workload: Workload,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  if workload.network == 'mlp':
    return lambda outputs, targets: jnp.mean(jnp.square(outputs - targets))
  return lambda outputs, targets: jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
  )
