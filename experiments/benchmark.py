"""How fast metajax is, beside the same computation written by hand.

  python -m experiments.benchmark

measures one outer step of second-order MAML on two workloads: `sinusoid` (MLP
40-40, 25 tasks, 10 shots) and `conv4` (stride-2 Conv-4, 5-way 1-shot, 32
tasks), both with the settings of `metajax.algorithms.table`. It takes about
three minutes on two CPU cores and prints a table of tasks per second: of
metajax as its users get it, of plain JAX written for this one workload, and,
where `torch` is installed, of a PyTorch loop over tasks. See
docs/performance.md for what it prints.

All implementations start from the same weights and take the same tasks; if the
losses of their first outer steps differ, there is no table. They take turns in
one process, so that whatever else the machine does hits all of them; figures
are medians over `--rounds` such rounds. Programs are compiled anew, without
the compilation cache.

The workdir receives `benchmark.json`. A workload is a row of `WORKLOADS`, an
implementation a row of `IMPLEMENTATIONS`.
"""

import errno
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
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

from experiments import options, report
from experiments.loop import write_json
from experiments.options import FLAGS, UsageError
from metajax import cross_entropy, make_train_step, mean_squared_error
from metajax.algorithms.table import ALGORITHMS, Recipe
from metajax.base import (
  Objective,
  PyTree,
  SampleTask,
  Task,
  num_tasks,
  sample_tasks,
)
from metajax.tasks import episodes, sinusoid
from metajax.training import TrainState, TrainStep

RECORD = 'benchmark.json'
SEED = 0
SECONDS = 0.5  # about as long as one implementation computes in one round

# Relative differences that rounding explains: of the loss of the first outer
# step, and of the second, which Adam reaches by steps whose size does not
# shrink with the gradient, so that rounding near zero counts for more.
TOLERANCES = (1e-4, 1e-2)

# Images of the size and number of Omniglot's training classes with rotations.
_CLASSES, _EXAMPLES, _SIDE = 4400, 20, 28
_GIVEN_STEPS = 16  # whose tasks the PyTorch loop goes round

# Takes outer steps and returns a loss when they are done: that of the last, or
# their mean.
Advance = Callable[[int], float]


class Workload(NamedTuple):
  """What is computed, and what each framework needs of its own for it."""

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
  state: TrainState  # of metajax; the weights are its meta-parameters
  draw: jax.tree_util.Partial  # the tasks of an outer step, as metajax draws
  tasks: list[Task]  # those of the first outer steps


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
  seconds_to_first_step: float  # to build, compile and take it
  first_loss: float
  rounds: int


class DisagreementError(Exception):
  """Implementations that should compute the same thing do not."""


def prepare(workload: Workload) -> Problem:
  """Draws the weights and fixes the tasks that all implementations share."""
  sample = workload.sample(workload.recipe)
  state = _train_step(workload, sample).init(jax.random.key(SEED))
  draw = jax.tree_util.Partial(
    partial(_draw, workload.recipe.tasks_per_step), sample, state.key
  )
  compiled = jax.jit(lambda draw, step: draw(step))
  tasks = [compiled(draw, step) for step in range(_GIVEN_STEPS)]
  return Problem(workload, sample, state, draw, jax.device_get(tasks))


def _draw(
  num: int, sample: SampleTask, key: jax.Array, step: jax.Array
) -> Task:
  sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
  return sample_tasks(sample, sample_key, num)


