"""Weak scaling, compiled ahead of time: one step for 1 to 256 chips.

  python -m experiments.weak_scaling

compiles the train step of `metajax.make_train_step(mesh=...)` for topologies of
TPUs that need not be here, with a fixed number of tasks per chip, and prints a
table in Markdown: what every chip computes, holds, and sends to the others. It
needs the compiler of TPUs (`pip install libtpu`) and takes no step.

What has to hold, or the exit code is 1: arithmetic per chip is the same for any
number of chips; what is exchanged is the parameters and a few metrics, once a
step, however many tasks there are; and nothing is exchanged inside of a loop.

The workdir receives `weak_scaling.json`, after every row.
"""

import importlib.metadata
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax.sharding import Mesh

from experiments.runner import options, report
from experiments.runner.dry_run import (
  bytes_needed,
  compile_for_chips,
  devices_of,
)
from experiments.runner.options import FLAGS, UsageError
from experiments.runner.workdir import write_json
from metajax import cross_entropy, make_mesh, make_train_step, maml
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Batch, MetaLearner, PyTree, SampleTask, Task
from metajax.devices.collectives import collectives
from metajax.devices.mesh import TASK
from metajax.models import transformer
from metajax.runs.training import TrainStep
from metajax.tasks import strokes

# Slices that Google Cloud has; the smallest v5p is one of four chips.
_SQUARES = ('1x1', '2x2', '4x4', '8x8', '16x16')
GENERATIONS = {
  'v5e': _SQUARES,
  'v5p': ('2x2x1', '2x2x4', '4x4x4', '4x8x8'),
  'v6e': _SQUARES,
}
# Of arithmetic per chip, relative to that of the smallest slice.
TOLERANCE = 0.02
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
  row = ALGORITHMS['maml']
  assert row.images
  recipe = row.images(5, 1)
  learner = row.make(recipe.network(recipe.ways), cross_entropy, recipe)
  sample = strokes(recipe.ways, recipe.shots, recipe.queries, split='train')
  return Method(learner, row.optimizer(recipe), sample)


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


