"""The pictures of a run, as PNG files.

Each function draws one figure, writes it to `path` in one atomic replacement,
and returns it for a caller who wants to add to it. Nothing here touches the
global state of pyplot, so drawing works in any thread and without a display.
"""

import io
import itertools
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import (
  FixedLocator,
  FuncFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
  NullLocator,
  PercentFormatter,
  StrMethodFormatter,
)

# From the palette of Okabe and Ito, which the colour-blind can tell apart.
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#5F6368'
COLORS = (BLUE, ORANGE, '#009E73', '#CC79A7', '#E69F00', '#56B4E9', GREY)
_DASHES = ('-', '--', ':', '-.')
RIGHT, WRONG = '#008A5E', '#D1242F'

_DOTS_PER_INCH = 150
_TITLE_SIZES = (11.0, 10.0, 9.0, 8.0)
_NOTE_SIZES = (9.0, 8.0, 7.0)
_LABELS = {'accuracy': 'accuracy (%)', 'mse': 'mean squared error'}
# Where a scale that is stretched towards 100% has its ticks.
_SHARES = (
  0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8,
  0.9, 0.95, 0.98, 0.99, 0.995, 0.999,
)  # fmt: skip
# More queries of one class than this are left out of the picture of a task.
_QUERIES_SHOWN = 8


def learning_curve(
  path: str | os.PathLike[str],
  records: Sequence[Mapping[str, Any]],
  metric: str,
  title: str,
  baseline: float | None = None,
  baseline_name: str = 'baseline',
) -> Figure:
  """Draws a metric against outer steps, in training and in validation.

  Args:
    path: the PNG file.
    records: of `metajax.runs.writers.read_json_lines`: `step`, on some
      lines `metric`, on some `validation/<metric>`, and beside the latter
      perhaps `validation/<metric>_ci95`, which is drawn as a band.
    metric: `'accuracy'` (a fraction, drawn in percent), `'loss'`, `'mse'` ...
    title: one line with the protocol.
    baseline: drawn as a dashed line.
    baseline_name: what the legend calls it.

  Returns:
    The figure.

  Raises:
    ValueError: if no record has the metric.
  """
  validation = f'validation/{metric}'
  steps, values = _series(records, metric)
  validation_steps, validation_values = _series(records, validation)
  if not len(steps) and not len(validation_steps):
    raise ValueError(
      f'none of the {len(records)} records has a finite {metric!r}; draw a'
      ' metric that was written'
    )
  figure, axes = _figure_with_axes()
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
  interval_steps, halves = _series(records, f'{validation}_ci95')
  if len(halves) and np.array_equal(interval_steps, validation_steps):
    axes.fill_between(
      validation_steps,
      validation_values - halves,
      validation_values + halves,
      color=ORANGE,
      alpha=0.2,
      lw=0,
      label='95% interval',
    )
  axes.set_xlabel('outer steps')
  axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
  _dress(axes, metric, baseline, baseline_name)
  return _save(figure, path, title)


