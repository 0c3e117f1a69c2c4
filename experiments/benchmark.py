"""How fast metajax is, beside the same computation written by hand.

  python -m experiments.benchmark

measures second-order MAML on two workloads: `sinusoid` (MLP 40-40, 25 tasks)
and `conv4` (stride-2 Conv-4, 5-way 1-shot, 32 tasks), both with the settings
of `metajax.algorithms.table`. It takes about three minutes on two CPU cores
and prints a table of tasks per second for metajax, for plain JAX and, where
`torch` is installed, for a PyTorch loop over tasks. See docs/performance.md
for what it prints.

All implementations start from the same weights and get the same tasks; the
losses of their first outer steps must agree, or there is no table. They take
turns for `--rounds` rounds in one process, so that whatever else the machine
does hits all of them; figures are medians over rounds. Programs are compiled
anew, without the compilation cache.

The workdir receives `benchmark.json`.

A workload is one row of `WORKLOADS`, an implementation one row of
`IMPLEMENTATIONS`.
"""

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
import rich.table
from absl import flags

from experiments import options
from experiments.options import FLAGS, UsageError
from metajax import cross_entropy, make_train_step, mean_squared_error
from metajax.algorithms.table import ALGORITHMS, Recipe
from metajax.base import Objective, PyTree, SampleTask, Task, sample_tasks
from metajax.tasks import episodes, sinusoid

RECORD = 'benchmark.json'
TOLERANCE = 1e-4  # relative, between the losses of implementations
_CHECKED_STEPS = 2  # the second loss shows that the meta-gradients agree
_TORCH_BATCHES = 16  # outer steps whose tasks the PyTorch loop goes round

# Takes outer steps and returns a loss when they are done: that of the last, or
# their mean.
Advance = Callable[[int], float]


class Workload(NamedTuple):
  """What is computed, and its parts as each framework has them."""

  name: str
  recipe: Recipe
  num_outputs: int
  objective: Objective
  sample: Callable[[Recipe], SampleTask]
  jax_apply: Callable[[PyTree, jax.Array], jax.Array]
  jax_loss: Callable[[jax.Array, jax.Array], jax.Array]
  torch_apply: Callable[[PyTree, Any], Any]
  torch_loss: str  # of torch.nn.functional


class Problem(NamedTuple):
  """What every implementation of a workload starts from."""

  workload: Workload
  sample: SampleTask
  weights: PyTree  # of metajax's model, as host arrays
  draw: jax.tree_util.Partial  # from outer step to tasks, as metajax draws them


class Implementation(NamedTuple):
  """One way to compute a workload."""

  name: str
  make: Callable[[Problem], Advance]
  needs: str | None = None  # a package that may not be installed


class Row(NamedTuple):
  """What was measured."""

  implementation: str
  workload: str
  tasks: int
  inner_steps: int
  tasks_per_second: float  # median over rounds
  ratio_to_metajax: float  # median over rounds of the ratio within a round
  seconds_to_first_step: float  # built, compiled and run
  first_loss: float
  rounds: int


class Disagreement(Exception):
  """Implementations that do not compute the same thing."""


# ---------------------------------------------------------------- metajax


SEED = 0


def prepare(workload: Workload) -> Problem:
  """Draws the weights and fixes the tasks that all will share."""
  sample = workload.sample(workload.recipe)
  state = _metajax_train_step(workload, sample).init(jax.random.key(SEED))
  return Problem(
    workload,
    sample,
    jax.device_get(state.meta_params),
    jax.tree_util.Partial(
      partial(_draw, workload.recipe.tasks_per_step), sample, state.key
    ),
  )


def _draw(
  num_tasks: int, sample: SampleTask, key: jax.Array, step: jax.Array
) -> Task:
  sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
  return sample_tasks(sample, sample_key, num_tasks)


def _metajax_train_step(workload: Workload, sample: SampleTask) -> Any:
  recipe, row = workload.recipe, ALGORITHMS['maml']
  model = recipe.network(workload.num_outputs)
  return make_train_step(
    row.make(model, workload.objective, recipe),
    row.optimizer(recipe),
    sample,
    tasks_per_step=recipe.tasks_per_step,
    chunk_size=recipe.chunk_size,
  )