def measure(
  workload: Workload,
  implementations: Iterable[Implementation],
  rounds: int,
  seconds: float = SECONDS,
) -> list[Row]:
  """Times implementations of a workload, taking turns.

  Args:
    workload: what to compute.
    implementations: the first is what the others are compared with.
    rounds: how many turns each one has.
    seconds: about how long a turn is.

  Returns:
    A row per implementation.

  Raises:
    DisagreementError: if they do not all have the losses of the first.
  """
  problem = prepare(workload)
  advances: dict[str, Advance] = {}
  losses: dict[str, list[float]] = {}
  first_seconds: dict[str, float] = {}
  for implementation in implementations:
    name = implementation.name
    start = time.perf_counter()
    advances[name] = implementation.make(problem)
    losses[name] = [advances[name](1)]
    first_seconds[name] = time.perf_counter() - start
    losses[name].append(advances[name](1))
  check_agreement(workload.name, losses)

  steps = {name: _steps_for(advances[name], seconds) for name in advances}
  speeds: dict[str, list[float]] = {name: [] for name in advances}
  tasks = workload.recipe.tasks_per_step
  for _ in range(rounds):
    for name, advance in advances.items():
      elapsed = _timed(advance, steps[name])
      speeds[name].append(tasks * steps[name] / elapsed)
  reference = next(iter(speeds.values()))
  return [
    Row(
      implementation=name,
      workload=workload.name,
      tasks=tasks,
      inner_steps=workload.recipe.inner_steps,
      tasks_per_second=statistics.median(own),
      ratio_to_metajax=statistics.median(
        mine / theirs for mine, theirs in zip(own, reference, strict=True)
      ),
      seconds_to_first_step=first_seconds[name],
      first_loss=losses[name][0],
      rounds=rounds,
    )
    for name, own in speeds.items()
  ]


def check_agreement(workload: str, losses: dict[str, list[float]]) -> None:
  """Compares losses of the first outer steps with those of the first entry.

  Raises:
    DisagreementError: names the two implementations and their losses.
  """
  (reference, expected), *others = losses.items()
  for name, found in others:
    for step, (a, b, tolerance) in enumerate(
      zip(expected, found, TOLERANCES, strict=True)
    ):
      # Written so that NaN is a difference.
      if not abs(a - b) <= tolerance * abs(a):
        raise DisagreementError(
          f'{workload}: {name} does not compute what {reference} does; its loss'
          f' at outer step {step} is {b:.8g}, not {a:.8g}'
        )


def _timed(advance: Advance, num_steps: int) -> float:
  start = time.perf_counter()
  advance(num_steps)
  return time.perf_counter() - start


def _steps_for(advance: Advance, seconds: float) -> int:
  """How many outer steps take about that long."""
  steps = 1
  while (elapsed := _timed(advance, steps)) < seconds / 4:
    steps *= 4
  return max(1, round(steps * seconds / elapsed))


def _train_step(workload: Workload, sample: SampleTask) -> TrainStep:
  recipe, maml = workload.recipe, ALGORITHMS['maml']
  model = recipe.network(workload.num_outputs)
  return make_train_step(
    maml.make(model, workload.objective, recipe),
    maml.optimizer(recipe),
    sample,
    tasks_per_step=recipe.tasks_per_step,
    chunk_size=recipe.chunk_size,
  )


def in_metajax(problem: Problem) -> Advance:
  """Metajax as its users get it."""
  train_step = _train_step(problem.workload, problem.sample)
  state = jax.tree.map(jnp.copy, problem.state)

  def advance(num_steps: int) -> float:
    nonlocal state
    state, metrics = train_step.run(state, num_steps)
    return float(metrics['loss'])

  return advance


def jax_by_hand(problem: Problem) -> Advance:
  """What somebody who knows JAX well writes for this one workload.

  Tasks come from metajax's sampler, for no other draws the same ones.
  """
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

  weights = jax.tree.map(jnp.copy, problem.state.meta_params)
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


def _jax_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return jnp.mean(jnp.square(outputs - targets))


def _jax_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
  )


