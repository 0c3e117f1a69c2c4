"""What devices, processes and checkpoints cost, on the machine it runs on.

  python -m experiments.overheads

measures the training of MAML on the sinusoid and on strokes: on one device, the
same through a mesh of one device, on two devices of one process, and in two
processes; with a checkpoint every 100 steps and without; and how long a save of
1 GiB of parameters holds up the caller. All that is compared takes turns;
figures are medians over the turns. It writes `<workdir>/overheads.json`.

Devices are those of the CPU: what is compared is the cost of dividing work.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import rich.console
import rich.table
from absl import flags

from experiments.runner import options
from experiments.runner.options import FLAGS

STEPS_BETWEEN_CHECKPOINTS = 100
# A whole number of tasks on each of two devices.
TASKS = {'sinusoid': 24, 'strokes': 32}
# Steps in a turn, for turns of a second or two.
STEPS = {'sinusoid': 1000, 'strokes': 8}
# What a process adds to the usual: devices it sees, and its mesh.
LAYOUTS = {
  'one device': (1, None),
  'one device, mesh task:1': (1, 1),
  'two devices': (2, 2),
  'two processes': (1, 2),
}


def define_flags() -> None:
  """Defines the flags of this binary."""
  options.define_count('rounds', 7, 'turns of every measurement')
  options.define_count('steps', None, 'steps of a turn')
  options.define_count('size', 2**28, 'numbers in the large checkpoint')
  flags.DEFINE_multi_enum(
    'workloads', list(TASKS), list(TASKS), 'what is trained'
  )
  flags.DEFINE_string('workdir', 'runs/overheads', 'where the results go')
  flags.DEFINE_string(
    'cache_dir', None, "compiled programs [default: the user's cache directory]"
  )
  # What one process is to be: the first one starts the others.
  flags.DEFINE_string('worker', None, 'internal')


class Worker:
  """One process, or several that train together, ready to take steps."""

  def __init__(self, workload: str, layout: str) -> None:
    devices, width = LAYOUTS[layout]
    count = 2 if layout == 'two processes' else 1
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    self._processes = [
      subprocess.Popen(
        [
          sys.executable, '-m', 'experiments.benchmark.overheads',
          f'--worker={workload},{width or 0},{port},{count},{number}',
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)},
      )
      for number in range(count)
    ]  # fmt: skip
    self.turn(1)  # compiles

  def turn(self, steps: int) -> float:
    """Takes steps; returns the seconds of the slowest process."""
    for process in self._processes:
      assert process.stdin
      process.stdin.write(f'{steps}\n')
      process.stdin.flush()
    return max(float(_answer(process)) for process in self._processes)

  def close(self) -> None:
    """Ends the processes; those that train together end together."""
    for process in self._processes:
      assert process.stdin
      process.stdin.close()
    for process in self._processes:
      process.wait()


def _answer(process: subprocess.Popen[str]) -> str:
  """The next line that is one; Gloo writes to stdout, too."""
  assert process.stdout
  for line in process.stdout:
    if line.startswith('seconds '):
      return line.split()[1]
  raise RuntimeError('a worker has died; see above')


def work(description: str) -> int:
  """What a worker does: takes as many steps as each line asks for."""
  workload, width, port, count, number = description.split(',')
  if int(count) > 1:
    from metajax.devices import distributed

    distributed.initialize(f'localhost:{port}', int(count), int(number))
  train_step = _train_step(workload, int(width))
  import jax

  state = train_step.init(jax.random.key(0))
  for line in sys.stdin:
    begun = time.perf_counter()
    state, metrics = train_step.run(state, int(line))
    jax.block_until_ready(metrics)
    print('seconds', time.perf_counter() - begun, flush=True)
  return 0


def _train_step(workload: str, width: int) -> Any:
  import metajax
  from metajax.algorithms.table import ALGORITHMS
  from metajax.tasks import sinusoid, strokes

  row = ALGORITHMS['maml']
  if workload == 'sinusoid':
    assert row.sinusoid is not None
    recipe, objective = row.sinusoid, metajax.mean_squared_error
    network = recipe.network(1)
    sample: metajax.base.SampleTask = sinusoid(recipe.shots, recipe.queries)
  else:
    assert row.images is not None
    recipe, objective = row.images(5, 1), metajax.cross_entropy
    network = recipe.network(5)
    sample = strokes(5, 1, recipe.train_queries or recipe.queries)
  return metajax.make_train_step(
    row.make(network, objective, recipe),
    row.optimizer(recipe),
    sample,
    tasks_per_step=TASKS[workload],
    chunk_size=recipe.chunk_size,
    mesh=metajax.make_mesh({'task': width}) if width else None,
  )


class Figure(NamedTuple):
  """One row of the table."""

  workload: str
  what: str
  tasks_per_second: float
  of_the_first: float  # the rate as a fraction of that of the first row


def compare(
  workload: str,
  turns: dict[str, Callable[[], float]],
  tasks: int,
  rounds: int,
) -> list[Figure]:
  """Lets turns alternate; each returns its seconds."""
  seconds: dict[str, list[float]] = {name: [] for name in turns}
  for number in range(rounds):
    for name, turn in turns.items():
      seconds[name].append(turn())
    print(f'{workload}: turn {number + 1} of {rounds}', flush=True)
  first = next(iter(seconds.values()))
  return [
    Figure(
      workload,
      name,
      tasks / median(each),
      median(a / b for a, b in zip(first, each, strict=True)),
    )
    for name, each in seconds.items()
  ]


def layouts(workload: str, rounds: int) -> list[Figure]:
  """One device, a mesh of it, two devices, two processes."""
  steps = FLAGS.steps or STEPS[workload]
  with contextlib.ExitStack() as stack:
    turns: dict[str, Callable[[], float]] = {}
    for layout in LAYOUTS:
      worker = Worker(workload, layout)
      stack.callback(worker.close)
      turns[layout] = partial(worker.turn, steps)
    return compare(workload, turns, steps * TASKS[workload], rounds)


def checkpoints(workload: str, rounds: int) -> list[Figure]:
  """With a checkpoint every so many steps, and without."""
  import jax

  from metajax.runs.checkpoint import Checkpointer

  train_step = _train_step(workload, 0)
  states = [train_step.init(jax.random.key(0)) for _ in range(2)]
  # Long enough for what is written behind it to be paid for in the same turn.
  steps = FLAGS.steps or STEPS[workload]
  saves = -(-steps // STEPS_BETWEEN_CHECKPOINTS)
  with (
    tempfile.TemporaryDirectory() as folder,
    Checkpointer(folder) as checkpointer,
  ):

    def turn(which: int, save: bool) -> float:
      begun = time.perf_counter()
      for _ in range(saves):
        states[which], metrics = train_step.run(
          states[which], STEPS_BETWEEN_CHECKPOINTS
        )
        jax.block_until_ready(metrics)
        if save:
          checkpointer.save(int(states[which].step), states[which])
      return time.perf_counter() - begun

    for which in (0, 1):
      turn(which, which == 1)  # compiles
    return compare(
      workload,
      {
        'no checkpoints': lambda: turn(0, False),
        f'every {STEPS_BETWEEN_CHECKPOINTS} steps': lambda: turn(1, True),
      },
      saves * STEPS_BETWEEN_CHECKPOINTS * TASKS[workload],
      rounds,
    )


class Pause(NamedTuple):
  """How long a large save holds up whoever asks for it."""

  bytes: int
  copy_seconds: float  # of all arrays to host memory
  pause_seconds: float  # until `save` returns
  written_seconds: float  # until it is on disk


def large_save(size: int, rounds: int) -> Pause:
  """Saves `size` numbers in 16 arrays."""
  import jax
  import numpy as np

  from metajax.runs.checkpoint import Checkpointer

  state = {
    f'layer_{number}': jax.random.normal(jax.random.key(number), (size // 16,))
    for number in range(16)
  }
  jax.block_until_ready(state)
  copies, pauses, written = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpointer = Checkpointer(folder, keep_last=1)
    for step in range(rounds + 1):
      begun = time.perf_counter()
      copy = jax.tree.map(np.array, state)
      copies.append(time.perf_counter() - begun)
      del copy
      begun = time.perf_counter()
      checkpointer.save(step, state)
      pauses.append(time.perf_counter() - begun)
      checkpointer.wait()
      written.append(time.perf_counter() - begun)
  # The first one finds memory that no process has touched yet.
  return Pause(
    sum(leaf.nbytes for leaf in state.values()),
    median(copies[1:]),
    median(pauses[1:]),
    median(written[1:]),
  )


def show(figures: Sequence[Figure], pause: Pause) -> Iterator[Any]:
  """The tables of the results."""
  table = rich.table.Table(title='cost of devices, processes and checkpoints')
  for name in ('workload', 'what', 'tasks/s', 'of the first'):
    table.add_column(name, justify='left' if name == 'what' else 'right')
  for each in figures:
    table.add_row(
      each.workload,
      each.what,
      f'{each.tasks_per_second:,.1f}',
      f'{each.of_the_first:.3f}',
    )
  yield table
  yield (
    f'a save of {pause.bytes / 2**30:.2f} GiB returns after'
    f' {pause.pause_seconds:.2f} s (copying it takes'
    f' {pause.copy_seconds:.2f} s) and is on disk after'
    f' {pause.written_seconds:.1f} s'
  )


def main() -> int:
  """Runs all measurements."""
  options.use_compilation_cache()
  if FLAGS.worker:
    return work(FLAGS.worker)
  workdir = Path(FLAGS.workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise options.unwritable('workdir', workdir, error) from error
  figures = []
  for workload in FLAGS.workloads:
    figures += layouts(workload, FLAGS.rounds)
    figures += checkpoints(workload, FLAGS.rounds)
  pause = large_save(FLAGS.size, min(FLAGS.rounds, 3))
  console = rich.console.Console()
  for each in show(figures, pause):
    console.print(each, highlight=False)
  record = {
    'rows': [each._asdict() for each in figures],
    'large_save': pause._asdict(),
  }
  (workdir / 'overheads.json').write_text(json.dumps(record, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  define_flags()
  sys.exit(options.run(main))
