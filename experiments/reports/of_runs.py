"""The page of several runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from experiments.reports import page, pieces
from experiments.reports.again import flag, said
from experiments.reports.curves import by_step, learning_curve
from experiments.reports.measures import label_of, shown
from experiments.reports.of_comparison import best_of, linked, results
from experiments.reports.of_run import DATA, Run, read, title
from experiments.reports.page import Section
from experiments.reports.scales import count
from experiments.runner.data_digest import DIGEST
from experiments.runner.errors import UsageError
from experiments.runner.over_tasks import number_tested
from experiments.runner.records import RECORD
from metajax.metric import Metric

__all__ = ['write']

# What says which tasks are drawn, of a protocol.
_NOT_OF_TASKS = {'evaluation', 'precision'}
# What may differ in a protocol, and results are compared as well.
_COMPARABLE = {'precision', 'test_tasks'}
# Settings of a machine, which explain no difference.
_UNTOLD = {'workdir', 'cache_dir', 'resume', 'data_dir', DIGEST}


def write(workdirs: Sequence[Path], folder: Path) -> Path:
  """Writes a page of several runs.

  Args:
    workdirs: of the runs.
    folder: where the page goes.

  Raises:
    UsageError: if one of them is no run that has ended, or is damaged; if
      they measured different things; if the folder is that of a run.
  """
  if (folder / RECORD).exists():
    raise UsageError(
      'workdir', f'{folder} holds a run, with a page of its own; name another'
    )
  read_runs = [read(each, 'runs') for each in workdirs]
  first, *others = (run.metric.name for run in read_runs)
  for path, name in zip(workdirs[1:], others, strict=True):
    if name != first:
      raise UsageError(
        'runs', f'{workdirs[0]} was judged by {first}, and {path} by {name};'
        ' give runs that were judged by the same'
      )  # fmt: skip
  runs = dict(zip(_names(workdirs), read_runs, strict=True))
  try:
    text = _page(runs, dict(zip(runs, workdirs, strict=True)), folder)
  except page.DAMAGED as error:
    raise UsageError(
      'runs',
      f'a record of these is damaged ({type(error).__name__}: {error}); restore'
      ' it, or leave it out',
    ) from error
  folder.mkdir(parents=True, exist_ok=True)
  return page.write(folder, text)


def _names(workdirs: Sequence[Path]) -> list[str]:
  names = [each.resolve().name for each in workdirs]
  if len(set(names)) < len(names):
    names = [str(each) for each in workdirs]
  if len(set(names)) < len(names):
    raise UsageError('runs', 'names one twice; leave it out')
  return names


def _page(
  runs: Mapping[str, Run], workdirs: Mapping[str, Path], folder: Path
) -> str:
  (_, first), *_ = runs.items()
  metric = first.metric
  ranked = sorted(
    runs, key=lambda name: metric.sort_key(_value(runs[name], metric))
  )
  best = runs[ranked[0]].outcome['test']
  titles = list(dict.fromkeys(title(run) for run in runs.values()))
  headline = best_of(
    ranked[0], count(len(runs), 'run'), metric, best[metric.name], best['ci95'],
    _not_alike(runs),
  )  # fmt: skip
  return page.page(
    'Runs of metajax, side by side',
    ' and '.join(titles) if len(titles) < 3 else f'{len(runs)} runs',
    f'{count(len(runs), "run")}: {", ".join(runs)}.',
    headline,
    [
      each
      for each in (
        _results(runs, ranked, workdirs, folder),
        _paired(runs),
        _curves(runs, metric),
        _differing(runs),
      )
      if each.body
    ],
  )


def _value(run: Run, metric: Metric) -> float:
  value = run.outcome['test'][metric.name]
  return float('nan') if value is None else float(value)


def _results(
  runs: Mapping[str, Run],
  ranked: Sequence[str],
  workdirs: Mapping[str, Path],
  folder: Path,
) -> Section:
  metric = runs[ranked[0]].metric
  cells: list[list[Any]] = [
    [
      'run', 'method', label_of(metric), 'before', 'steps', 'training, s',
      'parameters', 'test tasks',
    ]
  ]  # fmt: skip
  for name in ranked:
    outcome, test = runs[name].outcome, runs[name].outcome['test']
    before = test.get(f'{metric.name}_before')
    cells.append(
      [
        linked(name, workdirs[name], folder),
        outcome['algorithm'],
        shown(metric, test[metric.name], test['ci95']),
        '' if before is None else metric.format(before),
        f'{outcome["steps"]:,}',
        f'{outcome["training_seconds"]:.0f}',
        f'{outcome["parameters"]:,}',
        f'{number_tested(runs[name].protocol) or 0:,}',
      ]
    )
  chart = results(
    [
      (name, test[metric.name], test['ci95'])
      for name in ranked
      for test in (runs[name].outcome['test'],)
    ],
    metric,
  )
  table = pieces.table(cells, 'Results at test, the best first', names=2)
  return Section('Results', chart + table + _caution(runs))


def _caution(runs: Mapping[str, Run]) -> Markup:
  """Says in what protocols differ: results are not to be compared then."""
  protocols = [run.protocol for run in runs.values()]
  names = dict.fromkeys(name for each in protocols for name in each)
  differ = [
    name.replace('_', ' ')
    for name in names
    if name not in _COMPARABLE
    and any(each.get(name) != protocols[0].get(name) for each in protocols)
  ]
  if not differ:
    return Markup('')
  return pieces.paragraph(
    f'These were not tested alike, but with another {", ".join(differ)}. A'
    ' higher accuracy or a lower error may be that of an easier test.'
  )


def _not_alike(runs: Mapping[str, Run]) -> str:
  """What the headline says where the best may be that of an easier test."""
  (_, first), *others = runs.items()
  differ = dict.fromkeys(
    each for _, run in others for each in _other_tests(run, first)
  )
  if not differ:
    return ''
  return (
    f'; these runs were not tested alike ({"; ".join(differ)}), so that it may'
    ' be the best for that reason'
  )


def _other_tests(run: Run, base: Run) -> list[str]:
  """In what the tests of two runs differ; precision aside, as above."""
  names = dict.fromkeys([*base.protocol, *run.protocol])
  found = [
    f'{name.replace("_", " ")}: {_told(base, name)} against {_told(run, name)}'
    for name in names
    if name != 'precision' and base.protocol.get(name) != run.protocol.get(name)
  ]
  if not found and _tasks_of(run) != _tasks_of(base):
    found.append('other data at test')
  return found


def _told(run: Run, name: str) -> str:
  value = run.protocol.get(name)
  return 'none' if value is None else str(value)


def _paired(runs: Mapping[str, Run]) -> Section:
  """Differences to the first run on the same tasks, or why there is none."""
  (base, first), *others = runs.items()
  metric, rows, notes = first.metric, list[list[str]](), list[Markup]()
  for name, run in others:
    named = f'{_with_seed(name, run)} minus {_with_seed(base, first)}'
    if reason := _unpaired(run, first):
      notes.append(
        pieces.paragraph(f'There is none of {named}, as {reason}.')
      )  # fmt: skip
      continue
    a, b = _values(run), _values(first)
    difference = (a - b).mean()
    # As `metajax.confidence_interval` has it, which would want a device.
    half = 1.96 * (a - b).std(ddof=1) / len(a) ** 0.5
    sure = 'yes' if abs(difference) > half else 'no'
    sign = '+' if difference > 0 else ''
    rows.append(
      [named, f'{sign}{metric.format_interval(difference, half)}', sure]
    )
  table = Markup('')
  if rows:
    table = pieces.table(
      [['runs', metric.heading, 'more than chance'], *rows],
      'The mean difference over test tasks, which both runs had, with its 95%'
      ' interval: narrower than those of the two, as a hard task is hard for'
      ' both',
    )
  return Section('Difference on the same tasks', table + pieces.join(notes))


def _unpaired(run: Run, base: Run) -> str:
  """Why two runs have no difference on the same tasks; empty if they have."""
  if _tasks_of(run) != _tasks_of(base):
    differ = '; '.join(_other_tests(run, base))
    return f'their test tasks are not the same ({differ})'
  if not (run.data and base.data):
    return f'a workdir lacks {DATA}, which has the value of each task'
  a, b = _values(run), _values(base)
  if a.shape != b.shape:
    return f'their numbers of values differ ({len(b)} against {len(a)})'
  if len(a) < 2:
    return 'one task has no interval'
  if not np.isfinite(a - b).all():
    return 'some of their values are not finite'
  return ''


def _values(run: Run) -> np.ndarray:
  return np.array((run.data or {})['values'], np.float64)


def _with_seed(name: str, run: Run) -> str:
  """The name of a run, with the seed whose values are known of several."""
  seed = (run.data or {}).get('seed')
  return name if seed is None else f'{name} (seed {seed} alone)'


def _tasks_of(run: Run) -> Any:
  protocol = {
    name: value
    for name, value in run.protocol.items()
    if name not in _NOT_OF_TASKS
  }
  digest = run.config.get(DIGEST)
  return protocol, digest and digest.get('test')


def _curves(runs: Mapping[str, Run], metric: Metric) -> Section:
  made = list[Any]()
  several = [
    (name, run.outcome['test'])
    for name, run in runs.items()
    if len(run.outcome['test'][f'{metric.name}_by_step'])
    > 2  # before and after is no curve
  ]
  if several:
    made.append(by_step(several, metric))
  curve = learning_curve(
    [(name, run.metrics) for name, run in runs.items() if run.metrics], metric
  )
  made += [curve] if curve else []
  return Section('Curves', pieces.figures(made) if made else Markup(''))


def _differing(runs: Mapping[str, Run]) -> Section:
  names = sorted({name for run in runs.values() for name in run.config})
  rows = [
    [flag(name), *values]
    for name in names
    if name not in _UNTOLD
    for values in ([said(run.config.get(name)) for run in runs.values()],)
    if len(set(values)) > 1
  ]
  if not rows:
    return Section('', Markup(''))
  return Section(
    'Settings that differ',
    pieces.table(
      [['setting', *runs], *rows],
      'Of all settings, those that are not the same in all runs',
      names=1 + len(runs),
    ),
  )
