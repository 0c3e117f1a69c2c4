"""Compares methods: trained for the same time, tested on the same tasks.

  python -m experiments.compare --dataset=omniglot --data_dir=DIR --methods=all
      --ways=5 --shots=1 --minutes_each=5

runs `experiments.images` (or `experiments.sinusoid`, for --dataset=sinusoid)
once for every method, with its published recipe, but for the outer rate: as the
published number of steps is out of reach, it falls to zero by a cosine, from
the `short_outer_lr` of the recipe where there is one. A short pilot measures
how many steps a method takes in the time that it has, and the run takes those,
so that the rate ends with it. The workdir receives a directory for every
method, `compare.json`, `compare.png` and `compare.md`; the same command goes on
with the methods that are left, after whatever stopped it.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import images, sinusoid
from experiments.data.images import ImageData, check_meaning, dataset
from experiments.figures.charts import comparison
from experiments.recipes import images as on_images
from experiments.recipes import regression as on_waves
from experiments.recipes.kinds import methods, published
from experiments.runner import flags, runs, tables
from experiments.runner.common import Common
from experiments.runner.compared import (
  Compared,
  curve_of,
  pilot_of,
  row_of,
  seconds_per_step_of,
  table,
)
from experiments.runner.data_digest import SameData, data_flag
from experiments.runner.errors import UsageError, suggestion
from experiments.runner.paths import Place
from experiments.runner.plugins import import_plugins
from experiments.runner.records import PLAN, check_record, read_record
from experiments.runner.settings import (
  Listed,
  OneOf,
  Positive,
  Whole,
  said,
  setting,
  settings,
)
from experiments.runner.workdir import wait_until_free, write_json, write_text
from metajax.algorithms.recipe import ANNEALED, Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.models.encoders import ENCODERS

__all__ = ['Settings', 'run']


# Dispatches of a pilot after the first one, which compiles.
_PILOT_DISPATCHES = 8
_VALIDATIONS = 10  # in a run
_NAMES = 2  # columns of the table that are no figures
_WRITTEN = ('compare.json', 'compare.md', 'compare.png')


@settings
class Settings(ImageData):
  """What is compared, and for how long; the rest goes to every run."""

  dataset: str = dataset('sinusoid')
  # Which rows are made, not what they are.
  methods: tuple[str, ...] = setting(
    ('all',), Listed(), 'rows of the table, or all', of='machine', resume=True
  )
  plugin: tuple[str, ...] = setting(
    (), Listed(),
    'modules, with commas between them, that register methods of their own'
    ' (metajax.algorithms.register)',
    of='machine', resume=True,
  )  # fmt: skip
  minutes_each: float = setting(
    5.0, Positive(), 'of training, without compilation and validation',
    of='training', resume=False,
  )  # fmt: skip
  ways: int = setting(
    5, Whole(2), 'classes per test task', of='tasks', resume=False
  )
  shots: int = setting(
    1, Whole(), 'support examples per class', of='test', resume=False
  )
  queries: int | None = setting(
    None, Whole(), 'query examples per class at test; to what shares batch'
    ' statistics over them, their number matters, and methods by gradient are'
    ' published with [default: as many as --shots]',
    of='test', resume=False,
  )  # fmt: skip
  train_ways: int | None = setting(
    None, Whole(2), 'classes per training task of methods that have more of'
    ' them than at test [default: the recipe]',
    of='training', resume=False,
  )  # fmt: skip
  network: str | None = setting(
    None, OneOf(lambda: list(ENCODERS)),
    'what every method adapts, but for the head [default: the recipe]',
    of='method', resume=False,
  )  # fmt: skip
  width: int | None = setting(
    None, Whole(), 'of the network: channels of every convolution, or units of'
    ' every layer [default: the recipe]',
    of='method', resume=False,
  )  # fmt: skip
  depth: int | None = setting(
    None, Whole(), 'of the network, where it has a choice'
    ' [default: the recipe]',
    of='method', resume=False,
  )  # fmt: skip
  seed: int = setting(
    0, Whole(0), 'of everything random', of='training', resume=False
  )
  eval_tasks: int = setting(
    1000, Whole(2), 'test tasks', of='test', resume=False
  )
  validation_tasks: int = setting(
    100, Whole(2), 'validation tasks', of='training', resume=False
  )
  cache_dir: str | None = setting(
    None, Place(), "compiled programs [default: the user's cache directory]",
    of='machine', resume=True,
  )  # fmt: skip
  workdir: str = setting(
    'runs/compare', Place(), 'where the results go', of='machine', resume=True
  )

  @property
  def on_images(self) -> bool:
    """Whether it is images that are learned from."""
    return self.dataset != 'sinusoid'

  def recipe(self, method: str) -> Recipe:
    """The published recipe of a method."""
    return published(self.kind, method, self.ways, self.shots)

  @property
  def kind(self) -> Any:
    """The recipes of what is learned from."""
    return on_images if self.on_images else on_waves


def run(settings: Settings) -> int:
  """Runs what is left, then shows all; exit code 1 if a method failed."""
  import_plugins(settings.plugin)
  if not settings.on_images:  # runs on images check these themselves
    check_meaning(settings, allowed=frozenset())
  chosen, workdir = _chosen(settings), Path(settings.workdir)
  runs.claim(workdir, settings)
  rows, failed, same = list[Compared](), dict[str, str](), SameData()
  for number, method in enumerate(chosen, 1):
    print(f'{method} ({number} of {len(chosen)})', flush=True)
    with runs.leave_on_sigterm(), runs.noted(failed, method):
      outcome = _outcome(settings, method, workdir, same)
      rows.append(row_of(method, outcome, workdir))
    _write(settings, workdir, rows, failed)
  if rows:
    tables.show(table(rows), _NAMES, _title(settings, rows[0]))
  print(f'{workdir}: {", ".join(_WRITTEN if rows else _WRITTEN[:1])}')
  return 1 if failed else 0


def _chosen(settings: Settings) -> list[str]:
  able = methods(settings.kind)
  if settings.methods == ('all',):
    return able
  if not settings.methods:
    raise UsageError('methods', 'names no method; give some, or all')
  for name in settings.methods:
    if name not in able:
      raise UsageError(
        'methods',
        f'{name!r} is no method for {settings.dataset}; they are'
        f' {", ".join(able)}, or all{suggestion(name, able)}',
      )
  return list(dict.fromkeys(settings.methods))


def _outcome(
  settings: Settings, method: str, workdir: Path, same: SameData
) -> dict[str, Any]:
  """What a method reached: read, if it is done already, or else run."""
  path = workdir / method
  wait_until_free(path)
  if not runs.is_done(path):
    of_run = _settings_of(settings, method)
    if settings.recipe(method).steps:
      steps = _steps(settings, method, workdir, of_run, same)
      of_run = of_run.replace(
        steps=steps, checkpoint_every=max(1, -(-steps // _VALIDATIONS))
      )
    runs.start(_module(settings), of_run, path, resume=True)
  return _read(settings, path, same)


def _read(settings: Settings, path: Path, same: SameData) -> dict[str, Any]:
  """What a run has found, on the data of all others."""
  outcome = runs.read(path)
  same.check(str(path), outcome['config'], data_flag(settings)[0])
  return outcome


def _module(settings: Settings) -> str:
  """The experiment that trains."""
  return f'experiments.{"images" if settings.on_images else "sinusoid"}'


def _settings_of(settings: Settings, method: str) -> Common:
  """The settings of a run, but for how long it is."""
  recipe, row = settings.recipe(method), ALGORITHMS[method]
  cls = images.Settings if settings.on_images else sinusoid.Settings
  compared = said(Settings)
  values: dict[str, Any] = {
    name: getattr(settings, name)
    for name, each in said(cls).items()
    if each.forwarded and name in compared
  }
  if row.head.kind == 'none':
    values |= {'network': None, 'width': None, 'depth': None}
  if recipe.steps and recipe.outer_schedule not in ANNEALED:
    # The published numbers of steps, at which rates are low, are out of reach.
    values['outer_schedule'] = 'cosine'
  if recipe.short_outer_lr is not None:
    values['outer_lr'] = recipe.short_outer_lr
  if settings.on_images:
    values['queries'] = settings.queries or settings.shots
    if settings.train_ways is not None and recipe.train_ways is not None:
      values['train_ways'] = settings.train_ways
    on_tasks = row.trains_on == 'tasks'
    if on_tasks and recipe.steps and recipe.train_queries is None:
      # At test there may be other numbers of queries than it trains on.
      values['train_queries'] = recipe.queries
  return cls(algorithm=method, **values)


def _steps(
  settings: Settings,
  method: str,
  workdir: Path,
  of_run: Common,
  same: SameData,
) -> int:
  """How many steps fit the time, by a pilot; remembered, to go on with."""
  recipe = settings.recipe(method)
  plan = workdir / PLAN
  steps = read_record(plan, 'workdir') if plan.exists() else {}
  check_record(steps, dict.fromkeys(steps, (int,)), plan, 'workdir')
  if method not in steps:
    pilot = pilot_of(workdir, method)
    every = min(recipe.log_every, 10) if recipe.log_every < 100 else 1000
    length = 1 + _PILOT_DISPATCHES * every
    wait_until_free(pilot)
    # The rest of one that was stopped would be too short to measure.
    shutil.rmtree(pilot, ignore_errors=True)
    short = of_run.replace(
      steps=length,
      log_every=every,
      checkpoint_every=length,
      eval_tasks=2,
      validation_tasks=2,
    )
    runs.start(_module(settings), short, pilot, resume=False)
    seconds = seconds_per_step_of(_read(settings, pilot, same))
    assert seconds is not None  # a whole pilot has measured it
    steps[method] = max(1, round(60 * settings.minutes_each / seconds))
    write_json(plan, steps)
  return int(steps[method])


def _write(
  settings: Settings,
  workdir: Path,
  rows: Sequence[Compared],
  failed: Mapping[str, str],
) -> None:
  curves = {row.method: curve_of(workdir / row.method, row) for row in rows}
  records = [row.record() | {'curve': curves[row.method]} for row in rows]
  write_json(workdir / 'compare.json', {'rows': records, 'failed': failed})
  if not rows:
    return
  write_text(workdir / 'compare.md', tables.markdown(table(rows), _NAMES))
  comparison(
    workdir / 'compare.png',
    curves,
    {row.method: (row.train_seconds, row.value, row.ci95) for row in rows},
    rows[0].metric,
    _title(settings, rows[0]),
  )


def _title(settings: Settings, row: Compared) -> str:
  ways = f'{row.ways}-way ' if row.ways else ''
  return (
    f'{settings.dataset}, {ways}{row.shots}-shot,'
    f' {settings.minutes_each:g} minutes each, {settings.eval_tasks} test tasks'
  )


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
