"""What devices, processes and checkpoints cost, on the machine it runs on.

  python -m experiments.overheads

measures the training of MAML on the sinusoid and on strokes: on one device, the
same through a mesh of one device, on two devices of one process, and in two
processes; with a checkpoint every 100 steps and without; and how long a save of
1 GiB of parameters holds up the caller. All that is compared takes turns;
figures are medians over the turns. The workdir receives `overheads.json` and
`report.html`.

Devices are those of the CPU: what is compared is the cost of dividing work.
"""

import contextlib
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

import jax
import numpy as np
import rich.console
import rich.table

from experiments.benchmark.kinds import RepeatedNames
from experiments.benchmark.learners import make_learner
from experiments.recipes import images, regression
from experiments.recipes.kinds import published
from experiments.reports import of_measurement
from experiments.runner import flags
from experiments.runner.cache import use_compilation_cache
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  Text,
  Whole,
  setting,
  settings,
)
from experiments.runner.workdir import make_directory, write_json
from metajax.algorithms.table import ALGORITHMS
from metajax.base import SampleTask
from metajax.devices import distributed
from metajax.devices.mesh import TASK, make_mesh
from metajax.objectives import cross_entropy, mean_squared_error
from metajax.runs.checkpoint import Checkpointer
from metajax.runs.training import TrainStep, make_train_step
from metajax.tasks import sinusoid, strokes

__all__ = ['Settings', 'run', 'work']

STEPS_BETWEEN_CHECKPOINTS = 100
# A whole number of tasks on each of two devices.
TASKS = {'sinusoid': 24, 'strokes': 32}
# Steps in a turn, for turns of a second or two.
STEPS = {'sinusoid': 1000, 'strokes': 8}
# By layout, how many devices a process sees, and how wide its mesh is.
LAYOUTS = {
  'one device': (1, None),
  'one device, mesh task:1': (1, 1),
  'two devices': (2, 2),
  'two processes': (1, 2),
}


