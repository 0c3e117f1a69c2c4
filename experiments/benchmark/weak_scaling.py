"""Weak scaling, compiled ahead of time: one step for 1 to 256 chips.

  python -m experiments.weak_scaling

compiles the train step of `metajax.make_train_step(mesh=...)` for topologies of
TPUs that need not be here, with a fixed number of tasks per chip, and prints a
table in Markdown: what every chip computes, holds, and sends to the others. It
needs the compiler of TPUs (`pip install libtpu`) and takes no step.

What has to hold, or the exit code is 1: arithmetic per chip is the same for any
number of chips; what is exchanged is the parameters and a few metrics, once a
step, however many tasks there are; and nothing is exchanged inside of a loop.

The workdir receives `weak_scaling.json` and `report.html`, after every row.
"""

import importlib.metadata
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.scaling.judgement import (
  NAMES,
  cells,
  judge,
  table,
  verdict,
)
from experiments.benchmark.scaling.steps import WORKLOADS, Scaling, measure
from experiments.reports import of_measurement
from experiments.runner import flags, report
from experiments.runner.errors import UsageError, unwritable
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  Listed,
  Whole,
  setting,
  settings,
)
from experiments.runner.workdir import write_json

__all__ = ['GENERATIONS', 'Settings', 'run']

# Slices that Google Cloud has; the smallest v5p is one of four chips.
_SQUARES = ('1x1', '2x2', '4x4', '8x8', '16x16')
GENERATIONS = {
  'v5e': _SQUARES,
  'v5p': ('2x2x1', '2x2x4', '4x4x4', '4x8x8'),
  'v6e': _SQUARES,
}


@settings
class Settings(Base):
  """What is compiled, and for which slices."""

  generations: tuple[str, ...] = setting(
    tuple(GENERATIONS), Listed(), 'of TPUs',
    of='machine', resume=False, forwarded=False,
  )  # fmt: skip
  workloads: tuple[str, ...] = setting(
    tuple(WORKLOADS), Listed(), 'what is trained',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  max_chips: int = setting(
    256, Whole(), 'leave out slices of more chips than that',
    of='machine', resume=False, forwarded=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/weak_scaling', Place(), 'where the results go',
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip


def _chosen(setting: str, names: Sequence[str], known: Any) -> Sequence[str]:
  """The names that a setting has, if there are some, and all are known."""
  if not names:
    raise UsageError(setting, f'names none of {", ".join(known)}')
  for name in names:
    if name not in known:
      raise UsageError(setting, f'{name!r} is none of {", ".join(known)}')
  return names


def _plan(settings: Settings) -> Iterator[tuple[str, str, int]]:
  """Workloads, topologies and tasks per chip.

  After the slices of a generation comes the largest one again, with twice the
  tasks.
  """
  names = _chosen('workloads', settings.workloads, WORKLOADS)
  generations = _chosen('generations', settings.generations, GENERATIONS)
  for name in names:
    tasks = WORKLOADS[name].tasks_per_chip
    for generation in generations:
      topologies = [
        f'{generation}:{shape}'
        for shape in GENERATIONS[generation]
        if math.prod(map(int, shape.split('x'))) <= settings.max_chips
      ]
      for topology in topologies:
        yield name, topology, tasks
      for topology in topologies[-1:]:
        yield name, topology, 2 * tasks


def run(settings: Settings) -> int:
  """Compiles, prints and judges; exit code 1 if something does not hold."""
  plan = list(_plan(settings))
  if not plan:
    raise UsageError('max_chips', 'there is no slice as small as that')
  workdir, rows = Path(settings.workdir), list[Scaling]()
  for name, topology, tasks in plan:
    try:
      row = measure(name, WORKLOADS[name], topology, tasks)
    except UsageError as error:  # of --dry_run, which is not a flag here
      raise UsageError('generations', error.message) from error
    rows.append(row)
    print(
      f'{name}, {topology}, {row.tasks} tasks: compiled in'
      f' {row.compile_seconds:.1f} s',
      file=sys.stderr,
      flush=True,
    )
    _write(settings, workdir, rows)
  complaints = judge(rows)
  print(table(rows))
  print('\n'.join(complaints) or verdict(rows))
  return 1 if complaints else 0


def _write(settings: Settings, workdir: Path, rows: Sequence[Scaling]) -> None:
  complaints = judge(rows)
  libtpu = {'libtpu': importlib.metadata.version('libtpu')}
  outcome = {
    'versions': {**report.versions(), **libtpu},
    'rows': [row._asdict() for row in rows],
    'complaints': complaints,
  }
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / 'weak_scaling.json', outcome)
    of_measurement.write(
      workdir, settings,
      title='From one chip to a pod',
      lead='The arithmetic, memory and exchange of one outer step for every'
      ' chip, as the compiler of TPUs has them: tasks grow with the chips.',
      cells=cells(rows), names=NAMES, caption='By workload and slice',
      notes=complaints or [verdict(rows)], others=libtpu,
    )  # fmt: skip
  except OSError as error:
    raise unwritable('workdir', workdir, error) from error


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
