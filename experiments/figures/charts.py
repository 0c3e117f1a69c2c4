"""Charts of metrics: in training, by inner step, of several methods."""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from experiments.figures.axes import (
  band,
  describe,
  dress,
  edges,
  is_stretched,
  percent,
  stretch,
)
from experiments.figures.canvas import (
  BLUE,
  ORANGE,
  color_and_dash,
  count_steps,
  figure_with_axes,
  grid,
  save,
)
from metajax.metric import Metric

__all__ = [
  'by_shots',
  'comparison',
  'learning_curve',
  'metric_by_step',
]


def learning_curve(
  path: str | os.PathLike[str],
  records: Sequence[Mapping[str, Any]],
  metric: Metric,
  title: str,
  baseline: float | None = None,
  baseline_name: str = 'baseline',
) -> Figure:
  """Draws a metric against outer steps, in training and in validation.

  Args:
    path: the PNG file.
    records: of `metajax.runs.writers.read_json_lines`: `step`, on some
      lines the name of the metric, on some `validation/<name>`, and beside
      the latter perhaps `validation/<name>_ci95`, which is drawn as a band,
      and `validation/<name>_ci95_over_seeds`, whose ends are drawn as lines.
    metric: what to draw; shares are drawn in percent.
    title: one line with the protocol.
    baseline: drawn as a dashed line.
    baseline_name: what the legend calls it.

  Returns:
    The figure.

  Raises:
    ValueError: if no record has the metric.
  """
  validation = f'validation/{metric.name}'
  steps, values = _series(records, metric.name)
  validation_steps, validation_values = _series(records, validation)
  if not len(steps) and not len(validation_steps):
    raise ValueError(
      f'none of the {len(records)} records has a finite {metric.name!r}; draw a'
      ' metric that was written'
    )
  figure, axes = figure_with_axes()
  if len(steps):
    many = len(steps) > 20
    axes.plot(
      steps,
      values,
      color=BLUE,
      alpha=0.3 if many else 1,
      lw=0.8,
      marker='' if many else '.',
      label=None if many else 'training',
    )
    if many:
      axes.plot(
        steps, _smoothed(values), color=BLUE, lw=1.8, label='training, smoothed'
      )
  if len(validation_steps):
    axes.plot(
      validation_steps,
      validation_values,
      color=ORANGE,
      lw=1.2,
      marker='o',
      ms=4,
      label='validation',
    )
  over_seeds = _series(records, f'{validation}_ci95_over_seeds')
  for series, draw, name in (
    (_series(records, f'{validation}_ci95'), band, 'tasks'),
    (over_seeds, edges, 'seeds'),
  ):
    interval_steps, halves = series
    if len(halves) and np.array_equal(interval_steps, validation_steps):
      of = f' over {name}' if len(over_seeds[0]) else ''
      label = f'95% interval{of}'
      draw(axes, validation_steps, validation_values, halves, ORANGE, label)
  axes.set_xlabel('outer steps')
  axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
  dress(axes, metric, baseline, baseline_name)
  return save(figure, path, title)


def metric_by_step(
  path: str | os.PathLike[str],
  mean: Sequence[float],
  ci95: Sequence[float | None],
  metric: Metric,
  title: str,
  baseline: float | None = None,
  baseline_name: str = 'baseline',
  over_seeds: Sequence[float] | None = None,
) -> Figure:
  """Draws a test metric against the number of inner steps.

  Args:
    path: the PNG file.
    mean: `[steps + 1]`, the metric after 0, 1, ... inner steps.
    ci95: `[steps + 1]`, half the width of its 95% interval; None where there
      is none.
    metric: what was measured.
    title: one line with the protocol.
    baseline: drawn as a dashed line.
    baseline_name: what the legend calls it.
    over_seeds: `[steps + 1]`, half the width of an interval over seeds, if
      there are several; `ci95` is then that over tasks.

  Returns:
    The figure.

  Raises:
    ValueError: if there are no values, or not as many intervals as means.
  """
  means, halves = np.asarray(mean, float), np.asarray(ci95, float)
  if means.ndim != 1 or means.shape != halves.shape or not len(means):
    raise ValueError(
      'mean and ci95 must be two lists of one length, 1 or more; got shapes'
      f' {means.shape} and {halves.shape}'
    )
  figure, axes = figure_with_axes()
  steps = np.arange(len(means))
  known = bool(np.isfinite(halves).any())  # of a single task there is none
  last = describe(metric, means[-1], halves[-1] if known else None)
  interval = '95% interval' if over_seeds is None else '95% interval over tasks'
  if len(means) == 1:  # a band of no width cannot be seen
    bars = [(halves, 6, f'mean, {last}')]
    if over_seeds is not None:
      bars.append((np.asarray(over_seeds), 12, '95% interval over seeds'))
    for half, cap, label in bars:
      axes.errorbar(
        steps, means, half, color=BLUE, fmt='o', capsize=cap, label=label
      )
    axes.set_xlim(-1, 1)
    axes.set_xticks([0])
  else:
    axes.plot(
      steps,
      means,
      color=BLUE,
      lw=1.5,
      marker='o',
      ms=4,
      label=f'mean, after {count_steps(len(means) - 1)} {last}',
    )
    if known:
      band(axes, steps, means, halves, BLUE, interval)
    if over_seeds is not None:
      name = '95% interval over seeds'
      edges(axes, steps, means, np.asarray(over_seeds), BLUE, name)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
  axes.set_xlabel('inner steps')
  dress(axes, metric, baseline, baseline_name)
  return save(figure, path, title)


