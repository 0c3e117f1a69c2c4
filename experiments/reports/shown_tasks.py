"""Sections about test tasks: some of them, their spread, what is mistaken."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from experiments.reports import pieces
from experiments.reports.charts import Point, Series, lines
from experiments.reports.histograms import bars, histogram, reliability
from experiments.reports.measures import label_of
from experiments.reports.page import Section
from experiments.reports.scales import count, is_wide
from metajax.metric import Metric

__all__ = ['sections']

_BARS = 20
_PICTURE = re.compile(r'data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+')


def sections(
  data: Mapping[str, Any],
  metric: Metric,
  scaled: Mapping[str, Any],
  of_each: float | None = None,
) -> list[Section]:
  """What is known of the test tasks of a run.

  Args:
    data: of `report.json`.
    metric: the headline.
    scaled: what `result.json` has of a temperature that was fitted.
    of_each: the mean expected calibration error of tasks by themselves.
  """
  made = list[Section]()
  if values := data.get('values'):
    made.append(
      _spread(
        values, data['tasks'], metric, data.get('seed'),
        data.get('tasks_that_differ'),
      )
    )  # fmt: skip
  if tasks := data.get('tasks'):
    made.append(_tasks(tasks, data.get('besides', {}), metric))
  if (mistaken := data.get('confusion')) and mistaken['wrong']:
    made.append(_mistaken(mistaken))
  sure = data.get('calibration') or {}
  if sure.get('bins') or scaled:
    made.append(_calibration(sure, scaled, of_each))
  return made


def _spread(
  values: list[float | None],
  tasks: Sequence[Mapping[str, Any]],
  metric: Metric,
  seed: int | None,
  differ: int | None,
) -> Section:
  """How the metric is spread over tasks; of several seeds, of one of them.

  Where some tasks are drawn again it is over draws, which is said.
  """
  known = [metric.scale * each for each in values if each is not None]
  if not known:
    return Section('Spread over test tasks', Markup(''))
  facts = {
    'mean': _show(float(np.mean(known)), metric),
    'median': _show(float(np.median(known)), metric),
  }
  for each in tasks:
    if each['which'] in ('worst', 'best') and each['value'] is not None:
      same = values.count(round(each['value'], 6))
      shared = f' ({count(same, "task")})' if same > 1 else ''
      facts[each['which']] = (
        _show(metric.scale * each['value'], metric) + shared
      )
  left_out = len(values) - len(known)
  if left_out:
    facts['not finite'] = count(left_out, 'task')
  chart = _histogram(known, metric)
  note = ''
  if seed is not None:
    note = (
      f'Of seed {seed} alone, as are the tasks, mistakes and calibration below.'
    )
  if differ is not None:
    note = (
      f'{note} {count(len(values), "draw")} of {count(differ, "test task")},'
      ' each counted by itself, so that the mean may be another than above.'
    ).strip()
  return Section(
    'Spread over test tasks', pieces.beside(chart, pieces.facts(facts)), note
  )


def _histogram(known: Sequence[float], metric: Metric) -> Markup:
  """How many tasks have which value; every task is in a bar."""
  title = f'how many test tasks have which {metric.axis}'
  unit = metric.unit
  if heights := _of_each_value(known, unit):
    return bars(title, heights, metric.axis, 'test tasks')
  edges = _edges(known, metric)
  numbers = np.histogram(known, edges)[0].tolist()
  texts = [
    f'{low:.3g} to {high:.3g}{unit}: {count(number, "task")}'
    for low, high, number in zip(edges, edges[1:], numbers, strict=False)
  ]
  wide = is_wide(known)
  label = f'{metric.axis}, logarithmic scale' if wide else metric.axis
  return histogram(
    title, edges, numbers, label, 'test tasks', texts, may_be_log=wide
  )


def _of_each_value(
  known: Sequence[float], unit: str
) -> list[tuple[str, float, str]]:
  """A bar for each value, such as for shares of a few queries; or nothing."""
  largest = max(map(abs, known))
  digits = 4 - min(0, math.floor(math.log10(largest))) if largest else 4
  rounded = np.round(known, digits)
  distinct = np.unique(rounded)
  step = np.diff(distinct).min() if len(distinct) > 1 else 1.0
  places = (rounded - distinct[0]) / step
  if places.max() >= _BARS or np.abs(places - np.round(places)).max() >= 0.01:
    return []
  numbers = np.bincount(np.round(places).astype(int)).tolist()
  return [
    (f'{value:.3g}', number, f'{value:.3g}{unit}: {count(number, "task")}')
    for place, number in enumerate(numbers)
    for value in (float(distinct[0] + place * step),)
  ]


def _edges(known: Sequence[float], metric: Metric) -> list[float]:
  """Edges of bins, the first and the last of which are not within values."""
  low, high = min(known), max(known)
  if is_wide(known):
    between = np.geomspace(low, high, _BARS + 1)[1:-1].tolist()
    return [low, *between, high]  # the very ends: a power may be rounded
  if metric.is_share:
    low, high = min(low, 0.0), max(high, 100.0)
  return np.linspace(low, high, _BARS + 1).tolist()


def _show(value: float, metric: Metric) -> str:
  return f'{value:.{metric.digits}f} {metric.unit}'.rstrip()


_HEADINGS = {
  'first': 'The first test task',
  'worst': 'The worst of all',
  'best': 'The best of all',
}


def _tasks(
  tasks: Sequence[Mapping[str, Any]],
  besides: Mapping[str, Mapping[str, Any]],
  metric: Metric,
) -> Section:
  made = [_task(each, metric) for each in (*tasks, *besides.values())]
  kinds = {each['kind'] for each in tasks}
  note = ''
  if 'classes' in kinds:
    note = (
      'A row is a class: its support examples, then its queries. With a query'
      ' stands the class that was predicted before → after adaptation, and how'
      ' sure the model was then. Green is right; red and dashed is wrong.'
    )
  broad = any(each.get('is_text') for each in tasks)
  return Section('Test tasks', pieces.tasks(made, broad), note)


def _task(task: Mapping[str, Any], metric: Metric) -> Markup:
  which = task['which']
  heading = _HEADINGS.get(which, f'Asked for: {which.replace("_", " ")}')
  line = f'Test task {task["number"]:,}'
  if task['value'] is not None:
    line += f': {label_of(metric)} '
    line += _show(metric.scale * task['value'], metric)
  if task['before'] is not None:
    line += (
      f' (before adaptation {_show(metric.scale * task["before"], metric)})'
    )
  return pieces.task(heading, f'{line}.', _BODIES[task['kind']](task))


def _classes(task: Mapping[str, Any]) -> Markup:
  for row in task['classes']:
    for each in (*row['support'], *row['queries']):
      if each['image']:
        _check_picture(each['image'])
  return pieces.classes(task)


def _images(task: Mapping[str, Any]) -> Markup:
  for _, image in task['images']:
    _check_picture(image['image'])
  return pieces.images(task['images'])


def _check_picture(text: str) -> None:
  """Refuses what is no picture within the page itself."""
  if not _PICTURE.fullmatch(text):
    raise ValueError('an image that is none')


def _curve(task: Mapping[str, Any]) -> Markup:
  series = [Series('true curve', _along(task['x'], task['true']), 6)]
  drawn = zip((1, 4, 0), task['predicted'].items(), strict=False)
  for place, (color, (name, values)) in enumerate(drawn):
    style: Any = (
      'dashed' if place == 0 and len(task['predicted']) > 1 else 'line'
    )
    series.append(Series(name, _along(task['x'], values), color, style))
  known = _along(task['support_x'], task['support_y'])
  series.append(Series(count(len(known), 'support example'), known, 2, 'dots'))
  return lines(
    'the true curve, the support examples, and what is predicted', series,
    'x', 'y', x_is_whole=False,
  )  # fmt: skip


def _points(task: Mapping[str, Any]) -> Markup:
  made = []
  for target in task['targets']:
    *firsts, last = (
      (name, _along(target['true'], values))
      for name, values in target['predicted'].items()
    )
    series = [Series(*each, 6, 'dots') for each in firsts]
    series.append(Series(*last, 0, 'dots'))
    chart = lines(
      f'predicted against true values of {target["name"]}', series, 'true',
      'predicted', x_is_whole=False, diagonal='prediction is right',
    )  # fmt: skip
    made.append((target['name'], chart, ''))
  return pieces.figures(made)


def _along(x: Sequence[float | None], y: Sequence[float | None]) -> list[Point]:
  return [
    Point(a, b)
    for a, b in zip(x, y, strict=True)
    if a is not None and b is not None
  ]


def _ways(task: Mapping[str, Any]) -> Markup:
  drawn = [
    Series(each['name'], _along(each['x'], each['y']), color, each['style'])
    for color, each in enumerate(task['ways'])
  ]
  return lines(
    task['title'], drawn, task['x_label'], task['y_label'], x_is_whole=False
  )


_BODIES = {
  'classes': _classes, 'images': _images, 'curve': _curve, 'points': _points,
  'ways': _ways,
}  # fmt: skip


def _mistaken(found: Mapping[str, Any]) -> Section:
  pairs = [
    [
      true,
      other,
      f'{wrong:,}',
      f'{chances:,}',
      f'{100 * wrong / chances:.0f} %',
    ]
    for true, other, wrong, chances in found['pairs']
  ]
  table = pieces.table(
    [['class', 'taken for', 'queries', 'of', 'share'], *pairs],
    'The pairs that are mistaken most often; "of" counts the queries of the'
    ' class in tasks that have the other, too',
    names=2,
  )
  rows = []
  for line, name in enumerate(found['classes']):
    cells = []
    for column, other in enumerate(found['classes']):
      taken = found['taken'][line][column]
      chances = found['chances'][line][column]
      share = taken / chances if chances else 0.0
      shade = 9 if line == column else math.ceil(min(4, 8 * share))
      asked = count(chances, 'query', 'queries')
      title = f'{name} taken for {other}: {taken} of {asked}'
      cells.append((f'{100 * share:.0f}' if chances else '', shade, title))
    rows.append((name, cells))
  matrix = pieces.matrix(
    found['classes'],
    rows,
    'Of the queries of a class (row) in tasks that have the other (column), the'
    ' percentage taken for it; empty where no task had both',
    'class',
  )
  asked = count(found['queries'], 'query', 'queries')
  return Section(
    'Classes that are mistaken',
    table + matrix,
    f'{found["wrong"]:,} of {asked} of the first {found["tasks"]:,} test tasks'
    ' were taken for another class.',
  )


_OF_SCALING = {
  'temperature': 'temperature, fitted in validation',
  'expected_calibration_error': 'expected calibration error with it',
  'expected_calibration_error_before': 'expected calibration error without it',
  'negative_log_likelihood': 'negative log likelihood with it',
  'negative_log_likelihood_before': 'negative log likelihood without it',
  'ci95': '95% interval of that',
}


def _calibration(
  found: Mapping[str, Any], scaled: Mapping[str, Any], of_each: float | None
) -> Section:
  parts, notes, drawn = list[Markup](), list[str](), Markup('')
  if facts := {
    _OF_SCALING.get(name, name.replace('_', ' ')): _of_scaling(name, value)
    for name, value in scaled.items()
    if isinstance(value, int | float | str)
  }:
    parts.append(
      pieces.paragraph(
        'As metajax.load and experiments.predict answer, one query at a time:'
      )
    )
    parts.append(pieces.facts(facts))
  if found.get('bins'):
    bins = [
      (each['low'], each['high'], each['accuracy'], each['queries'])
      for each in found['bins']
    ]
    chart = reliability('accuracy of predictions by their confidence', bins)
    drawn = chart
    error = found['expected_calibration_error']
    asked = count(found['queries'], 'query', 'queries')
    notes.append(
      'The chart is of the test above, without a temperature: expected'
      f' calibration error {100 * error:.1f} %, over 15 bins of all {asked} of'
      f' the first {found["tasks"]:,} test tasks together.'
    )
    least = 0.01 * sum(each['queries'] for each in found['bins'])
    if any(each['queries'] < least for each in found['bins']):
      notes.append(
        'Bars of less than 1 % of the predictions are faint: so few say little'
        ' of how often such predictions are right.'
      )
    if of_each is not None:
      notes.append(
        f'Over each task by itself it is {100 * of_each:.1f} % in the mean; of'
        ' few queries nearly every bin has one, so that it is larger.'
      )
  if found.get('not_finite'):
    notes.append(f'{found["not_finite"]:,} more have no finite prediction.')
  parts += map(pieces.paragraph, notes)
  said = pieces.join(parts)
  return Section('Calibration', pieces.beside(drawn, said) if drawn else said)


def _of_scaling(name: str, value: float | str) -> str:
  if isinstance(value, str):
    return value
  if name == 'ci95':
    return f'± {100 * value:.1f} %'
  if name == 'accuracy' or name.startswith('expected_calibration_error'):
    return f'{100 * value:.1f} %'
  return f'{value:.4g}'