def torch_by_task(threads: int, problem: Problem) -> Advance:
  """PyTorch as it is mostly written: a Python loop over given tasks."""
  import torch

  workload, recipe = problem.workload, problem.workload.recipe
  loss_function = getattr(torch.nn.functional, workload.torch_loss)
  leaves, structure = jax.tree.flatten(problem.state.meta_params)
  weights = [_torch_weight(np.asarray(leaf)) for leaf in leaves]
  optimizer = torch.optim.Adam(weights, lr=recipe.outer_lr, fused=True)
  batches = [_torch_tasks(tasks) for tasks in problem.tasks]
  taken = 0

  def loss(weights: list, batch: tuple) -> Any:
    inputs, targets = batch
    outputs = workload.torch_apply(
      jax.tree.unflatten(structure, weights), inputs
    )
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
      tasks = batches[taken % len(batches)]
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


def _torch_weight(leaf: np.ndarray) -> Any:
  """A leaf with the axes where PyTorch wants those of a convolution."""
  import torch

  if leaf.ndim == 4:
    leaf = leaf.transpose(3, 2, 0, 1)
  return torch.tensor(leaf.copy(), requires_grad=True)


def _torch_tasks(tasks: Task) -> list:
  """One ((inputs, targets), (inputs, targets)) for each task."""
  import torch

  def tensor(array: np.ndarray) -> Any:
    if array.ndim == 5:  # images: channels come first in PyTorch
      array = array.transpose(0, 1, 4, 2, 3).copy()
    if array.dtype.kind == 'i':  # classes
      array = array.astype(np.int64)
    return torch.tensor(array)

  support, query = jax.tree.map(tensor, tasks)
  return [
    tuple(tuple(leaf[i] for leaf in batch) for batch in (support, query))
    for i in range(num_tasks(tasks))
  ]


def torch_mlp(weights: PyTree, inputs: Any) -> Any:
  """The sinusoid network."""
  *hidden, head = (weights[name] for name in sorted(weights))
  for layer in hidden:
    inputs = (inputs @ layer['kernel'] + layer['bias']).relu()
  return inputs @ head['kernel'] + head['bias']


