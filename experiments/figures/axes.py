"""How a metric is written on the axes and in the legend of a chart."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import (
  FixedLocator,
  FuncFormatter,
  LogLocator,
  NullFormatter,
  NullLocator,
  PercentFormatter,
  StrMethodFormatter,
)

from experiments.figures.canvas import GREY, legend
from metajax.metric import Metric

__all__ = [
  'band',
  'describe',
  'dress',
  'edges',
  'is_stretched',
  'percent',
  'stretch',
]

# Where a scale that is stretched towards 100% has its ticks. It has no place
# for 0% and 100%: what rounds to them stands at its ends, which are called so.
_NONE, _ALL = 0.005, 0.9995
_SHARES = (
  _NONE, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8,
  0.9, 0.95, 0.98, 0.99, 0.995, 0.998, _ALL,
)  # fmt: skip
_MOST_TICKS = {'x': 11, 'y': 20}
_NAMES = {_NONE: '0', _ALL: '100'}


def dress(
  axes: Axes,
  metric: Metric,
  baseline: float | None = None,
  baseline_name: str = '',
) -> None:
  """Adds what all charts share: a baseline, the y axis, the legend."""
  if baseline is not None:
    axes.axhline(
      baseline,
      color=GREY,
      lw=1.3,
      ls='--',
      label=f'{baseline_name}, {describe(metric, baseline)}',
    )
  axes.set_ylabel(metric.axis)
  if metric.is_share:
    axes.yaxis.set_major_formatter(percent())
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
  else:
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and drawn.max() > 50 * drawn.min() > 0:
      axes.set_yscale('log')
      few = drawn.max() < 1e4 * drawn.min()
      axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
      axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
      axes.yaxis.set_minor_formatter(NullFormatter())
  legend(axes)


def describe(metric: Metric, value: float, half: float | None = None) -> str:
  """Writes a value as the legend has it, perhaps with half an interval."""
  if metric.is_share:
    shown = metric.format(value)
    if half is not None:
      shown = metric.format_interval(value, half)
    return f'{shown}{metric.unit}'
  interval = '' if half is None else f' \N{PLUS-MINUS SIGN} {half:.2g}'
  return f'{value:.3g}{interval} {metric.unit}'.rstrip()


def percent() -> PercentFormatter:
  """Ticks of shares; the sign stands beside the axis."""
  return PercentFormatter(1, symbol='')


def band(
  axes: Axes,
  places: np.ndarray,
  means: np.ndarray,
  halves: np.ndarray,
  color: str,
  label: str,
) -> None:
  """Draws an interval around a curve as a pale band."""
  axes.fill_between(
    places,
    means - halves,
    means + halves,
    color=color,
    alpha=0.2,
    lw=0,
    label=label,
  )


def edges(
  axes: Axes,
  places: np.ndarray,
  means: np.ndarray,
  halves: np.ndarray,
  color: str,
  label: str,
) -> None:
  """Draws the ends of an interval around a curve, so that a band is seen."""
  ends = [np.stack([places, means + sign * halves], 1) for sign in (-1, 1)]
  # No lines of the axes, whose data decide the scale.
  axes.add_collection(
    LineCollection(ends, color=color, ls='--', lw=0.9, label=label)
  )
  axes.autoscale_view()


def is_stretched(metric: Metric) -> bool:
  """Whether there is most to see near 100%."""
  return metric.is_share and metric.higher_is_better


def stretch(
  axes: Axes, along: Literal['x', 'y'], shares: Sequence[float]
) -> None:
  """Sets a logit scale: halving the errors is as far anywhere near 100%.

  What is drawn already and reaches 0% or 100% is moved to where the scale has
  these.
  """
  ends = np.clip([min(shares), max(shares)], _NONE, _ALL)
  logits = np.log(ends / (1 - ends))
  logits += (0.1 + 0.05 * np.ptp(logits)) * np.array([-1, 1])  # a margin
  axis = axes.xaxis if along == 'x' else axes.yaxis
  # Limits come first: of what is all 100% the scale could make none.
  getattr(axes, f'set_{along}lim')(1 / (1 + np.exp(-logits)))
  getattr(axes, f'set_{along}scale')('logit', nonpositive='clip')
  _keep_on_scale(axes, along)
  axis.set_major_locator(FixedLocator(_ticks(logits, _MOST_TICKS[along])))
  axis.set_major_formatter(
    FuncFormatter(lambda share, _: _NAMES.get(share, f'{100 * share:g}'))
  )
  axis.set_minor_locator(NullLocator())


def _ticks(ends: np.ndarray, most: int) -> list[float]:
  """The shares between two logits that stand far enough apart to be read."""
  low, high = ends
  kept: list[float] = []
  last = math.inf
  for share in reversed(_SHARES):
    logit = math.log(share / (1 - share))
    if low <= logit <= min(high, last - (high - low) / most):
      kept.append(share)
      last = logit
  return kept


def _keep_on_scale(axes: Axes, along: Literal['x', 'y']) -> None:
  """Moves the points of curves and intervals to between the ends of a scale."""
  place = 'xy'.index(along)
  for line in axes.get_lines():
    # Not of a line across the whole of the axes, which has no data along it.
    if line.get_transform() == axes.transData:
      shares = np.asarray(getattr(line, f'get_{along}data')(), float)
      getattr(line, f'set_{along}data')(np.clip(shares, _NONE, _ALL))
  for bars in axes.collections:
    if isinstance(bars, LineCollection):
      segments = [np.array(each, float) for each in bars.get_segments()]
      for each in segments:
        each[:, place] = np.clip(each[:, place], _NONE, _ALL)
      bars.set_segments(segments)