class Row(NamedTuple):
  """One compiled step."""

  workload: str
  topology: str
  chips: int
  tasks: int
  flops_per_chip: (
    int  # of the program as it is written, by `metajax.devices.cost`
  )
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
) -> Row:
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
  return Row(
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


def judge(rows: Sequence[Row]) -> list[str]:
  """What does not hold, one line each.

  Args:
    rows: of any workloads and topologies.

  Returns:
    Nothing, if all is as it should be.
  """
  return [
    f'{row.workload}, {row.topology}, {row.tasks} tasks: {complaint}'
    for row in rows
    for complaint in (*_arithmetic(row, rows), *_exchange(row))
  ]


def _arithmetic(row: Row, rows: Sequence[Row]) -> Iterator[str]:
  """Against the smallest slice of the same chips with as many tasks a chip."""
  smallest = min(
    (each for each in rows if _group(each) == _group(row)),
    key=lambda each: each.chips,
  )
  for name, flops, expected in (
    ('written', row.flops_per_chip, smallest.flops_per_chip),
    (
      'compiled',
      row.compiled_flops_per_chip or 0,
      smallest.compiled_flops_per_chip or 0,
    ),
  ):
    if abs(flops - expected) > TOLERANCE * expected:
      yield (
        f'{flops:.6g} FLOP per chip as {name}, and {expected:.6g} on'
        f' {smallest.topology}'
      )


def _group(row: Row) -> tuple[str, str, int]:
  generation, _, _ = row.topology.partition(':')
  return row.workload, generation, row.tasks // row.chips


def _exchange(row: Row) -> Iterator[str]:
  expected = row.parameter_bytes + row.metrics_bytes if row.chips > 1 else 0
  if row.all_reduce_bytes != expected:
    yield (
      f'{row.all_reduce_bytes:,} bytes are reduced over all chips, and the'
      f' parameters and {len(row.metrics)} metrics are {expected:,}'
    )
  if row.other_collectives:
    yield f'there is {", ".join(row.other_collectives)} besides all-reduce'
  if row.collectives_inside_loops:
    yield f'{row.collectives_inside_loops} collectives are inside of a loop'


_COLUMNS: dict[str, Callable[[Row], str]] = {
  'workload': lambda row: row.workload,
  'topology': lambda row: row.topology,
  'chips': lambda row: f'{row.chips}',
  'tasks': lambda row: f'{row.tasks:,}',
  'GFLOP per chip, written': lambda row: f'{row.flops_per_chip / 1e9:,.4f}',
  'compiled, loops once': lambda row: (
    '?'
    if row.compiled_flops_per_chip is None
    else f'{row.compiled_flops_per_chip / 1e9:,.4f}'
  ),
  'all-reduce, bytes': lambda row: f'{row.all_reduce_bytes:,}',
  'parameters, bytes': lambda row: f'{row.parameter_bytes:,}',
  'collectives in loops': lambda row: f'{row.collectives_inside_loops}',
  'memory per chip, MiB': lambda row: (
    f'{row.memory_bytes_per_chip / 2**20:,.1f}'
  ),
  'compiled in, s': lambda row: f'{row.compile_seconds:.0f}',
}


def table(rows: Sequence[Row]) -> str:
  """The rows in Markdown."""
  lines = [
    list(_COLUMNS),
    ['---', '---', *['---:'] * (len(_COLUMNS) - 2)],
    *([cell(row) for cell in _COLUMNS.values()] for row in rows),
  ]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _verdict(rows: Sequence[Row]) -> str:
  names = sorted({name for row in rows for name in row.metrics})
  size = max(row.metrics_bytes for row in rows)
  return (
    f'holds: FLOP per chip differ by no more than {TOLERANCE:.0%} between'
    f' slices; one step reduces the parameters and {len(names)} metrics'
    f' ({", ".join(names)}: {size} bytes) over all chips, and that for twice'
    ' the tasks too; nothing is exchanged inside of a loop'
  )


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_list('generations', list(GENERATIONS), 'of TPUs')
  flags.DEFINE_list('workloads', list(WORKLOADS), 'what is trained')
  options.define_count(
    'max_chips', 256, 'leave out slices of more chips than that'
  )
  flags.DEFINE_string(
    'workdir', 'runs/weak_scaling', 'where weak_scaling.json goes'
  )


def _chosen(flag: str, known: dict[str, Any]) -> list[str]:
  for name in FLAGS[flag].value:
    if name not in known:
      raise UsageError(flag, f'{name!r} is none of {", ".join(known)}')
  return list(FLAGS[flag].value)


def _plan() -> Iterator[tuple[str, str, int]]:
  """Workloads, topologies and tasks per chip.

  After the slices of a generation comes the largest one again, with twice the
  tasks.
  """
  for name in _chosen('workloads', WORKLOADS):
    tasks = WORKLOADS[name].tasks_per_chip
    for generation in _chosen('generations', GENERATIONS):
      topologies = [
        f'{generation}:{shape}'
        for shape in GENERATIONS[generation]
        if math.prod(map(int, shape.split('x'))) <= FLAGS.max_chips
      ]
      for topology in topologies:
        yield name, topology, tasks
      for topology in topologies[-1:]:
        yield name, topology, 2 * tasks


def main() -> int:
  """Compiles, prints and judges; exit code 1 if something does not hold."""
  # A program for devices that are not here cannot be read back.
  jax.config.update('jax_enable_compilation_cache', False)
  plan = list(_plan())
  if not plan:
    raise UsageError('max_chips', 'there is no slice as small as that')
  workdir, rows = Path(FLAGS.workdir), list[Row]()
  for name, topology, tasks in plan:
    try:
      row = measure(name, WORKLOADS[name], topology, tasks)
    except UsageError as error:  # of --dry_run, which is not a flag here
      _, _, message = str(error).partition(': ')
      raise UsageError('generations', message) from error
    rows.append(row)
    print(
      f'{name}, {topology}, {row.tasks} tasks: compiled in'
      f' {row.compile_seconds:.1f} s',
      file=sys.stderr,
      flush=True,
    )
    _write(workdir, rows)
  complaints = judge(rows)
  print(table(rows))
  print()
  print('\n'.join(complaints) or _verdict(rows))
  return 1 if complaints else 0


def _write(workdir: Path, rows: Sequence[Row]) -> None:
  outcome = {
    'versions': {
      **report.versions(),
      'libtpu': importlib.metadata.version('libtpu'),
    },
    'rows': [row._asdict() for row in rows],
    'complaints': judge(rows),
  }
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / 'weak_scaling.json', outcome)
  except OSError as error:
    raise options.unwritable('workdir', workdir, error) from error


if __name__ == '__main__':
  define_flags()
  sys.exit(options.run(main))
