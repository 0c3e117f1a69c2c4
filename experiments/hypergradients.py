"""Hyper-parameters by gradient: what training depends on, learned.

  python -m experiments.hypergradients --problem=cleaning

learns a weight for each of 900 digits, half of whose labels are drawn at
random, by the gradient of the loss on 100 that are right. Other problems, all
on scikit-learn's digits (pip install -e '.[baselines]'):

  regularisation  a weight decay for each of 10,018 parameters
  augmentation    how far training images are to be turned, moved, and so on
  architecture    the cell of a small network, for each of two distributions
  loss            a loss for labels of which four tenths are wrong
  distillation    ten images to train on in place of 1,000

Each stands beside random search, of as many inner solutions and of as long,
and beside hyper-parameters that need no search. `--solve` is how the solution
of the inner problem is differentiated (docs/guides/bilevel.md).

The workdir receives `result.json`, `hypergradients.md`, `report.html` and
pictures; the same command goes on with the seed where it was stopped.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.bilevel import PROBLEMS
from experiments.bilevel.searching import Bench
from experiments.bilevel.seeds import of_seed
from experiments.bilevel.summary import (
  lines_of_convergence,
  summary,
  table,
)
from experiments.figures import hypergradients as figures
from experiments.reports import of_hypergradients
from experiments.runner import flags, runs, tables
from experiments.runner.cache import use_compilation_cache
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.records import RESULT, check_record, read_record
from experiments.runner.report import versions
from experiments.runner.settings import (
  Base,
  Finite,
  OneOf,
  Part,
  Positive,
  Whole,
  setting,
  settings,
)
from experiments.runner.workdir import write_json, write_text
from metajax.bilevel import SOLVES
from metajax.bilevel.solvers import LAST_STEPS
from metajax.runs.terminal import Stage

__all__ = ['Settings', 'main', 'run']


class _NotNegative(Finite):
  allowed = 'a finite number from 0'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return number >= 0


def _own(kind: Any, text: str, of: Part, default: str = 'the problem') -> Any:
  return setting(
    None, kind, f'{text} [default: {default}]', of=of, resume=False
  )


@settings
class Settings(Base):
  """Which problem, how it is differentiated, and for how long."""

  problem: str = setting(
    'cleaning', OneOf(list(PROBLEMS)), 'what is learned',
    of='tasks', resume=False,
  )  # fmt: skip
  solve: str = setting(
    'unrolled', OneOf(SOLVES), 'how the inner solution is differentiated',
    of='method', resume=False,
  )  # fmt: skip
  inner_steps: int | None = _own(Whole(), 'of the inner problem', 'method')
  inner_lr: float | None = _own(Positive(), 'of the inner problem', 'method')
  outer_steps: int | None = _own(
    Whole(), 'an inner solution and its gradient each', 'training'
  )
  outer_lr: float | None = _own(Positive(), 'of Adam', 'training')
  last_steps: int | None = _own(
    Whole(),
    'that truncated differentiates, of --inner_steps',
    'method',
    str(LAST_STEPS),
  )
  terms: int | None = _own(
    Whole(0), 'of the series of neumann, beyond the first', 'method', '10'
  )
  step_size: float | None = _own(
    Positive(), 'of the series of neumann', 'method', '0.1'
  )
  max_iterations: int | None = _own(
    Whole(), 'of conjugate gradients (implicit)', 'method', '100'
  )
  damping: float | None = _own(
    _NotNegative(), 'of the linear system (implicit)', 'method', '0'
  )
  tolerance: float = setting(
    1e-3, Positive(), 'norm of the inner gradient up to which an inner problem'
    ' counts as solved', of='test', resume=False,
  )  # fmt: skip
  seeds: int | None = _own(Whole(2), 'splits of the data', 'test')
  cache_dir: str | None = setting(
    None, Place(), "compiled programs [default: the user's cache directory]",
    of='machine', resume=True,
  )  # fmt: skip
  workdir: str | None = setting(
    None, Place(),
    'where the results go [default: runs/hypergradients-PROBLEM-SOLVE]',
    of='machine', resume=True,
  )  # fmt: skip


# The options of a way to differentiate, as `metajax.bilevel` has them.
_OPTIONS = ('last_steps', 'terms', 'step_size', 'max_iterations', 'damping')


def run(settings: Settings) -> dict[str, Any]:
  """Solves the problem on every seed, beside its rivals, and reports.

  Args:
    settings: all that is written is in its `workdir`, or in `runs`.

  Returns:
    What `result.json` holds.

  Raises:
    UsageError: if something is wrong with the settings, or what is needed is
      not installed.
  """
  kind = PROBLEMS[settings.problem]
  chosen: dict[str, Any] = {
    name: getattr(kind, name)
    if getattr(settings, name) is None
    else getattr(settings, name)
    for name in ('inner_lr', 'inner_steps', 'outer_lr', 'outer_steps', 'seeds')
  }
  seeds = chosen.pop('seeds')
  bench = _bench(settings, chosen)
  kind.data(0)  # which may not be there, before a place is taken
  workdir = _workdir(settings)
  runs.claim(workdir, settings, 'bilevel problem')
  use_compilation_cache(settings.cache_dir)
  with runs.alone(workdir):
    return _solved(settings, bench, chosen, seeds, workdir)


def _solved(
  settings: Settings,
  bench: Bench,
  chosen: dict[str, Any],
  seeds: int,
  workdir: Path,
) -> dict[str, Any]:
  """Solves what was not solved by an earlier start, and reports."""
  began, found = time.perf_counter(), []
  read = list[str]()
  what = f'{settings.problem}: learning and searching, {seeds} seeds'
  with shown(what, at_once=True) as progress:
    for seed in range(seeds):
      path = workdir / f'seed{seed}.json'
      if path.exists():
        found.append(_read(path, seed))
        read.append(path.name)
      else:
        each = of_seed(bench, seed, _told(progress, seed, seeds))
        found.append(write_json(path, each))
  kind = bench.kind
  outcome = {
    'problem': settings.problem,
    'about': kind.about,
    'solve': settings.solve,
    'settings': {**chosen, 'seeds': seeds, 'tolerance': settings.tolerance},
    'seconds': time.perf_counter() - began,
    'random_search': kind.random,
    'devices': jax.devices()[0].platform,
    'config': settings.given(),
    'versions': versions(),
    'not_kept': 'it learns hyper-parameters, and not how to adapt to a task',
  }
  try:
    outcome |= summary(found, settings.tolerance, settings.solve)
    outcome['seconds_of_seeds'] = sum(each['seconds'] for each in found)
    outcome = write_json(workdir / RESULT, outcome)
    _show(settings, outcome, workdir)
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    if not read:
      raise
    raise UsageError(
      'workdir',
      f'{workdir}: {" or ".join(read)} is damaged ({type(error).__name__});'
      ' remove it, and it is made again',
    ) from error
  return outcome


def _read(path: Path, seed: int) -> dict[str, Any]:
  """What a seed was found to reach, by an earlier start."""
  found = read_record(path, 'workdir')
  wanted: dict[str, tuple[type, ...]] = {
    'seed': (int,),
    'distributions': (dict,),
    'seconds': (float,),
  }
  check_record(found, wanted, path, 'workdir')
  if found['seed'] != seed:
    raise UsageError(
      'workdir', f'{path} is of seed {found["seed"]}; remove it, and it is made'
      ' again'
    )  # fmt: skip
  return found


def _show(settings: Settings, outcome: dict[str, Any], workdir: Path) -> None:
  """Writes the table, the pictures and the page."""
  cells = table(outcome)
  write_text(workdir / 'hypergradients.md', tables.markdown(cells))
  figures.outer(workdir / 'outer.png', outcome)
  figures.problem(workdir / f'{settings.problem}.png', outcome)
  of_hypergradients.write(workdir, settings, outcome, cells)


def _told(progress: Stage, seed: int, seeds: int) -> Callable[[int], None]:
  """Hundredths of a seed, as parts of all."""
  return lambda share: progress(100 * seed + share, 100 * seeds)


def _bench(settings: Settings, chosen: dict[str, Any]) -> Bench:
  options = {
    name: getattr(settings, name)
    for name in _OPTIONS
    if getattr(settings, name) is not None
  }
  try:
    return Bench(
      PROBLEMS[settings.problem], settings.solve, options=options, **chosen
    )
  except ValueError as error:
    name = str(error).split()[0]
    raise UsageError(
      name if name in options else 'solve', f'{error}; leave it out'
    ) from error


def _workdir(settings: Settings) -> Path:
  usual = f'runs/hypergradients-{settings.problem}-{settings.solve}'
  return Path(settings.workdir or usual)


def main(settings: Settings) -> int:
  """Runs, shows what was found, and says what has not converged."""
  # Operations of small networks are done before threads have been told of them.
  os.environ.setdefault('NPROC', '1')
  outcome = run(settings)
  tables.show(table(outcome))
  for line in lines_of_convergence(outcome):
    tables.say(line)
  tables.say(
    f'{_workdir(settings)}: {RESULT}, hypergradients.md, outer.png,'
    f' {settings.problem}.png, report.html'
  )
  if outcome['skipped_steps']:
    print(
      f'{outcome["skipped_steps"]} outer steps were not finite, and skipped;'
      ' lower --outer_lr or --inner_lr',
      file=sys.stderr,
    )
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, main))