def torch_conv4(weights: PyTree, inputs: Any) -> Any:
  """Stride-2 Conv-4."""
  from torch.nn import functional

  for index in range(4):
    side = inputs.shape[-1]
    total = 2 * -(-side // 2) + 1 - side  # SAME padding, as XLA divides it
    pad = total // 2, total - total // 2
    kernel = weights[f'Conv_{index}']['kernel']
    outputs = functional.conv2d(
      functional.pad(inputs, pad + pad), kernel, stride=2
    )
    norm = weights[f'BatchNorm_{index}']
    inputs = functional.batch_norm(
      outputs, None, None, norm['scale'], norm['bias'], True, eps=1e-3
    ).relu()
  head = weights['head']
  return inputs.mean((2, 3)) @ head['kernel'] + head['bias']


def _sinusoids(recipe: Recipe) -> SampleTask:
  return sinusoid(recipe.shots, recipe.train_queries or recipe.queries)


def _noise_images(recipe: Recipe) -> SampleTask:
  """Episodes over as many images as Omniglot has; what they show is noise."""
  shape = _CLASSES * _EXAMPLES, _SIDE, _SIDE
  images = np.random.default_rng(SEED).integers(256, size=shape, dtype=np.uint8)
  labels = np.repeat(np.arange(_CLASSES), _EXAMPLES)
  return episodes(images, labels, recipe.ways, recipe.shots, recipe.queries)


def _workloads() -> dict[str, Workload]:
  maml = ALGORITHMS['maml']
  assert maml.sinusoid
  assert maml.images
  rows = (
    Workload(
      'sinusoid', maml.sinusoid, 1, mean_squared_error, _sinusoids,
      jax_mlp, _jax_squared_error, torch_mlp, 'mse_loss',
    ),
    Workload(
      'conv4', maml.images(5, 1), 5, cross_entropy, _noise_images,
      jax_conv4, _jax_cross_entropy, torch_conv4, 'cross_entropy',
    ),
  )  # fmt: skip
  # A schedule would be another thing to write three times.
  return {
    row.name: row._replace(
      recipe=row.recipe._replace(outer_schedule='constant')
    )
    for row in rows
  }


def _thread_counts() -> list[int]:
  """One thread, and one per core."""
  return sorted({1, os.cpu_count() or 1})


WORKLOADS = _workloads()
IMPLEMENTATIONS = (
  Implementation('metajax', in_metajax),
  Implementation('JAX by hand', jax_by_hand),
  *(
    Implementation(
      f'PyTorch loop, {threads} thread{"s"[: threads - 1]}',
      partial(torch_by_task, threads),
      needs='torch',
    )
    for threads in _thread_counts()
  ),
)


def installed(
  implementations: Sequence[Implementation],
) -> tuple[list[Implementation], list[Implementation]]:
  """Divides implementations in those that can run here and the others."""
  able = [
    each
    for each in implementations
    if each.needs is None or importlib.util.find_spec(each.needs)
  ]
  return able, [each for each in implementations if each not in able]


def machine() -> dict[str, Any]:
  """What the figures were taken on."""
  versions = report.versions()
  if importlib.util.find_spec('torch'):
    versions['torch'] = importlib.metadata.version('torch')
  return {
    'cpu': _cpu_model(),
    'cores': os.cpu_count(),
    'device': jax.devices()[0].device_kind,
    **versions,
  }


def _cpu_model() -> str:
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  for line in lines:
    if line.startswith('model name'):
      return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()


def show(rows: Sequence[Row], console: rich.console.Console) -> None:
  """Prints the rows of one workload."""
  first = rows[0]
  table = rich.table.Table(
    title=f'{first.workload}: {first.tasks} tasks a step, inner steps'
    f' {first.inner_steps}, medians of {first.rounds} rounds'
  )
  table.add_column('implementation')
  for heading in ('tasks/s', 'ratio to metajax', 'first step, s'):
    table.add_column(heading, justify='right')
  for row in rows:
    table.add_row(
      row.implementation,
      f'{row.tasks_per_second:,.0f}',
      f'{row.ratio_to_metajax:.3g}',
      f'{row.seconds_to_first_step:.1f}',
    )
  console.print(table)


def run(
  workloads: Sequence[Workload],
  implementations: Sequence[Implementation],
  record: Path,
  rounds: int,
  seconds: float = SECONDS,
) -> None:
  """Measures, prints a table per workload, and writes the record."""
  console = rich.console.Console()
  say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
  here = machine()
  say(report.describe(here))
  able, missing = installed(implementations)
  for each in missing:
    say(f'{each.name}: skipped, the package {each.needs} is not installed')
  rows: list[Row] = []
  for workload in workloads:
    measured = measure(workload, able, rounds, seconds)
    show(measured, console)
    rows += measured
  write_json(record, {'machine': here, 'rows': [row._asdict() for row in rows]})
  say(str(record))


def define_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_list('workloads', list(WORKLOADS), 'what to compute')
  flags.register_validator(
    'workloads',
    lambda names: names and set(names) <= set(WORKLOADS),
    f'must be one or more of {", ".join(WORKLOADS)}, with commas between',
  )
  options.define_count('rounds', 9, 'turns that each implementation has')
  flags.DEFINE_string('workdir', 'runs/benchmark', f'where {RECORD} goes')


def open_workdir(workdir: Path) -> Path:
  """Creates the workdir; returns the path of the record to write there."""
  record = workdir / RECORD
  if record.exists():
    raise UsageError(
      'workdir', f'{workdir} already holds a {RECORD}; name another directory'
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not os.access(workdir, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    raise options.unwritable('workdir', workdir, error) from error
  return record


def main() -> int:
  """Runs the benchmark that the flags describe."""
  record = open_workdir(Path(FLAGS.workdir))
  jax.config.update('jax_enable_compilation_cache', False)
  names = dict.fromkeys(FLAGS.workloads)
  try:
    run(
      [WORKLOADS[name] for name in names], IMPLEMENTATIONS, record, FLAGS.rounds
    )
  except DisagreementError as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  define_flags()
  sys.exit(options.run(main))
