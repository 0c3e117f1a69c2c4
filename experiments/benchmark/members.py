"""Eight runs as one program, beside the same runs one after the other.

  python -m experiments.benchmark.members

measures a step of MAML on sine waves and on strokes, as its recipe has it: of a
single run, of eight seeds at once, and of eight outer rates at once. Each has a
process of its own, set up as the experiment sets it up; they take turns, and
figures are medians over the turns. The last column is of runs of 500 steps from
their start, most of which is compilation. The workdir receives `members.json`
and `report.html`.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments import STARTED, images, sinusoid
from experiments.reports import of_measurement
from experiments.runner import cluster, flags, seeds, tables
from experiments.runner.errors import UsageError
from experiments.runner.experiment import Experiment
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  Listed,
  OneOf,
  Whole,
  setting,
  settings,
)
from experiments.runner.workdir import make_directory, write_json

__all__ = ['KINDS', 'WORKLOADS', 'Settings', 'run']

# What is trained, and steps of a dispatch that is timed.
WORKLOADS: dict[str, tuple[Experiment, int]] = {
  'sinusoid': (sinusoid.EXPERIMENT, 2000),
  'strokes': (images.EXPERIMENT, 4),
}
KINDS = ('one', 'seeds', 'rates')
# Of a run whose start is counted, too: each of several that are not one program
# has a start of its own.
_STEPS = 500
_HEADER = [
  'workload', 'runs at once', 'ms a step of each', 'times as fast',
  'times less processor time', 'start, s', 'times as fast, with it',
]  # fmt: skip
_NAMES = 2  # columns that are no figures


@settings
class Settings(Base):
  """What is measured, and how often."""

  workloads: tuple[str, ...] = setting(
    tuple(WORKLOADS), Listed(), f'of {", ".join(WORKLOADS)}',
    of='machine', resume=False,
  )  # fmt: skip
  members: int = setting(
    8, Whole(2), 'runs at once', of='machine', resume=False
  )
  rounds: int = setting(5, Whole(), 'turns', of='machine', resume=False)
  only: str = setting(
    'all', OneOf(['all', *KINDS]),
    'measure this alone, in this process, once',
    of='machine', resume=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/members', Place(), 'where the results go',
    of='machine', resume=True,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Measures, and prints a table in Markdown."""
  if unknown := sorted({*settings.workloads} - WORKLOADS.keys()):
    raise UsageError(
      'workloads', f'{unknown[0]!r} is none of {", ".join(WORKLOADS)}'
    )
  if settings.only != 'all':
    print(json.dumps(_measured(settings, settings.workloads[0])), flush=True)
    return 0
  path = Path(settings.workdir)
  make_directory(path)
  found, cells = dict[str, Any](), [_HEADER]
  print(tables.markdown(cells, _NAMES), end='', flush=True)
  for workload in settings.workloads:
    turns = [
      {kind: _child(settings, workload, kind) for kind in KINDS}
      for _ in range(settings.rounds)
    ]
    found[workload] = turns
    rows = [_row(workload, kind, turns, settings.members) for kind in KINDS]
    print(tables.markdown_lines(rows), end='', flush=True)
    cells += rows
    write_json(path / 'members.json', found)
  of_measurement.write(
    path, settings,
    title='Several runs as one program',
    lead='Each run at once beside the same runs one after the other: they take'
    ' turns, in processes of their own.',
    cells=cells, names=_NAMES,
    caption='Medians over turns, and their range; with the start: of'
    f' {_STEPS} steps',
  )  # fmt: skip
  return 0


def _row(
  workload: str,
  kind: str,
  turns: list[dict[str, dict[str, float]]],
  members: int,
) -> list[str]:
  """A row of the table: medians over the turns, ratios within one."""
  number = 1 if kind == 'one' else members
  name = '1' if kind == 'one' else f'{members} {kind}'
  step, start = (
    statistics.median(turn[kind][each] for turn in turns)
    for each in ('step', 'start')
  )
  cells = [f'{1e3 * step / number:.3g}']
  for each in ('step', 'processor'):
    ratios = sorted(
      number * turn['one'][each] / turn[kind][each] for turn in turns
    )
    middle = statistics.median(ratios)
    shown = f'{middle:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})'
    cells.append(shown if number > 1 else '')
  whole = statistics.median(
    number * _whole(turn['one']) / _whole(turn[kind]) for turn in turns
  )
  return [
    workload, name, *cells, f'{start:.1f}', f'{whole:.2f}' if number > 1 else ''
  ]  # fmt: skip


def _whole(found: dict[str, float]) -> float:
  """Seconds of a short run, from its start."""
  return found['start'] + _STEPS * found['step']


def _child(settings: Settings, workload: str, kind: str) -> dict[str, float]:
  ended = subprocess.run(
    [
      sys.executable, '-m', 'experiments.benchmark.members', f'--only={kind}',
      f'--workloads={workload}', f'--members={settings.members}',
    ],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )  # fmt: skip
  found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
  return found


def _measured(settings: Settings, workload: str) -> dict[str, float]:
  """Seconds of a step of all runs, and to the end of the first one."""
  experiment, steps = WORKLOADS[workload]
  kind = settings.only
  members = 0 if kind == 'one' else settings.members
  given = experiment.settings(seeds=members or 1)
  recipe = experiment.recipe(given)
  number, of = (
    (members, 'seeds') if members else (recipe.tasks_per_step, 'tasks_per_step')
  )
  if not members and experiment.small_operations:
    cluster.single_thread(given)
  cluster.divide_cpu(given, number, of)

  import jax
  import jax.numpy as jnp
  import optax

  import metajax

  problem = experiment.problem(given, recipe)
  optimizer: Any = optax.adam(recipe.outer_lr)
  if kind == 'rates':
    rates = jnp.geomspace(1e-4, 1e-2, members)
    optimizer = metajax.Varied(optax.adam, rates)
  train = metajax.make_train_step(
    problem.meta_learner(),
    optimizer,
    problem.train,
    tasks_per_step=recipe.tasks_per_step,
    members=members or None,
    mesh=cluster.make_mesh(given, number, of),
  )
  state = train.init(seeds.initial_keys(given))
  state, _ = jax.block_until_ready(train.run(state, 1))
  start = time.perf_counter() - STARTED
  times, processor = [], time.process_time()
  for _ in range(3):
    begun = time.perf_counter()
    state, _ = jax.block_until_ready(train.run(state, steps))
    times.append((time.perf_counter() - begun) / steps)
  busy = (time.process_time() - processor) / (len(times) * steps)
  return {'step': min(times), 'processor': busy, 'start': start}


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