def metric_by_step(
  path: str | os.PathLike[str],
  mean: Sequence[float],
  ci95: Sequence[float],
  metric: str,
  title: str,
  baseline: float | None = None,
  baseline_name: str = 'baseline',
) -> Figure:
  """Draws a test metric against the number of inner steps.

  Args:
    path: the PNG file.
    mean: `[steps + 1]`, the metric after 0, 1, ... inner steps.
    ci95: `[steps + 1]`, half the width of its 95% interval.
    metric: as in `learning_curve`.
    title: one line with the protocol.
    baseline: drawn as a dashed line.
    baseline_name: what the legend calls it.

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
  figure, axes = _figure_with_axes()
  steps = np.arange(len(means))
  last = _describe(metric, means[-1], halves[-1])
  if len(means) == 1:  # a band of no width cannot be seen
    axes.errorbar(
      steps,
      means,
      halves,
      color=BLUE,
      fmt='o',
      capsize=6,
      label=f'mean, {last}',
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
      label=f'mean, after {_steps(len(means) - 1)} {last}',
    )
    axes.fill_between(
      steps,
      means - halves,
      means + halves,
      color=BLUE,
      alpha=0.2,
      lw=0,
      label='95% interval',
    )
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
  axes.set_xlabel('inner steps')
  _dress(axes, metric, baseline, baseline_name)
  return _save(figure, path, title)


def comparison(
  path: str | os.PathLike[str],
  curves: Mapping[str, Sequence[tuple[float, float]]],
  results: Mapping[str, tuple[float, float, float]],
  metric: str,
  title: str,
) -> Figure:
  """Draws what methods reached, against their seconds of training.

  Args:
    path: the PNG file.
    curves: of every method, pairs of seconds and the metric in validation.
    results: of every method, its seconds in all, the metric at test, and half
      its 95% interval.
    metric: `'accuracy'` (a fraction, drawn in percent) or `'mse'`.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no result.
  """
  if not results:
    raise ValueError('there is no method to compare')
  best = -1 if metric == 'accuracy' else 1
  order = sorted(results, key=lambda name: best * results[name][1])
  figure = Figure(figsize=(11, 5.2), layout='constrained')
  over_time, at_end = figure.subplots(1, 2, width_ratios=(3, 2))
  for place, name in enumerate(order):
    color, style = _color_and_dash(place)
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
  at_end.set_xlabel(f'{_LABELS.get(metric, metric)} at test, 95% interval')
  over_time.set_xlabel('seconds; lines: validation, dots: test')
  over_time.set_ylabel(_LABELS.get(metric, metric))
  over_time.grid(color='#E3E5E8', lw=0.7)
  at_end.grid(axis='x', color='#E3E5E8', lw=0.7)
  for axes in (over_time, at_end):
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
  if metric == 'accuracy':
    ends = _ends(results.values())
    drawn = [value for curve in curves.values() for _, value in curve]
    _stretch(over_time, 'y', ends + drawn)
    _stretch(at_end, 'x', ends)
  return _save(figure, path, title)


def by_shots(
  path: str | os.PathLike[str],
  results: Mapping[str, Sequence[tuple[int, float, float]]],
  title: str,
) -> Figure:
  """Draws accuracies against the number of support examples per class.

  Args:
    path: the PNG file.
    results: of every method, numbers of examples, accuracies, and halves of
      their 95% intervals.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no result.
  """
  if not any(results.values()):
    raise ValueError('there is no method to draw')
  figure, axes = _figure_with_axes()
  for place, (name, points) in enumerate(results.items()):
    shots, values, halves = np.asarray(points, float).reshape(-1, 3).T
    color, style = _color_and_dash(place)
    axes.errorbar(
      shots,
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
  ticks = sorted({point[0] for points in results.values() for point in points})
  axes.set_xscale('log')
  axes.set_xticks(ticks, [str(tick) for tick in ticks])
  axes.xaxis.set_minor_formatter(NullFormatter())
  axes.set_xlabel('support examples per class')
  _dress(axes, 'accuracy', None, '')
  _stretch(axes, 'y', _ends(itertools.chain(*results.values())))
  return _save(figure, path, title)


def sinusoid_task(
  path: str | os.PathLike[str],
  grid_x: Sequence[float],
  true_y: Sequence[float],
  support_x: Sequence[float],
  support_y: Sequence[float],
  before_y: Sequence[float],
  after_y: Mapping[int, Sequence[float]],
  title: str,
) -> Figure:
  """Draws one regression task: the curve, the points, the predictions.

  Args:
    path: the PNG file.
    grid_x: `[points]`, increasing, in radians.
    true_y: `[points]`, the curve that the examples come from.
    support_x: `[examples]`.
    support_y: `[examples]`.
    before_y: `[points]`, the prediction before adaptation.
    after_y: for each number of inner steps, the prediction `[points]` then.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if lengths do not fit together.
  """
  x = np.ravel(grid_x)
  curves = {'true_y': true_y, 'before_y': before_y}
  curves |= {f'after_y[{steps}]': y for steps, y in after_y.items()}
  for name, y in curves.items():
    _same_length('grid_x', x, name, np.ravel(y))
  points_x, points_y = np.ravel(support_x), np.ravel(support_y)
  _same_length('support_x', points_x, 'support_y', points_y)

  figure, axes = _figure_with_axes()
  axes.plot(x, np.ravel(true_y), color='black', lw=1.6, label='true curve')
  axes.plot(
    x,
    np.ravel(before_y),
    color=GREY,
    lw=1.4,
    ls=(0, (2, 2)),
    label='before adaptation',
  )
  shades = np.linspace(0.45, 1, max(1, len(after_y)))
  for shade, (steps, y) in zip(shades, sorted(after_y.items()), strict=False):
    axes.plot(
      x,
      np.ravel(y),
      color=(ORANGE, shade),
      lw=1 + shade,
      label=f'after {_steps(steps)}',
    )
  axes.plot(
    points_x,
    points_y,
    ls='',
    marker='o',
    ms=6,
    color=BLUE,
    mec='white',
    zorder=5,
    label=f'{len(points_x)} support examples',
  )
  axes.set_xlabel('x (radians)')
  axes.set_ylabel('y')
  axes.margins(x=0.02)
  _legend(axes)
  return _save(figure, path, title)


def image_task(
  path: str | os.PathLike[str],
  support_images: Any,
  support_labels: Any,
  query_images: Any,
  query_labels: Any,
  predictions_before: Any,
  predictions_after: Any,
  title: str,
) -> Figure:
  """Draws one classification task and what was predicted for its queries.

  A row is a class: its support examples, then its queries. Under each query
  stand the predictions before and after adaptation; they, and the frame,
  which is that of the prediction after it, are green where right, and red
  and dashed where wrong.

  Args:
    path: the PNG file.
    support_images: `[examples, height, width, channels]`, uint8 or in [0, 1];
      ink is 1 where there is one channel, and drawn dark.
    support_labels: `[examples]` classes.
    query_images: `[queries, height, width, channels]`.
    query_labels: `[queries]` classes, all of them in the support set.
    predictions_before: `[queries]` classes.
    predictions_after: `[queries]` classes.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if shapes do not fit together, or if a query belongs to a class
      without a support example.
  """
  support, query = _pixels(support_images, 4), _pixels(query_images, 4)
  support_labels, query_labels = (
    np.ravel(support_labels),
    np.ravel(query_labels),
  )
  before, after = np.ravel(predictions_before), np.ravel(predictions_after)
  _same_length('support_images', support, 'support_labels', support_labels)
  for name, values in (
    ('query_labels', query_labels),
    ('predictions_before', before),
    ('predictions_after', after),
  ):
    _same_length('query_images', query, name, values)
  classes = np.unique(support_labels)
  if missing := sorted(set(query_labels.tolist()) - set(classes.tolist())):
    raise ValueError(
      f'queries of the classes {missing} have no support example; the support'
      f' set has {classes.tolist()}'
    )

  rows = [
    (
      label,
      np.flatnonzero(support_labels == label),
      np.flatnonzero(query_labels == label),
    )
    for label in classes
  ]
  shots = max(len(row[1]) for row in rows)
  queries = max(len(row[2]) for row in rows)
  shown = min(queries, _QUERIES_SHOWN)
  first_query = 0.9 + 1.1 * shots + 0.4
  width = first_query + 1.1 * shown
  height = 0.5 + 1.5 * len(rows)
  inches = min(0.85, max(0.62, min(7 / width, 9 / height)))
  figure, axes = _canvas(width, height, inches, 0.9)
  for index, (label, examples, asked) in enumerate(rows):
    top = 0.5 + 1.5 * index
    axes.text(
      0.35,
      top + 0.5,
      str(label),
      ha='center',
      va='center',
      size=13,
      weight='bold',
    )
    for column, example in enumerate(examples):
      _thumbnail(axes, 0.9 + 1.1 * column, top, support[example])
    for column, example in enumerate(asked[:shown]):
      left = first_query + 1.1 * column
      right = bool(after[example] == label)
      _thumbnail(axes, left, top, query[example], right)
      _caption(axes, left, top, before[example], after[example], label)
  headings = {0.35: 'class', 0.9: 'support', first_query: 'queries'}
  for left, heading in headings.items():
    align = 'center' if heading == 'class' else 'left'
    axes.text(left, 0.3, heading, ha=align, size=9, color=GREY)
  note = 'Under a query: its class as predicted before \N{RIGHTWARDS ARROW}'
  note += ' after adaptation. Green is right; red, dashed, is wrong.'
  if shown < queries:
    note += f' The first {shown} of up to {queries} queries of a class.'
  below = figure.supxlabel(note, color=GREY, parse_math=False)
  _fit(below, figure, _NOTE_SIZES)
  return _save(figure, path, title)


def image_grid(
  path: str | os.PathLike[str], images: Any, title: str | None = None
) -> Figure:
  """Draws images in rows, such as one class a row.

  Args:
    path: the PNG file.
    images: `[rows, columns, height, width, channels]`, as in `image_task`.
    title: one line, or none.

  Returns:
    The figure.

  Raises:
    ValueError: if the shape is not such.
  """
  pixels = _pixels(images, 5)
  rows, columns = pixels.shape[:2]
  margin = 0.5 if title else 0.1
  figure, axes = _canvas(1.1 * columns, 1.1 * rows, 0.5, margin)
  for row, line in enumerate(pixels):
    for column, image in enumerate(line):
      _thumbnail(axes, 1.1 * column + 0.05, 1.1 * row + 0.05, image)
  return _save(figure, path, title)


def _color_and_dash(place: int) -> tuple[str, str]:
  """Of the line of a method, by its place among them."""
  dash, color = divmod(place, len(COLORS))
  return COLORS[color], _DASHES[dash % len(_DASHES)]


def _figure_with_axes() -> tuple[Figure, Axes]:
  figure = Figure(figsize=(7, 4.6), layout='constrained')
  axes = figure.add_subplot()
  axes.grid(color='#E3E5E8', lw=0.7)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes


def _canvas(
  width: float, height: float, inches: float, margin: float
) -> tuple[Figure, Axes]:
  """Bare axes from (0, 0) at the top left.

  A unit of them is `inches` long; `margin` is for what stands above and below.
  """
  size = (max(5.0, width * inches + 0.2), height * inches + margin)
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.add_subplot(xlim=(0, width), ylim=(height, 0), aspect='equal')
  axes.set_axis_off()
  return figure, axes


def _dress(
  axes: Axes, metric: str, baseline: float | None, baseline_name: str
) -> None:
  """What all charts of a metric share: the baseline, the y axis, the legend."""
  percent = metric == 'accuracy'
  if baseline is not None:
    axes.axhline(
      baseline,
      color=GREY,
      lw=1.3,
      ls='--',
      label=f'{baseline_name}, {_describe(metric, baseline)}',
    )
  axes.set_ylabel(_LABELS.get(metric, metric))
  if percent:
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=''))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
  else:
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    if drawn.min() > 0 and drawn.max() > 50 * drawn.min():
      axes.set_yscale('log')
      few = drawn.max() < 1e4 * drawn.min()
      axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
      axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
      axes.yaxis.set_minor_formatter(NullFormatter())
  _legend(axes)


def _ends(points: Iterable[tuple[float, float, float]]) -> list[float]:
  """Where the intervals end: of places, values and halves of intervals."""
  return [value + sign * half for _, value, half in points for sign in (-1, 1)]


def _stretch(
  axes: Axes, along: Literal['x', 'y'], shares: Sequence[float]
) -> None:
  """A logit scale: half as many errors are as far everywhere near 100%."""
  ends = np.clip([min(shares), max(shares)], _SHARES[0], _SHARES[-1])
  logits = np.log(ends / (1 - ends))
  logits += (0.1 + 0.05 * np.ptp(logits)) * np.array([-1, 1])  # a margin
  axis = axes.xaxis if along == 'x' else axes.yaxis
  # Limits come first: of what is all 100% the scale could make none.
  getattr(axes, f'set_{along}lim')(1 / (1 + np.exp(-logits)))
  # What reaches 100% is drawn to the edge, and not left out.
  getattr(axes, f'set_{along}scale')('logit', nonpositive='clip')
  axis.set_major_locator(FixedLocator(_SHARES))
  axis.set_major_formatter(FuncFormatter(lambda share, _: f'{100 * share:g}'))
  axis.set_minor_locator(NullLocator())


def _describe(metric: str, value: float, half: float | None = None) -> str:
  """A value as the legend writes it, perhaps with half an interval."""
  sign = '\N{PLUS-MINUS SIGN}'
  if metric == 'accuracy':
    interval = '' if half is None else f' {sign} {100 * half:.1f}'
    return f'{100 * value:.1f}{interval}%'
  return f'{value:.3g}' + ('' if half is None else f' {sign} {half:.2g}')


def _steps(count: int) -> str:
  return f'{count} step' if count == 1 else f'{count} steps'


def _legend(axes: Axes) -> None:
  """A legend below the axes, where it hides nothing."""
  figure = axes.get_figure(root=True)
  assert figure is not None
  handles, names = axes.get_legend_handles_labels()
  for rows in range(1, len(names) + 1):
    legend = figure.legend(
      handles,
      names,
      loc='outside lower center',
      ncols=math.ceil(len(names) / rows),
      fontsize=9,
      frameon=False,
    )
    if _width(legend) < figure.bbox.width or rows == len(names):
      return
    legend.remove()


def _width(artist: Artist) -> float:
  """The width of a text or a legend in pixels, as it would be drawn now."""
  # Typed Any as matplotlib does not annotate the renderer.
  canvas: Any = FigureCanvasAgg(artist.get_figure(root=True))
  return float(artist.get_window_extent(canvas.get_renderer()).width)


def _series(
  records: Sequence[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """The steps and the finite values of one metric."""
  pairs = [
    (record['step'], record[name])
    for record in records
    if name in record and math.isfinite(record[name])
  ]
  steps, values = np.asarray(pairs, float).reshape(-1, 2).T
  return steps, values


def _smoothed(values: np.ndarray) -> np.ndarray:
  """A centred average over about 1/25 of a run, which does not lag behind."""
  width = min(len(values), 2 * (len(values) // 50) + 5)
  weights = np.hanning(width + 2)[1:-1]
  total = np.convolve(np.ones_like(values), weights, mode='same')
  return np.convolve(values, weights, mode='same') / total


def _pixels(images: Any, dimensions: int) -> np.ndarray:
  """RGB in [0, 1], with dark ink on white where there is one channel."""
  images = np.asarray(images)
  shape = images.shape
  if len(shape) != dimensions or shape[-1] not in (1, 3) or 0 in shape:
    raise ValueError(
      f'images must have {dimensions} axes, none of them empty, the last of 1'
      f' or 3 channels; got shape {shape}'
    )
  pixels = images.astype(np.float64)
  if images.dtype == np.uint8 and pixels.max() > 1:
    pixels /= 255
  low, high = pixels.min(), pixels.max()
  if low < 0 or high > 1:  # standardised, say
    pixels = (pixels - low) / max(high - low, 1e-12)
  return np.repeat(1 - pixels, 3, axis=-1) if shape[-1] == 1 else pixels


def _thumbnail(
  axes: Axes,
  left: float,
  top: float,
  image: np.ndarray,
  right: bool | None = None,
) -> None:
  """An image in a unit square, framed by what became of its prediction."""
  height, width = np.asarray(image.shape[:2]) / max(image.shape[:2])
  x, y = left + (1 - width) / 2, top + (1 - height) / 2
  axes.imshow(
    image,
    extent=(x, x + width, y + height, y),
    vmin=0,
    vmax=1,
    interpolation='nearest',
  )
  edge = '#BDC1C6' if right is None else _color(right)
  axes.add_patch(
    Rectangle(
      (left, top),
      1,
      1,
      fill=False,
      edgecolor=edge,
      linewidth=0.8 if right is None else 2.4,
      linestyle=(0, (2.5, 1.2)) if right is False else '-',
      clip_on=False,
    )
  )


def _caption(
  axes: Axes, left: float, top: float, before: Any, after: Any, label: Any
) -> None:
  """The two predictions for a query, under its image."""
  y = top + 1.26
  arrow = '\N{RIGHTWARDS ARROW}'
  axes.text(left + 0.5, y, arrow, ha='center', va='center', size=9, color=GREY)
  for x, prediction, align in ((0.36, before, 'right'), (0.64, after, 'left')):
    axes.text(
      left + x,
      y,
      str(prediction),
      ha=align,
      va='center',
      size=8.5,
      weight='bold',
      color=_color(bool(prediction == label)),
    )


def _color(right: bool) -> str:
  return RIGHT if right else WRONG


def _same_length(name: str, a: np.ndarray, other: str, b: np.ndarray) -> None:
  if len(a) != len(b) or not len(a):
    raise ValueError(
      f'{name} and {other} must have one length, 1 or more; got {len(a)} and'
      f' {len(b)}'
    )


def _fit(text: Text, figure: Figure, sizes: Sequence[float]) -> None:
  """Shrinks a text to the width of its figure, or else wraps it."""
  room = 0.96 * figure.bbox.width
  for size in sizes:
    text.set_fontsize(size)
    if (width := _width(text)) <= room:
      return
  content = text.get_text()
  # A little more than an equal share, as lines are cut between words.
  share = len(content) / math.ceil(width / room) + 8
  longest = len(content) * room / width
  text.set_text(textwrap.fill(content, int(min(share, longest))))


def _save(
  figure: Figure, path: str | os.PathLike[str], title: str | None
) -> Figure:
  if title:
    _fit(figure.suptitle(title, parse_math=False), figure, _TITLE_SIZES)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=_DOTS_PER_INCH)
  path = Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  return figure
