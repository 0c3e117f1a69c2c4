"""What is trained on every chip, and one step of it compiled for a slice."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments.benchmark.learners import make_learner
from experiments.recipes import images
from experiments.recipes.kinds import published
from experiments.runner.dry_run import (
  bytes_needed,
  compile_for_chips,
  devices_of,
)
from metajax import cross_entropy, make_mesh, make_train_step, maml
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Batch, MetaLearner, PyTree, SampleTask, Task
from metajax.devices.collectives import collectives
from metajax.devices.mesh import TASK
from metajax.models import transformer
from metajax.runs.training import TrainStep
from metajax.tasks import strokes

__all__ = ['WORKLOADS', 'Method', 'Scaling', 'Workload', 'measure']

_SEQUENCES, _LENGTH, _TOKENS = 8, 64, 256


class Method(NamedTuple):
  """What is trained, on what, and by which optimiser."""

  learner: MetaLearner
  optimizer: optax.GradientTransformation
  sample: SampleTask


class Workload(NamedTuple):
  """A method, and how much of it a chip has to do."""

  make: Callable[[], Method]
  tasks_per_chip: int
  # Fewer than those, so that there is a loop over chunks of tasks, inside of
  # which nothing may be exchanged.
  chunk_size: int


def conv4_workload() -> Method:
  """What `python -m experiments.images` trains by default."""
  recipe = published(images, 'maml')
  learner = make_learner('maml', recipe, recipe.ways, cross_entropy)
  sample = strokes(recipe.ways, recipe.shots, recipe.queries, split='train')
  return Method(learner, ALGORITHMS['maml'].optimizer(recipe), sample)


def transformer_workload() -> Method:
  """Five steps of Adam on a transformer of two blocks."""
  learner = maml(
    transformer(_SEQUENCES, vocabulary=_TOKENS, width=128, depth=2),
    cross_entropy,
    inner_lr=1e-3,
    num_steps=5,
    # Adam's second-order gradient is finite with one.
    inner_optimizer=partial(optax.adam, eps_root=1e-8),
  )
  return Method(learner, optax.adam(1e-3), jax.tree_util.Partial(_sequences))


def _sequences(key: jax.Array) -> Task:
  """Random tokens, each sequence a class of its own."""
  shape = 2, _SEQUENCES, _LENGTH
  support, query = jax.random.randint(key, shape, 0, _TOKENS)
  targets = jnp.arange(_SEQUENCES, dtype=jnp.int32)
  return Task(Batch(support, targets), Batch(query, targets))


WORKLOADS = {
  'conv4': Workload(conv4_workload, tasks_per_chip=8, chunk_size=4),
  'transformer': Workload(transformer_workload, tasks_per_chip=2, chunk_size=1),
}


class Scaling(NamedTuple):
  """One compiled step, a row of the table."""

  workload: str
  topology: str
  chips: int
  tasks: int
  # Arithmetic of the program as it is written, by `metajax.devices.cost`.
  flops_per_chip: int
  compiled_flops_per_chip: float | None  # by the compiler, a loop's body once
  all_reduce_bytes: int
  other_collectives: list[str]  # their names
  collectives_inside_loops: int
  parameter_bytes: int
  metrics: list[str]
  metrics_bytes: int
  memory_bytes_per_chip: int
  compile_seconds: float


def measure(
  name: str, workload: Workload, topology: str, tasks_per_chip: int
) -> Scaling:
  """Compiles one step for a topology.

  Args:
    name: of the workload.
    workload: what is trained.
    topology: such as `v5e:4x4`.
    tasks_per_chip: how many of its tasks every chip gets.

  Returns:
    The row of the table.
  """
  devices = devices_of(topology)
  tasks = tasks_per_chip * len(devices)
  mesh = make_mesh({TASK: len(devices)}, devices)
  train_step = _train_step(workload, mesh, tasks)
  lowered = train_step.lower()
  begun = time.perf_counter()
  program, text = compile_for_chips(lowered)
  seconds = time.perf_counter() - begun
  sent = collectives(text)
  state, metrics, _ = lowered.out_info
  return Scaling(
    workload=name,
    topology=topology,
    chips=len(devices),
    tasks=tasks,
    flops_per_chip=train_step.cost().flops,
    compiled_flops_per_chip=_compiled_flops(program),
    all_reduce_bytes=sum(
      each.bytes for each in sent if each.op == 'all-reduce'
    ),
    other_collectives=[each.op for each in sent if each.op != 'all-reduce'],
    collectives_inside_loops=sum(each.inside_loop for each in sent),
    parameter_bytes=_size(state.meta_params),
    metrics=sorted(metrics),
    metrics_bytes=_size(metrics),
    memory_bytes_per_chip=bytes_needed(program),
    compile_seconds=seconds,
  )


def _train_step(workload: Workload, mesh: Mesh, tasks: int) -> TrainStep:
  method = workload.make()
  return make_train_step(
    method.learner,
    method.optimizer,
    method.sample,
    tasks_per_step=tasks,
    chunk_size=workload.chunk_size,
    mesh=mesh,
  )


def _compiled_flops(program: Any) -> float | None:
  """What the compiler says; some of them say nothing."""
  flops = (program.cost_analysis() or {}).get('flops')
  return None if flops is None else float(flops)


def _size(tree: PyTree) -> int:
  """Bytes of all arrays of a tree."""
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