def metajax_as_is(problem: Problem) -> Advance:
  """Metajax as its users get it."""
  train_step = _metajax_train_step(problem.workload, problem.sample)
  state = train_step.init(jax.random.key(SEED))

  def advance(num_steps: int) -> float:
    nonlocal state
    state, metrics = train_step.run(state, num_steps)
    return float(metrics['loss'])

  return advance


# -------------------------------------------------------- JAX, written by hand


def jax_by_hand(problem: Problem) -> Advance:
  """What somebody who knows JAX writes for this one workload."""
  workload, recipe = problem.workload, problem.workload.recipe
  apply, loss = workload.jax_apply, workload.jax_loss
  optimizer = optax.adam(recipe.outer_lr)

  def task_loss(weights: PyTree, task: Task) -> jax.Array:
    def support_loss(weights: PyTree) -> jax.Array:
      return loss(apply(weights, task.support.inputs), task.support.targets)

    for _ in range(recipe.inner_steps):
      gradient = jax.grad(support_loss)(weights)
      weights = jax.tree.map(
        lambda w, g: w - recipe.inner_lr * g, weights, gradient
      )
    return loss(apply(weights, task.query.inputs), task.query.targets)

  @jax.value_and_grad
  def mean_loss(weights: PyTree, tasks: Task) -> jax.Array:
    return jnp.mean(jax.vmap(task_loss, in_axes=(None, 0))(weights, tasks))

  def loss_and_gradient(weights: PyTree, tasks: Task) -> PyTree:
    num_chunks = recipe.tasks_per_step // recipe.chunk_size
    if num_chunks <= 1:
      return mean_loss(weights, tasks)

    def add(total: PyTree, chunk: Task) -> tuple[PyTree, None]:
      return jax.tree.map(jnp.add, total, mean_loss(weights, chunk)), None

    chunks = jax.tree.map(
      lambda leaf: leaf.reshape(num_chunks, -1, *leaf.shape[1:]), tasks
    )
    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, weights)
    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda leaf: leaf / num_chunks, total)

  @partial(jax.jit, donate_argnums=0)
  def run(
    carry: PyTree, first: jax.Array, num_steps: jax.Array, draw: Any
  ) -> tuple[PyTree, jax.Array]:
    def step(index: jax.Array, carry: PyTree) -> PyTree:
      weights, state, _ = carry
      value, gradient = loss_and_gradient(weights, draw(index))
      updates, state = optimizer.update(gradient, state, weights)
      return optax.apply_updates(weights, updates), state, value

    return jax.lax.fori_loop(first, first + num_steps, step, carry)

  weights = jax.tree.map(jnp.array, problem.weights)
  carry = weights, optimizer.init(weights), jnp.zeros(())
  taken = 0

  def advance(num_steps: int) -> float:
    nonlocal carry, taken
    carry = run(carry, taken, num_steps, problem.draw)
    taken += num_steps
    return float(carry[2])

  return advance


def jax_mlp(weights: PyTree, inputs: jax.Array) -> jax.Array:
  """The sinusoid network, from the weights of metajax's."""
  *hidden, head = (weights[name] for name in sorted(weights))
  for layer in hidden:
    inputs = jax.nn.relu(inputs @ layer['kernel'] + layer['bias'])
  return inputs @ head['kernel'] + head['bias']


def jax_conv4(weights: PyTree, inputs: jax.Array) -> jax.Array:
  """Stride-2 Conv-4 of patches and matrix products."""
  for index in range(4):
    kernel = weights[f'Conv_{index}']['kernel']
    outputs = _patches(inputs) @ kernel.reshape(-1, kernel.shape[-1])
    norm = weights[f'BatchNorm_{index}']
    mean = jnp.mean(outputs, (0, 1, 2))
    centred = outputs - mean
    variance = jnp.mean(jnp.square(centred), (0, 1, 2))
    factor = norm['scale'] * jax.lax.rsqrt(variance + 1e-3)
    inputs = jax.nn.relu(centred * factor + norm['bias'])
  head = weights['head']
  return jnp.mean(inputs, (1, 2)) @ head['kernel'] + head['bias']


