"""Curves of runs: by outer step and by inner step, of one or of several."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from experiments.reports.charts import Point, Series, lines
from experiments.reports.scales import finite
from metajax.metric import Metric
from metajax.runs.writers import VALIDATION

__all__ = ['Figure', 'by_step', 'learning_curve', 'limits_of']

Figure = tuple[str, Markup, str]  # heading, chart, note

_MOST = 150  # points of a curve; more are averaged


def limits_of(metric: Metric) -> tuple[float, float] | None:
  """What the axis of a metric does not go beyond, as it is shown."""
  return (0, 100) if metric.is_share else None


def by_step(
  tests: Sequence[tuple[str, Mapping[str, Any]]],
  metric: Metric,
  levels: Mapping[str, float] | None = None,
) -> Figure:
  """Draws a test metric against inner steps.

  Args:
    tests: names, and what `result.json` has as `test`.
    metric: what is drawn.
    levels: values that are drawn as lines across, as they are shown.
  """
  series = []
  for place, (name, test) in enumerate(tests):
    means = test[f'{metric.name}_by_step']
    halves = test['ci95_by_step']
    points = [
      _point(step, mean, half, metric)
      for step, (mean, half) in enumerate(zip(means, halves, strict=True))
      if mean is not None
    ]
    series.append(Series(name, points, place))
  steps = max(len(each.points) for each in series)
  chart = lines(
    f'{metric.axis} at test by inner step', series, 'inner steps', metric.axis,
    levels=levels, y_limits=limits_of(metric), may_be_log=not metric.is_share,
    x_ticks=range(steps) if steps <= 11 else (),
    show=_shows(metric),
  )  # fmt: skip
  return 'By inner step, at test', chart, ''


def learning_curve(
  curves: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
  metric: Metric,
  levels: Mapping[str, float] | None = None,
) -> Figure | None:
  """Draws a metric in training and in validation against outer steps.

  Args:
    curves: names of runs, and the records of each. Of several runs only the
      validation is drawn, where each has more than one.
    metric: what is drawn.
    levels: values that are drawn as lines across, as they are shown.

  Returns:
    None if nothing was recorded.
  """
  series, note = list[Series](), ''
  validation, several = VALIDATION + metric.name, len(curves) > 1
  # One point makes no curve.
  enough = all(
    sum(validation in each for each in records) > 1 for _, records in curves
  )
  for place, (name, records) in enumerate(curves):
    checked = [
      _point(
        each['step'], each[validation], each.get(f'{validation}_ci95'), metric
      )
      for each in records
      if finite([each.get(validation)])
    ]
    trained = [
      (float(each['step']), float(each[metric.name]))
      for each in records
      if finite([each.get(metric.name)])
    ]
    if trained and not (several and enough):
      mean, size = _averaged(trained)
      label = name or 'training'
      points = [Point(x, metric.scale * y) for x, y in mean]
      series.append(Series(label, points, place))
      if size > 1:
        note = f'Each point of training is the mean of {size} records.'
    if checked and (enough or not several):
      label = name if several else 'validation'
      style = 'line' if several or len(checked) > 1 else 'dots'
      color = place if several else 1
      series.append(Series(label, checked, color, style))  # type: ignore[arg-type]
  if not series:
    return None
  chart = lines(
    f'{metric.axis} by outer step', series, 'outer steps', metric.axis,
    levels=levels, y_limits=limits_of(metric), may_be_log=not metric.is_share,
    show=_shows(metric),
  )  # fmt: skip
  heading = 'In validation' if several and enough else 'In training'
  return heading, chart, note


def _averaged(
  points: Sequence[tuple[float, float]],
) -> tuple[list[tuple[float, float]], int]:
  """Means of neighbours, where there are too many to be drawn."""
  size = -(-len(points) // _MOST)
  return [
    tuple(np.mean(points[first : first + size], axis=0).tolist())
    for first in range(0, len(points), size)
  ], size  # fmt: skip


def _point(x: float, mean: float, half: float | None, metric: Metric) -> Point:
  mean = metric.scale * mean
  if half is None:
    return Point(x, mean)
  half = metric.scale * half
  return Point(x, mean, mean - half, mean + half)


def _shows(metric: Metric) -> Any:
  return lambda value: f'{value:.{metric.digits}f}{metric.unit}'
