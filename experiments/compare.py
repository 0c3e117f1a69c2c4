"""Compares methods: trained for the same time, tested on the same tasks.

  python -m experiments.compare --dataset=omniglot --data_dir=DIR --methods=all
      --ways=5 --shots=1 --minutes_each=5

runs the experiment that learns from the data set (`experiments.images`,
`experiments.text`, or `experiments.sinusoid` for --dataset=sinusoid) once for
every method, with its published recipe, but for the outer rate: as the
published number of steps is out of reach, it falls to zero by a cosine, from
the `short_outer_lr` of the recipe where there is one. A short pilot measures
how many steps a method takes in the time that it has, and the run takes those,
so that the rate ends with it. The workdir receives a directory for every
method, `compare.json`, `compare.png`, `compare.md` and `report.html`; the same
command goes on with the methods that are left, after whatever stopped it.

  python -m experiments.compare --dataset=banking77 --data_dir=DIR
      --model_dir=DIR --methods=protonet,r2d2 --adaptations=lora,bias,head

compares what of a pretrained transformer adapts: a row for every method and
every adaptation.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments import images
from experiments.by_dataset import Learned, learned_from
from experiments.data.images import DataSetName, ImageData
from experiments.data.text import DATASETS as OF_TEXTS
from experiments.data.text import TextData
from experiments.figures.charts import comparison
from experiments.recipes.kinds import methods, published
from experiments.reports import of_methods
from experiments.runner import flags, runs, tables, tracking
from experiments.runner.common import Common, Tracked
from experiments.runner.compared import (
  Compared,
  curve_of,
  pilot_dispatch,
  pilot_of,
  row_of,
  seconds_per_step_of,
  table,
)
from experiments.runner.data_digest import SameData, data_flag
from experiments.runner.errors import UsageError, suggestion
from experiments.runner.more_losses import MoreLosses
from experiments.runner.paths import Place
from experiments.runner.plugins import import_plugins
from experiments.runner.progress import shown
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
from experiments.runner.transformers import (
  Transformer,
  check_adaptations,
  means,
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
_WRITTEN = ('compare.json', 'compare.md', 'compare.png', 'report.html')


@settings
class Settings(ImageData, TextData, Transformer, MoreLosses, Tracked):
  """What is compared, and for how long; the rest goes to every run."""

  dataset: str = setting(
    'strokes', DataSetName('sinusoid', *OF_TEXTS),
    f'{DataSetName.text}; {said(TextData)["dataset"].text}; or sinusoid',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  data_dir: str | None = setting(
    None, Place(), 'tensorflow-datasets directory, or folder of images or of'
    ' texts',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  data_file: str | None = setting(
    None, Place(), 'file of npz, csv or jsonl',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  # Which rows are made, not what they are.
  methods: tuple[str, ...] = setting(
    ('all',), Listed(), 'rows of the table, or all', of='machine', resume=True
  )
  adaptations: tuple[str, ...] = setting(
    (), Listed(),
    'what of a pretrained transformer is learned, as --adapt has it: each makes'
    ' a row of each method',
    of='machine', resume=True,
  )  # fmt: skip
  plugin: tuple[str, ...] = setting(
    (), Listed(),
    'modules, with commas between them, that register methods of their own'
    ' (metajax.algorithms.register)',
    of='machine', resume=True,
  )  # fmt: skip
  minutes_each: float = setting(
    5.0, Positive(), 'of training, without compilation, validation and the'
    ' features of what is frozen',
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
    ' published with [default: as many as --shots of images, or the recipe]',
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
  def learned(self) -> Learned:
    """The experiment of the data set."""
    return learned_from(self.dataset)

  def recipe(self, method: str) -> Recipe:
    """The published recipe of a method."""
    return published(self.learned.recipes, method, self.ways, self.shots)


class Compares(NamedTuple):
  """What a row of the table is of."""

  method: str
  adapt: str | None = None  # None: as all rows have it

  @property
  def name(self) -> str:
    """What the table calls it."""
    return ', '.join(filter(None, self))

  @property
  def folder(self) -> str:
    """Where its run lies."""
    return '-'.join(filter(None, self)).replace(':', '')


def run(settings: Settings) -> int:
  """Runs what is left, then shows all; exit code 1 if a method failed."""
  import_plugins(settings.plugin)
  _check_meaning(settings)
  chosen, workdir = _chosen(settings), Path(settings.workdir)
  runs.claim(workdir, settings)
  rows, failed = dict[Compares, Compared](), dict[str, str]()
  same = SameData()
  with shown('rows of the table') as progress:
    progress(0, len(chosen))
    for number, each in enumerate(chosen, 1):
      print(f'{each.name} ({number} of {len(chosen)})', flush=True)
      with runs.leave_on_sigterm(), runs.noted(failed, each.name):
        outcome = _outcome(settings, each, workdir, same)
        rows[each] = row_of(each.name, outcome, pilot_of(workdir, each.folder))
      _write(settings, workdir, rows, failed)
      progress(number, len(chosen))
  if rows:
    found = list(rows.values())
    tables.show(table(found), _NAMES, _title(settings, found[0]))
  tables.say(f'{workdir}: {", ".join(_WRITTEN if rows else _WRITTEN[:1])}')
  return 1 if failed else 0


def _check_meaning(settings: Settings) -> None:
  """Refuses settings that the experiment of the data set does not have.

  Those that it has are checked by each run.
  """
  known, usual = said(settings.learned.settings), Settings()
  kinds = (ImageData, TextData, Transformer, MoreLosses)
  of_data = {name for kind in kinds for name in said(kind)}
  for name in sorted({*of_data, 'ways', 'train_ways'}):
    value = getattr(settings, name)
    if name not in {*known, 'dataset'} and value != getattr(usual, name):
      raise UsageError(
        name,
        f'is {value}, but has no meaning for --dataset={settings.dataset}',
      )
  check_adaptations(settings)
  tracking.check(settings)


def _chosen(settings: Settings) -> list[Compares]:
  """The rows, all adaptations of a method together."""
  names = _methods(settings)
  adaptations = tuple(dict.fromkeys(settings.adaptations)) or (None,)
  return [Compares(name, adapt) for name in names for adapt in adaptations]


def _methods(settings: Settings) -> list[str]:
  able = methods(settings.learned.recipes)
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
  settings: Settings, row: Compares, workdir: Path, same: SameData
) -> dict[str, Any]:
  """What a method reached: read, if it is done already, or else run."""
  path = workdir / row.folder
  wait_until_free(path)
  if not runs.is_done(path):
    of_run = _settings_of(settings, row)
    if settings.recipe(row.method).steps:
      steps = _steps(settings, row, workdir, of_run, same)
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
  return settings.learned.experiment.__name__


def _settings_of(settings: Settings, compares: Compares) -> Common:
  """The settings of a run, but for how long it is."""
  method, adapt = compares
  recipe, row = settings.recipe(method), ALGORITHMS[method]
  cls = settings.learned.settings
  own, compared = said(cls), said(Settings)
  values: dict[str, Any] = {
    name: getattr(settings, name)
    for name, each in own.items()
    if each.forwarded and name in compared
  }
  values['queries'] = settings.queries
  if settings.learned.experiment is images and settings.queries is None:
    values['queries'] = settings.shots
  if adapt is not None:
    values['adapt'] = adapt
    # A setting of some adaptations is left out of the rows of others.
    values = {name: each for name, each in values.items() if means(name, adapt)}
  if row.head.kind == 'none':
    values |= {'network': None, 'width': None, 'depth': None}
  if recipe.steps and recipe.outer_schedule not in ANNEALED:
    # The published numbers of steps, at which rates are low, are out of reach.
    values['outer_schedule'] = 'cosine'
  if recipe.short_outer_lr is not None:
    values['outer_lr'] = recipe.short_outer_lr
  if settings.train_ways is not None and recipe.train_ways is not None:
    values['train_ways'] = settings.train_ways
  on_tasks = row.trains_on == 'tasks' and recipe.steps
  if values['queries'] and on_tasks and recipe.train_queries is None:
    # At test there may be other numbers of queries than it trains on.
    values['train_queries'] = recipe.queries
  return cls(algorithm=method, **values)


def _steps(
  settings: Settings,
  row: Compares,
  workdir: Path,
  of_run: Common,
  same: SameData,
) -> int:
  """How many steps fit the time, by a pilot; remembered, to go on with."""
  recipe, name = settings.recipe(row.method), row.folder
  plan = workdir / PLAN
  steps = read_record(plan, 'workdir') if plan.exists() else {}
  check_record(steps, dict.fromkeys(steps, (int,)), plan, 'workdir')
  if name not in steps:
    pilot = pilot_of(workdir, name)
    every = pilot_dispatch(recipe, of_run)
    length = 1 + _PILOT_DISPATCHES * every
    wait_until_free(pilot)
    # The rest of one that was stopped would be too short to measure.
    shutil.rmtree(pilot, ignore_errors=True)
    short = of_run.replace(
      steps=length, log_every=every, checkpoint_every=length, eval_tasks=2,
      validation_tasks=2, track=None, track_uri=None,
    )  # fmt: skip
    runs.start(_module(settings), short, pilot, resume=False)
    seconds = seconds_per_step_of(_read(settings, pilot, same))
    assert seconds is not None  # a whole pilot has measured it
    steps[name] = max(1, round(60 * settings.minutes_each / seconds))
    write_json(plan, steps)
  return int(steps[name])


def _write(
  settings: Settings,
  workdir: Path,
  rows: Mapping[Compares, Compared],
  failed: Mapping[str, str],
) -> None:
  found = list(rows.values())
  curves = {
    row.method: curve_of(workdir / each.folder, row)
    for each, row in rows.items()
  }
  records = [row.record() | {'curve': curves[row.method]} for row in found]
  write_json(workdir / 'compare.json', {'rows': records, 'failed': failed})
  if not rows:
    return
  write_text(workdir / 'compare.md', tables.markdown(table(found), _NAMES))
  comparison(
    workdir / 'compare.png',
    curves,
    {row.method: (row.train_seconds, row.value, row.ci95) for row in found},
    found[0].metric,
    _title(settings, found[0]),
  )
  of_methods.compared(
    workdir, settings, _title(settings, found[0]),
    {each.folder: row for each, row in rows.items()}, curves, failed,
  )  # fmt: skip


def _title(settings: Settings, row: Compared) -> str:
  ways = f'{row.ways}-way ' if row.ways else ''
  return (
    f'{settings.dataset}, {ways}{row.shots}-shot,'
    f' {settings.minutes_each:g} minutes each, {settings.eval_tasks} test tasks'
  )


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