def _patches(inputs: jax.Array) -> jax.Array:
  """3x3 windows, two apart, with SAME padding, along the last axis."""
  side = inputs.shape[1]
  out = -(-side // 2)
  total = 2 * out + 1 - side
  pad = total // 2, total - total // 2
  padded = jnp.pad(inputs, ((0, 0), pad, pad, (0, 0)))
  end = 2 * out - 1
  return jnp.concatenate(
    [
      padded[:, row : row + end : 2, column : column + end : 2]
      for row in range(3)
      for column in range(3)
    ],
    axis=-1,
  )


def _squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return jnp.mean(jnp.square(outputs - targets))


def _softmax(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
  )


# ------------------------------------------------------- PyTorch, task by task


def torch_loop(threads: int, problem: Problem) -> Advance:
  """The usual PyTorch MAML: a Python loop over tasks, given as tensors."""
  import torch

  workload, recipe = problem.workload, problem.workload.recipe
  loss_function = getattr(torch.nn.functional, workload.torch_loss)
  leaves, structure = jax.tree.flatten(problem.weights)
  weights = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
  optimizer = torch.optim.Adam(weights, lr=recipe.outer_lr, fused=True)
  draw = jax.jit(lambda draw, step: draw(step))
  batches = [
    _torch_tasks(draw(problem.draw, step)) for step in range(_TORCH_BATCHES)
  ]
  taken = 0

  def loss(weights: list, batch: tuple) -> Any:
    inputs, targets = batch
    outputs = workload.torch_apply(structure.unflatten(weights), inputs)
    return loss_function(outputs, targets)

  def task_loss(support: tuple, query: tuple) -> Any:
    adapted = weights
    for _ in range(recipe.inner_steps):
      gradients = torch.autograd.grad(
        loss(adapted, support), adapted, create_graph=True
      )
      adapted = [
        weight - recipe.inner_lr * gradient
        for weight, gradient in zip(adapted, gradients, strict=True)
      ]
    return loss(adapted, query)

  def advance(num_steps: int) -> float:
    nonlocal taken
    torch.set_num_threads(threads)
    for _ in range(num_steps):
      tasks = batches[taken % _TORCH_BATCHES]
      taken += 1
      optimizer.zero_grad()
      total = 0.0
      for task in tasks:
        value = task_loss(*task) / len(tasks)
        value.backward()
        total += value.detach()
      optimizer.step()
    return float(total)

  return advance


def _torch_tasks(tasks: Task) -> list:
  """One ((inputs, targets), (inputs, targets)) for each task."""
  import torch

  def tensor(leaf: jax.Array) -> Any:
    array = np.array(leaf)
    if array.ndim == 5:  # images: channels come first in PyTorch
      array = np.ascontiguousarray(array.transpose(0, 1, 4, 2, 3))
    return torch.from_numpy(
      array.astype(np.int64) if array.dtype.kind == 'i' else array
    )

  support, query = jax.tree.map(tensor, tasks)
  return list(
    zip(
      zip(*support, strict=True),
      zip(*query, strict=True),
      strict=True,
    )
  )


def torch_mlp(weights: PyTree, inputs: Any) -> Any:
  """The sinusoid network."""
  *hidden, head = (weights[name] for name in sorted(weights))
  for layer in hidden:
    inputs = (inputs @ layer['kernel'] + layer['bias']).relu()
  return inputs @ head['kernel'] + head['bias']


def torch_conv4(weights: PyTree, inputs: Any) -> Any:
  """Stride-2 Conv-4."""
  import torch.nn.functional as F

  for index in range(4):
    side = inputs.shape[-1]
    total = 2 * -(-side // 2) + 1 - side  # SAME padding, as XLA divides it
    pad = total // 2, total - total // 2
    kernel = weights[f'Conv_{index}']['kernel'].permute(3, 2, 0, 1)
    outputs = F.conv2d(F.pad(inputs, pad + pad), kernel, stride=2)
    norm = weights[f'BatchNorm_{index}']
    inputs = F.batch_norm(
      outputs, None, None, norm['scale'], norm['bias'], True, eps=1e-3
    ).relu()
  head = weights['head']
  return inputs.mean((2, 3)) @ head['kernel'] + head['bias']
