"""The page of a search of settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.reports import charts, page, pieces
from experiments.reports.again import command_and_settings, given
from experiments.reports.curves import Figure, limits_of
from experiments.reports.measures import label_of
from experiments.reports.page import Section
from experiments.reports.scales import count
from experiments.runner.records import read_record
from experiments.runner.settings import Base
from metajax.metric import Metric

__all__ = ['write']

_LISTED = 20  # trials in the table

Trials = Sequence[tuple[Mapping[str, Any], float]]


def write(
  workdir: Path,
  settings: Base,
  *,
  title: str,
  trials: Trials,
  importance: Mapping[str, float],
  logarithmic: Mapping[str, bool],
  metric: Metric,
  best: str,
  folds: int,
) -> Path:
  """Writes the page of a sweep into its workdir.

  Args:
    workdir: of the sweep.
    settings: of it; the page has its command.
    title: the heading.
    trials: settings, and what they have reached, of all that came to their end;
      the best first.
    importance: the share of each setting in what differs.
    logarithmic: whether a setting was searched by its logarithm.
    metric: what trials are compared by.
    best: the command with the best settings.
    folds: that trials are judged on.
  """
  figures = [
    ('Which setting matters', _importance(importance), ''),
    *(
      (name, _slice(name, trials, log, metric), '')
      for name, log in logarithmic.items()
    ),
  ]
  config, own = settings.given(), given(settings)
  # Of which experiment it is, is a default of settings that are made for it.
  named = {'experiment': config['experiment']}
  own = {**own, 'given': {**named, **own['given']}}
  reached = trials[0][1]
  judged_on = 'tasks that are not of the test'
  lead = 'Trials were judged on other tasks than those of the test.'
  if folds > 1:
    judged_on = 'folds of the training classes'
    lead = (
      'Each trial was trained on a part of the training classes and judged on'
      ' the others; classes of validation and of test were not seen.'
    )
  headline = pieces.headline(
    metric.format(reached),
    reached,
    '',
    metric.unit,
    f'{label_of(metric)} on {judged_on}, the best of'
    f' {count(len(trials), "trial")} to the end; it was chosen by this figure,'
    ' so a test will find it worse',
    dict(_said(trials[0][0])),
  )
  table = _table(trials, _numbers(workdir, trials[:_LISTED]), metric)
  sections = [
    Section('Settings', pieces.figures(_drawn(figures)) + table),
    Section('The best, as a command', pieces.command(best)),
    command_and_settings(config, own),
  ]
  return page.write(
    workdir, page.page('A search of settings', title, lead, headline, sections)
  )


def _drawn(figures: Sequence[Figure]) -> list[Figure]:
  return [each for each in figures if each[1]]


def _said(params: Mapping[str, Any]) -> list[tuple[str, str]]:
  return [
    (name, f'{value:.4g}' if isinstance(value, float) else str(value))
    for name, value in params.items()
  ]


def _importance(importance: Mapping[str, float]) -> Markup:
  """Bars of shares."""
  ranked = sorted(importance.items(), key=lambda item: -item[1])
  points = [
    (
      name,
      charts.Point(100 * share, 0, 0.0, 100 * share, f'{100 * share:.0f}%'),
    )
    for name, share in ranked
  ]
  if not points:
    return Markup('')
  return charts.intervals(
    'share of each setting in what differs', points, 'share (%)',
    limits=(0.0, 100.0),
  )  # fmt: skip


def _slice(name: str, trials: Trials, log: bool, metric: Metric) -> Markup:
  """What was reached against one setting; of choices, how each fared."""
  values = [(params[name], reached) for params, reached in trials]
  scaled = [
    (value, metric.scale * reached, f'{name} {_said({name: value})[0][1]}:'
     f' {metric.format(reached)}{metric.unit}')
    for value, reached in values
  ]  # fmt: skip
  numbers = all(
    isinstance(value, int | float) and not isinstance(value, bool)
    for value, *_ in scaled
  )
  if not numbers:
    best: dict[str, tuple[float, str]] = {}
    for value, reached, text in scaled:  # the best of each comes first
      best.setdefault(str(value), (reached, text))
    return charts.intervals(
      f'the best of each {name}',
      [(each, charts.Point(at, 0, None, None, text))
       for each, (at, text) in best.items()],
      f'{metric.axis}, the best trial', limits=limits_of(metric),
    )  # fmt: skip
  points = [
    charts.Point(float(value), reached, None, None, text)
    for value, reached, text in sorted(scaled)
  ]
  return charts.lines(
    f'{metric.axis} against {name}',
    [charts.Series('trials to the end', points, 0, 'dots')],
    name,
    metric.axis,
    y_limits=limits_of(metric),
    may_be_log=limits_of(metric) is None,
    x_is_log=log,
    x_is_whole=all(isinstance(value, int) for value, *_ in scaled),
  )


def _numbers(workdir: Path, trials: Trials) -> list[str]:
  """The numbers that trials have in the study, by what they tried and reached.

  Empty ones where `sweep.json` has no such trial.
  """
  path = workdir / 'sweep.json'
  known = read_record(path, 'workdir')['trials'] if path.exists() else []
  found = list[str]()
  for params, reached in trials:
    place = next(
      (
        place
        for place, each in enumerate(known)
        if each['state'] == 'complete'
        and each['settings'] == params
        and each['value'] in (reached, None)  # what is not finite is not kept
      ),
      None,
    )
    found.append('' if place is None else str(known.pop(place)['number']))
  return found


def _table(trials: Trials, numbers: Sequence[str], metric: Metric) -> Markup:
  names = list(trials[0][0])
  listed = zip(trials[:_LISTED], numbers, strict=False)
  lines = [
    [number, metric.format(reached), *(value for _, value in _said(params))]
    for (params, reached), number in listed
  ]
  caption = f'The best {count(len(lines), "trial")}, by their numbers'
  return pieces.table(
    [['trial', metric.heading, *names], *lines], caption, names=1
  )
