"""The page of a run, of what its workdir holds alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from experiments.reports import page, pieces, shown_tasks
from experiments.reports.again import command_and_settings, machine
from experiments.reports.curves import by_step, learning_curve
from experiments.reports.measures import label_of, measures, seed_of, shown
from experiments.reports.page import Section
from experiments.reports.scales import count
from experiments.runner import runs
from experiments.runner.errors import UsageError
from experiments.runner.over_tasks import number_tested, tested_on
from experiments.runner.records import DATA, RECORD, read_record
from experiments.runner.report import metric_of
from metajax.metric import Metric
from metajax.runs.writers import read_json_lines

__all__ = ['DATA', 'Run', 'lead', 'read', 'run_page', 'title', 'write']

_OF_SEVERAL = {
  'compare.json': 'experiments.compare',
  'by_shots.json': 'experiments.by_shots',
  'study.db': 'experiments.sweep',
}


class Run(NamedTuple):
  """What the workdir of a run holds."""

  outcome: Mapping[str, Any]
  config: Mapping[str, Any]
  metrics: Sequence[Mapping[str, Any]]
  data: Mapping[str, Any] | None  # of `report.json`; an older run has none

  @property
  def metric(self) -> Metric:
    """The headline."""
    return metric_of(self.outcome)

  @property
  def protocol(self) -> Mapping[str, Any]:
    """What the test was."""
    protocol: Mapping[str, Any] = self.outcome['protocol']
    return protocol


def write(workdir: Path, setting: str = 'workdir') -> Path:
  """Writes the page of a run into its workdir.

  Args:
    workdir: of a run that has ended.
    setting: the one that names it.

  Raises:
    UsageError: if it holds none, or something in it is damaged.
  """
  return page.write(workdir, run_page(read(workdir, setting), workdir, setting))


def read(workdir: Path, setting: str = 'workdir') -> Run:
  """Reads what the workdir of a run holds.

  Raises:
    UsageError: if it holds none that has ended, or a file is damaged.
  """
  if not workdir.is_dir() or not (workdir / RECORD).exists():
    raise UsageError(setting, f'{workdir} is no workdir of a run; name others')
  for name, command in _OF_SEVERAL.items():
    if (workdir / name).exists():
      raise UsageError(
        setting,
        f'{workdir} holds several runs; {command} with its settings writes its'
        ' page again, or name the runs in it',
      )
  if not runs.is_done(workdir):
    raise UsageError(
      setting, f'{workdir} has not come to its end; go on with it first'
    )
  outcome = runs.read(workdir, setting)
  config = read_record(workdir / RECORD, setting)
  path, metrics = workdir / 'metrics.jsonl', list[dict[str, Any]]()
  try:
    if path.exists():
      metrics = list(read_json_lines(path))
  except (ValueError, TypeError, OSError) as error:
    raise UsageError(
      setting, f'{path} is damaged ({error}); restore it'
    ) from error
  data = workdir / DATA
  found = read_record(data, setting) if data.exists() else None
  return Run(outcome, config, metrics, found)


def run_page(run: Run, workdir: Path, setting: str = 'workdir') -> str:
  """Makes the page of a run.

  Raises:
    UsageError: if a record lacks what a page is made of.
  """
  try:
    return page.page(
      'A run of metajax',
      title(run),
      lead(run),
      _headline(run),
      [each for each in _sections(run) if each.body],
    )
  except page.DAMAGED as error:
    raise UsageError(
      setting,
      f'a record in {workdir} is damaged ({type(error).__name__}: {error});'
      ' restore it, or run again',
    ) from error


def title(run: Run) -> str:
  """The method, the data and the size of tasks."""
  protocol = run.protocol
  size = f'{protocol["shots"]}-shot'
  if protocol.get('ways'):
    size = f'{protocol["ways"]}-way {size}'
  return f'{run.outcome["algorithm"]} on {protocol["dataset"]}, {size}'


def lead(run: Run) -> str:
  """What was asked, in a sentence or two."""
  protocol, outcome = run.protocol, run.outcome
  trained = 'Without training'
  if outcome['steps']:
    steps = count(outcome['steps'], 'outer step')
    of_each = count(outcome['config']['tasks_per_step'], 'task')
    trained = f'Trained for {steps} of {of_each}'
  tested = number_tested(protocol)
  new = count(tested, 'task') if tested else 'tasks'
  shots = count(protocol['shots'], 'example')
  asked = f'asked to learn {new} that it had never seen from {shots} each'
  if protocol.get('ways'):
    asked = (
      f'asked to tell {protocol["ways"]} classes apart from {shots} of each, in'
      f' {new} that it had never seen'
    )
  return f'{trained}, then {asked}.'


def _steps(run: Run) -> int:
  return len(run.outcome['test'][f'{run.metric.name}_by_step']) - 1


def _headline(run: Run) -> Markup:
  metric, test, protocol = run.metric, run.outcome['test'], run.protocol
  value, half = test[metric.name], test['ci95']
  steps = _steps(run)
  after = f' after {count(steps, "inner step")}' if steps else ''
  new = tested_on(protocol)
  if half is None and test.get('tasks') == 1:
    interval = 'of 1 task there is no interval'
  else:
    interval = '± is a 95% interval over tasks'
  what = f'{label_of(metric)} on the queries of {new}{after}; {interval}'
  seeds = run.outcome.get('seeds')
  over_seeds = run.outcome.get('ci95_over_seeds', test.get('ci95_over_seeds'))
  others = dict[str, str]()
  if (before := test.get(f'{metric.name}_before')) is not None and steps:
    others['before adaptation'] = shown(metric, before)
  for name, baseline, of_baseline in baselines(run):
    others[f'{name} baseline'] = shown(metric, baseline, of_baseline)
  if over_seeds is not None:
    others['95% interval over seeds'] = f'± {shown(metric, over_seeds)}'
  if seeds:
    others['seeds'] = ', '.join(map(seed_of, seeds))
  if protocol.get('evaluation'):
    others['batch statistics at test'] = protocol['evaluation']
  return pieces.headline(
    'not finite' if value is None else metric.format(value),
    value,
    '' if value is None or half is None else metric.format(half),
    metric.unit,
    what,
    others,
  )


def baselines(run: Run) -> list[tuple[str, float, float | None]]:
  """Names and values of what a result is compared with, and their intervals."""
  suffix, found = f'_{run.metric.name}', run.outcome.get('baseline', {})
  return [
    (
      name.removesuffix(suffix).replace('_', ' '),
      value,
      found.get(f'{name.removesuffix(suffix)}_ci95'),
    )
    for name, value in found.items()
    if name.endswith(suffix) and value is not None
  ]


def _sections(run: Run) -> list[Section]:
  return [
    _curves(run),
    *shown_tasks.sections(
      run.data or {},
      run.metric,
      run.outcome.get('calibration') or {},
      run.outcome['test'].get('metrics', {}).get('ece', {}).get('mean'),
    ),
    measures(run.outcome, run.metric),
    command_and_settings(run.config, run.data),
    machine(run.outcome),
    _missing(run),
  ]


def _curves(run: Run) -> Section:
  levels = {
    f'{name} baseline': run.metric.scale * value
    for name, value, _ in baselines(run)
  }
  made = list[tuple[str, Markup, str]]()
  if _steps(run) > 1:  # of one, the headline says both ends
    made.append(by_step([('mean', run.outcome['test'])], run.metric, levels))
  if curve := learning_curve([('', run.metrics)], run.metric, levels):
    made.append(curve)
  return Section('Curves', pieces.figures(made) if made else Markup(''))


def _missing(run: Run) -> Section:
  missing = list[str]()
  if not run.metrics:
    missing.append('metrics.jsonl, the curve of training')
  if run.data is None:
    missing.append(
      f'{DATA}, which newer versions write: test tasks, their spread,'
      ' mistaken classes, calibration, and the command'
    )
  if not missing:
    return Section('', Markup(''))
  return Section(
    'What is missing',
    pieces.paragraph(f'This workdir does not hold {"; nor ".join(missing)}.'),
  )