def comparison(
  path: str | os.PathLike[str],
  curves: Mapping[str, Sequence[tuple[float, float]]],
  results: Mapping[str, tuple[float, float, float]],
  metric: Metric,
  title: str,
) -> Figure:
  """Draws what methods reached, against their seconds of training.

  Args:
    path: the PNG file.
    curves: of every method, pairs of seconds and the metric in validation.
    results: of every method, its seconds in all, the metric at test, and half
      its 95% interval.
    metric: what was measured; its best value is drawn first.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no result.
  """
  if not results:
    raise ValueError('there is no method to compare')
  order = sorted(results, key=lambda name: metric.sort_key(results[name][1]))
  figure = Figure(figsize=(11, 5.2), layout='constrained')
  over_time, at_end = figure.subplots(1, 2, width_ratios=(3, 2))
  for place, name in enumerate(order):
    color, style = color_and_dash(place)
    seconds, values = np.asarray(curves[name], float).reshape(-1, 2).T
    if len(seconds):
      over_time.plot(seconds, values, color=color, ls=style, lw=1.3)
      # By colour and dashes a curve is told from the others.
      at_end.axhline(place, color=color, ls=style, lw=1.3, alpha=0.45)
    end, value, half = results[name]
    over_time.errorbar(
      end, value, half, color=color, marker='o', ms=4, capsize=2
    )
    at_end.errorbar(
      value, place, xerr=half, color=color, marker='o', ms=4, capsize=2
    )
  at_end.set_yticks(range(len(order)), order, fontsize=8)
  at_end.invert_yaxis()
  at_end.set_xlabel(f'{metric.axis} at test, 95% interval')
  over_time.set_xlabel('seconds; lines: validation, dots: test')
  over_time.set_ylabel(metric.axis)
  grid(over_time)
  grid(at_end, 'x')
  if is_stretched(metric):
    ends = _ends(results.values())
    drawn = [value for curve in curves.values() for _, value in curve]
    stretch(over_time, 'y', ends + drawn)
    stretch(at_end, 'x', ends)
  elif metric.is_share:
    over_time.yaxis.set_major_formatter(percent())
    at_end.xaxis.set_major_formatter(percent())
  return save(figure, path, title)


def by_shots(
  path: str | os.PathLike[str],
  results: Mapping[str, Sequence[tuple[int, float, float]]],
  metric: Metric,
  title: str,
  shots: str = 'support examples per class',
) -> Figure:
  """Draws what methods reach against the number of support examples.

  Args:
    path: the PNG file.
    results: of every method, numbers of examples, values of the metric, and
      halves of their 95% intervals.
    metric: what was measured.
    title: one line with the protocol.
    shots: what the numbers of examples count.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no result.
  """
  if not any(results.values()):
    raise ValueError('there is no method to draw')
  figure, axes = figure_with_axes()
  ticks = sorted({point[0] for points in results.values() for point in points})
  asides = _side_by_side(len(results), ticks)
  for place, (name, points) in enumerate(results.items()):
    numbers, values, halves = np.asarray(points, float).reshape(-1, 3).T
    color, style = color_and_dash(place)
    axes.errorbar(
      numbers * asides[place],
      values,
      halves,
      color=color,
      ls=style,
      lw=1.4,
      marker='o',
      ms=4,
      capsize=2,
      label=name,
    )
  axes.set_xscale('log')
  if len(ticks) == 1:  # or the few asides would fill the chart
    axes.set_xlim(ticks[0] / 1.5, 1.5 * ticks[0])
  axes.set_xticks(ticks, [str(tick) for tick in ticks])
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel(shots)
  dress(axes, metric)
  if is_stretched(metric):
    stretch(axes, 'y', _ends(itertools.chain(*results.values())))
  return save(figure, path, title)


def _side_by_side(count: int, ticks: Sequence[int]) -> np.ndarray:
  """Factors that keep intervals at one tick of a log axis from hiding others.

  All of them take no more than a third of the way from a tick to the next.
  """
  gap = min(np.diff(np.log(ticks)), default=1.0)
  width = min(gap / 3, 0.03 * (count - 1))
  factors: np.ndarray = np.exp(np.linspace(-width / 2, width / 2, count))
  return factors if count > 1 else np.ones(1)


def _ends(points: Iterable[tuple[float, float, float]]) -> list[float]:
  """Says where intervals end, given places, values and halves of them."""
  return [value + sign * half for _, value, half in points for sign in (-1, 1)]


def _series(
  records: Sequence[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Picks the steps and the finite values of one metric."""
  pairs = [
    (record['step'], record[name])
    for record in records
    if name in record and math.isfinite(record[name])
  ]
  steps, values = np.asarray(pairs, float).reshape(-1, 2).T
  return steps, values


def _smoothed(values: np.ndarray) -> np.ndarray:
  """Averages over about 1/25 of a run, centred, so nothing lags behind."""
  width = min(len(values), 2 * (len(values) // 50) + 5)
  weights = np.hanning(width + 2)[1:-1]
  total = np.convolve(np.ones_like(values), weights, mode='same')
  return np.convolve(values, weights, mode='same') / total