@settings
class Settings(Base):
  """What is measured, and how often."""

  rounds: int = setting(
    7, Whole(), 'turns of every measurement',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  steps: int | None = setting(
    None, Whole(), 'steps of a turn',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  size: int = setting(
    2**28, Whole(), 'numbers in the large checkpoint',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  workloads: tuple[str, ...] = setting(
    tuple(TASKS), RepeatedNames(list(TASKS)),
    f'<{"|".join(TASKS)}>: what is trained',
    of='tasks', resume=False, forwarded=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/overheads', Place(), 'where the results go',
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip
  cache_dir: str | None = setting(
    None, Place(), "compiled programs [default: the user's cache directory]",
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip
  # What one process is to be: the first one starts the others.
  worker: str | None = setting(
    None, Text(), 'internal', of='machine', resume=False, forwarded=False
  )


class TrainingProcesses:
  """One process, or several that train together, ready to take steps."""

  def __init__(self, workload: str, layout: str, cache_dir: str | None) -> None:
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
          *([] if cache_dir is None else [f'--cache_dir={cache_dir}']),
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
  """Takes as many steps as each line of stdin asks for: what a process does."""
  workload, width, port, count, number = description.split(',')
  if int(count) > 1:
    distributed.initialize(f'localhost:{port}', int(count), int(number))
  train_step = _train_step(workload, int(width))
  state = train_step.init(jax.random.key(0))
  for line in sys.stdin:
    begun = time.perf_counter()
    state, metrics = train_step.run(state, int(line))
    jax.block_until_ready(metrics)
    print('seconds', time.perf_counter() - begun, flush=True)
  return 0


def _train_step(workload: str, width: int) -> TrainStep:
  """A step of MAML, on a mesh of some width; zero: without a mesh."""
  if workload == 'sinusoid':
    recipe, objective = published(regression, 'maml'), mean_squared_error
    outputs = 1
    sample: SampleTask = sinusoid(recipe.shots, recipe.queries)
  else:
    recipe, objective = published(images, 'maml'), cross_entropy
    outputs = recipe.ways
    sample = strokes(
      recipe.ways, recipe.shots, recipe.train_queries or recipe.queries
    )
  return make_train_step(
    make_learner('maml', recipe, outputs, objective),
    ALGORITHMS['maml'].optimizer(recipe),
    sample,
    tasks_per_step=TASKS[workload],
    chunk_size=recipe.chunk_size,
    mesh=make_mesh({TASK: width}) if width else None,
  )


class Figure(NamedTuple):
  """One row of the table."""

  workload: str
  what: str
  tasks_per_second: float
  of_the_first: float  # the rate as a fraction of that of the first row


def take_turns(
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


def layouts(settings: Settings, workload: str) -> list[Figure]:
  """Measures one device, a mesh of it, two devices, two processes."""
  steps = settings.steps or STEPS[workload]
  with contextlib.ExitStack() as stack:
    turns: dict[str, Callable[[], float]] = {}
    for layout in LAYOUTS:
      processes = TrainingProcesses(workload, layout, settings.cache_dir)
      stack.callback(processes.close)
      turns[layout] = partial(processes.turn, steps)
    tasks = steps * TASKS[workload]
    return take_turns(workload, turns, tasks, settings.rounds)


def checkpoints(settings: Settings, workload: str) -> list[Figure]:
  """Measures training with a checkpoint every so many steps, and without."""
  train_step = _train_step(workload, 0)
  states = [train_step.init(jax.random.key(0)) for _ in range(2)]
  # Long enough for what is written behind it to be paid for in the same turn.
  steps = settings.steps or STEPS[workload]
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
    return take_turns(
      workload,
      {
        'no checkpoints': lambda: turn(0, False),
        f'every {STEPS_BETWEEN_CHECKPOINTS} steps': lambda: turn(1, True),
      },
      saves * STEPS_BETWEEN_CHECKPOINTS * TASKS[workload],
      settings.rounds,
    )


class Pause(NamedTuple):
  """How long a large save holds up whoever asks for it."""

  bytes: int
  copy_seconds: float  # of all arrays to host memory
  pause_seconds: float  # until `save` returns
  written_seconds: float  # until it is on disk


def large_save(size: int, rounds: int) -> Pause:
  """Saves `size` numbers in 16 arrays."""
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
  header, *rows = _cells(figures)
  for name in header:
    table.add_column(name, justify='left' if name == 'what' else 'right')
  for row in rows:
    table.add_row(*row)
  yield table
  yield _said(pause)


def _cells(figures: Sequence[Figure]) -> list[list[str]]:
  rows = [
    [
      each.workload, each.what, f'{each.tasks_per_second:,.1f}',
      f'{each.of_the_first:.3f}',
    ]
    for each in figures
  ]  # fmt: skip
  return [['workload', 'what', 'tasks/s', 'of the first'], *rows]


def _said(pause: Pause) -> str:
  return (
    f'a save of {pause.bytes / 2**30:.2f} GiB returns after'
    f' {pause.pause_seconds:.2f} s (copying it takes'
    f' {pause.copy_seconds:.2f} s) and is on disk after'
    f' {pause.written_seconds:.1f} s'
  )


def run(settings: Settings) -> int:
  """Runs all measurements; with `worker`, what a process of them does."""
  use_compilation_cache(settings.cache_dir)
  if settings.worker:
    return work(settings.worker)
  workdir = Path(settings.workdir)
  make_directory(workdir)
  figures = list[Figure]()
  for workload in settings.workloads:
    figures += layouts(settings, workload)
    figures += checkpoints(settings, workload)
  pause = large_save(settings.size, min(settings.rounds, 3))
  console = rich.console.Console()
  for each in show(figures, pause):
    console.print(each, highlight=False)
  write_json(
    workdir / 'overheads.json',
    {
      'rows': [each._asdict() for each in figures],
      'large_save': pause._asdict(),
    },
  )
  of_measurement.write(
    workdir, settings,
    title='What devices, processes and checkpoints cost',
    lead='Training of MAML in several layouts, which take turns; the work is'
    ' the same.',
    cells=_cells(figures), names=2, caption='Medians over turns',
    notes=[_said(pause)],
  )  # fmt: skip
  return 0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
