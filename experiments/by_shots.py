"""Tests trained runs from few examples and from many.

  python -m experiments.by_shots --shots=1,2,5,10
      --runs=runs/compare/maml,runs/compare/transfer,runs/compare/multi_task

shows from how many examples per class of a new task learning to learn beats
learning many tasks at once, and learning a new task from old weights: runs of
`experiments.images` or of `experiments.text` that were trained for the same
time (`experiments.compare`) are tested on the same tasks, again for every
number of examples. Nothing is trained. The workdir receives `by_shots.json`,
`by_shots.md`, `by_shots.png` and `report.html`; the same command goes on where
it was stopped.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.by_dataset import learned_from
from experiments.figures import charts
from experiments.reports import of_methods
from experiments.runner import flags, runs, tables
from experiments.runner.common import Common
from experiments.runner.data_digest import DIGEST_ENTRY, SameData
from experiments.runner.differences import check_one_seed, settings_kept
from experiments.runner.errors import UsageError, printable
from experiments.runner.paths import Place, Places
from experiments.runner.progress import shown
from experiments.runner.records import RECORD, check_record, read_record
from experiments.runner.settings import (
  Base,
  Listed,
  Whole,
  said,
  setting,
  settings,
)
from experiments.runner.workdir import wait_until_free, write_json, write_text
from metajax.algorithms.table import ALGORITHMS
from metajax.metric import ACCURACY

__all__ = ['Settings', 'Tested', 'run', 'table']

_WRITTEN = ('by_shots.json', 'by_shots.md', 'by_shots.png', 'report.html')


@settings
class Settings(Base):
  """Which runs are tested, and from how many examples."""

  # Which rows are made, not what they are.
  runs: tuple[str, ...] = setting(
    (), Places(), 'workdirs of trained runs', of='machine', resume=True
  )
  shots: tuple[str, ...] = setting(
    ('1', '2', '5', '10'), Listed(), 'examples per class',
    of='machine', resume=True,
  )  # fmt: skip
  queries: int = setting(
    5, Whole(), 'query examples per class; what shares batch statistics over'
    ' them gains from more',
    of='test', resume=False,
  )  # fmt: skip
  eval_tasks: int = setting(
    200, Whole(2), 'test tasks', of='test', resume=False
  )
  cache_dir: str | None = setting(
    None, Place(), "compiled programs [default: the user's cache directory]",
    of='machine', resume=True,
  )  # fmt: skip
  workdir: str = setting(
    'runs/by_shots', Place(), 'where the results go',
    of='machine', resume=True,
  )  # fmt: skip


class Tested(NamedTuple):
  """One run from one number of examples; the first two are shares."""

  run: str
  shots: int
  accuracy: float
  ci95: float


def run(settings: Settings) -> int:
  """Tests what is left, then shows all; exit code 1 if a test failed."""
  same = SameData()
  shots, configs = _shots(settings), _configs(settings, same)
  workdir = Path(settings.workdir)
  runs.claim(workdir, settings)
  rows, failed = list[Tested](), dict[str, str]()
  tests = list(itertools.product(configs.items(), shots))
  with shown('tests') as progress:
    progress(0, len(tests))
    for number, ((name, (path, config)), examples) in enumerate(tests, 1):
      label = f'{name}, {examples} examples per class'
      print(printable(label), flush=True)
      with runs.leave_on_sigterm(), runs.noted(failed, label):
        outcome = _outcome(settings, workdir, path, config, examples)
        test = str(_test_of(workdir, path, examples))
        same.check(test, outcome['config'], 'workdir')
        rows.append(_row(name, examples, outcome))
      _write(settings, workdir, rows, failed, config)
      progress(number, len(tests))
  tables.show(table(rows))
  tables.say(f'{workdir}: {", ".join(_WRITTEN)}')
  return 1 if failed else 0


def _shots(settings: Settings) -> list[int]:
  try:
    shots = sorted({int(text) for text in settings.shots})
  except ValueError:
    shots = []
  if not shots or shots[0] < 1:
    raise UsageError(
      'shots',
      f'{",".join(settings.shots)!r} must be whole numbers from 1, with commas'
      ' between them',
    )
  return shots


def _configs(
  settings: Settings, same: SameData
) -> dict[str, tuple[Path, dict[str, Any]]]:
  """The workdirs and settings of the runs, by their names."""
  if not settings.runs:
    raise UsageError('runs', 'names no run; give workdirs of trained ones')
  configs = dict[str, tuple[Path, dict[str, Any]]]()
  for path in map(Path, settings.runs):
    if path.name in configs:
      raise UsageError('runs', f'two are called {path.name}; rename one')
    configs[path.name] = path, _config(path)
  (first, (_, reference)), *others = configs.items()
  for name, (_, config) in others:
    for shared in _of_tasks(reference):
      if config.get(shared) != reference.get(shared):
        raise UsageError(
          'runs', f'{first} and {name} have other tasks: --{shared} is'
          f' {reference.get(shared)!r} and {config.get(shared)!r}'
        )  # fmt: skip
  for path, config in configs.values():
    same.check(str(path), config, 'runs')
  return configs


def _config(path: Path) -> dict[str, Any]:
  record = path / RECORD
  if not record.exists():
    raise UsageError('runs', f'{path} is no workdir of a run; name others')
  config = read_record(record, 'runs')
  if not runs.is_done(path):
    raise UsageError(
      'runs', f'{path} has not come to its end; go on with it first'
    )
  if 'dataset' not in config:
    raise UsageError(
      'runs', f'{path} is no run of experiments.images or experiments.text'
    )
  wanted = {
    'dataset': (str,), 'ways': (int,), 'steps': (int,), **DIGEST_ENTRY
  }  # fmt: skip
  check_record(config, wanted, record, 'runs')
  check_one_seed(config, path, 'runs')
  try:
    _kept(config)
  except UsageError as error:
    raise UsageError('runs', f'{record}: {error}') from error
  return config


def _kept(config: Mapping[str, Any]) -> Common:
  """What a test has of the settings of a run."""
  kind = learned_from(config['dataset']).settings
  kept = kind(**settings_kept(config, kind))
  if ALGORITHMS[kept.algorithm].head.kind == 'none':
    return kept.replace(network=None, width=None, depth=None)
  return kept


def _of_tasks(config: Mapping[str, Any]) -> list[str]:
  """The settings of the experiment of a run that say what its tasks are."""
  known = said(learned_from(config['dataset']).settings)
  return [name for name, each in known.items() if each.of == 'tasks']


def _outcome(
  settings: Settings,
  workdir: Path,
  path: Path,
  config: Mapping[str, Any],
  shots: int,
) -> dict[str, Any]:
  """What a test found: read, if it is done already, or else made."""
  test = _test_of(workdir, path, shots)
  wait_until_free(test)
  if not runs.is_done(test):
    try:
      of_test = _settings_of(settings, path, config, shots)
    except UsageError as error:
      raise runs.FailedError(str(error)) from error
    experiment = learned_from(config['dataset']).experiment.__name__
    runs.start(experiment, of_test, test, resume=True)
  return runs.read(test)


def _test_of(workdir: Path, path: Path, shots: int) -> Path:
  """The workdir of a test."""
  return workdir / path.name / f'{shots}_shots'


def _settings_of(
  settings: Settings, path: Path, config: Mapping[str, Any], shots: int
) -> Common:
  """The settings of a test: what the run has learned, from which tasks."""
  trained = config['steps'] != 0  # what needs no training loads nothing
  return _kept(config).replace(
    shots=shots,
    queries=settings.queries,
    eval_tasks=settings.eval_tasks,
    cache_dir=settings.cache_dir,
    load=str(path) if trained else None,
    load_share=1.0,
    test_only=trained,
  )


def _row(name: str, shots: int, outcome: Mapping[str, Any]) -> Tested:
  test = outcome['test']
  return Tested(name, shots, test['accuracy'], test['ci95'])


def _write(
  settings: Settings,
  workdir: Path,
  rows: Sequence[Tested],
  failed: Mapping[str, str],
  config: Mapping[str, Any],
) -> None:
  records = [row._asdict() for row in rows]
  write_json(
    workdir / 'by_shots.json',
    {
      'dataset': config['dataset'],
      'ways': config['ways'],
      'queries_per_class': settings.queries,
      'test_tasks': settings.eval_tasks,
      'rows': records,
      'failed': failed,
    },
  )
  write_text(workdir / 'by_shots.md', tables.markdown(table(rows)))
  if not rows:
    return
  results = {
    name: [(row.shots, row.accuracy, row.ci95) for row in of_run]
    for name, of_run in _by_run(rows).items()
  }
  title = (
    f'{config["dataset"]}, {config["ways"]}-way, {settings.queries} queries per'
    f' class, {settings.eval_tasks} test tasks'
  )
  charts.by_shots(workdir / 'by_shots.png', results, ACCURACY, title)
  of_methods.by_shots(
    workdir, settings, title, results,
    {path.name: path for path in map(Path, settings.runs)}, table(rows),
    ACCURACY, failed,
  )  # fmt: skip


def _by_run(rows: Sequence[Tested]) -> dict[str, list[Tested]]:
  """Rows of each run, the run first that is best from the fewest examples."""
  grouped = dict[str, list[Tested]]()
  for row in rows:
    grouped.setdefault(row.run, []).append(row)
  return dict(sorted(grouped.items(), key=lambda item: -item[1][0].accuracy))


def table(rows: Sequence[Tested]) -> list[list[str]]:
  """The header, and a line for every run."""
  shots = sorted({row.shots for row in rows})
  table = [['run', *(f'{examples}-shot %' for examples in shots)]]
  for name, of_run in _by_run(rows).items():
    cells = {row.shots: _cell(row) for row in of_run}
    table.append([name, *(cells.get(examples, '') for examples in shots)])
  return table


def _cell(row: Tested) -> str:
  return ACCURACY.format_interval(row.accuracy, row.ci95)


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
