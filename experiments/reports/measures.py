"""Tables of what a test has measured."""

from collections.abc import Mapping
from typing import Any

from experiments.reports import pieces
from experiments.reports.page import Section
from metajax.metric import Metric

__all__ = ['label_of', 'measures', 'seed_of', 'shown']


def label_of(metric: Metric) -> str:
  """What a metric is called in a sentence."""
  return metric.axis.removesuffix(f' ({metric.unit})')


def shown(
  metric: Metric, value: float | None, half: float | None = None
) -> str:
  """A value of a metric with its unit, or that there is none."""
  if value is None:
    return 'not finite'
  text = metric.format(value)
  if half is not None:
    text = metric.format_interval(value, half)
  return f'{text} {metric.unit}'.rstrip()


def seed_of(seed: Any) -> str:
  """How one of the seeds of a run is called."""
  if isinstance(seed, dict) and 'seed' in seed:
    seed = seed['seed']
  return str(seed)


def measures(outcome: Mapping[str, Any], metric: Metric) -> Section:
  """All that was measured at test."""
  rows = [
    [name.replace('_', ' '), *_mean_and_half(name, each, metric)]
    for name, each in outcome['test'].get('metrics', {}).items()
  ]
  of_share = '; shares are in percent' if metric.is_share else ''
  table = pieces.table(
    [['metric', 'mean', '95% interval'], *rows],
    f'All that was measured at test, over test tasks{of_share}',
  )
  protocol = {
    name.replace('_', ' '): 'none' if value is None else value
    for name, value in outcome['protocol'].items()
  }
  parts = [pieces.beside(table, pieces.facts(protocol))]
  parts += [
    pieces.table(lines, title[:1].upper() + title[1:])
    for title, lines in outcome.get('tables', {}).items()
  ]
  besides = [
    [
      name.replace('_', ' '),
      metric.format_interval(each[metric.name], each['ci95']),
    ]
    for name, each in outcome.get('besides', {}).items()
  ]
  if besides:
    parts.append(
      pieces.table(
        [['tasks', metric.heading], *besides], 'Other kinds of tasks'
      )
    )
  if apart := outcome.get('out_of_scope'):
    cells = [
      [
        name.replace('_', ' '),
        metric.format_interval(each['mean'], each['ci95']),
      ]
      for name, each in apart.items()
      if isinstance(each, dict) and {'mean', 'ci95'} <= each.keys()
    ]
    parts.append(
      pieces.table(
        [['measure', '%'], *cells], 'Queries that are of no class of the task'
      )
    )
  if rows_of_seeds := _by_seed(outcome, metric):
    parts.append(pieces.table(rows_of_seeds, 'By seed'))
  return Section('Measures and protocol', pieces.join(parts))


def _mean_and_half(
  name: str, each: Mapping[str, Any], headline: Metric
) -> list[str]:
  share = headline.is_share and name in (
    headline.name, 'macro_f1', 'ece', 'accuracy'
  )  # fmt: skip
  metric = Metric(name, True, '%' if share else '')
  mean, half = each.get('mean'), each.get('ci95')
  unit = ' %' if share else ''
  return [
    'not finite' if mean is None else metric.format(mean) + unit,
    '' if half is None else f'± {metric.format(half)}',
  ]


def _by_seed(outcome: Mapping[str, Any], metric: Metric) -> list[list[str]]:
  seeds, name = outcome.get('seeds') or [], metric.name
  rows = [
    [seed_of(each), shown(metric, each[name], each.get('ci95'))]
    for each in seeds
    if isinstance(each, dict) and name in each
  ]
  return [['seed', metric.heading], *rows] if rows else []
