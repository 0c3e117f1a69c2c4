"""Charts of counts: bars, histograms, and calibration."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from experiments.reports.drawing import (
  BOTTOM,
  HEIGHT,
  LEFT,
  RIGHT,
  TOP,
  WIDTH,
  axes,
  bar,
  chart,
  key,
  rule,
  tick_text,
  x_axis,
  y_axis,
)
from experiments.reports.scales import Scale, fitting

_FEW = 0.01  # of all predictions; of a bin of fewer the accuracy is chance

__all__ = ['bars', 'histogram', 'reliability']


def bars(
  title: str,
  heights: Sequence[tuple[str, float, str]],
  x_label: str,
  y_label: str,
) -> Markup:
  """Draws bars beside each other.

  Args:
    title: what is read out in place of the picture.
    heights: what stands under a bar, its height, and its text.
    x_label: of the axis.
    y_label: of the axis.
  """
  y = _counts([height for _, height, _ in heights])
  width = (WIDTH - LEFT - RIGHT) / max(len(heights), 1)
  nothing = Scale(0, 1, LEFT, WIDTH - RIGHT)
  parts = [axes(nothing, y, x_label, y_label)]
  every = -(-len(heights) // 8)
  for place, (name, height, text) in enumerate(heights):
    left = LEFT + place * width
    parts.append(_bar(left, left + width, height, y, text))
    if place % every == 0:
      parts.append(tick_text(left + width / 2, HEIGHT - BOTTOM + 18, name))
  return chart(title, parts, [], HEIGHT)


def histogram(
  title: str,
  edges: Sequence[float],
  numbers: Sequence[int],
  x_label: str,
  y_label: str,
  texts: Sequence[str],
  *,
  may_be_log: bool = False,
) -> Markup:
  """Draws how many values lie between edges, against an axis of values.

  Args:
    title: what is read out in place of the picture.
    edges: of bins, in their order; one more than there are bins.
    numbers: how many values each bin has.
    x_label: of the axis.
    y_label: of the axis.
    texts: of the bins.
    may_be_log: whether the axis is logarithmic where edges differ by much.
  """
  x = fitting(edges, LEFT, WIDTH - RIGHT, may_be_log=may_be_log)
  y = _counts(numbers)
  parts = [axes(x, y, x_label, y_label)]
  bins = zip(edges, edges[1:], numbers, texts, strict=False)
  parts += [_bar(x(a), x(b), number, y, text) for a, b, number, text in bins]
  return chart(title, parts, [], HEIGHT)


def _counts(numbers: Sequence[float]) -> Scale:
  return fitting(
    [0.0, *numbers], HEIGHT - BOTTOM, TOP + 8, limits=(0.0, math.inf),
    whole=True,
  )  # fmt: skip


def _bar(
  left: float, right: float, number: float, y: Scale, text: str
) -> Markup:
  width, height = right - left, max(y(0) - y(number), 0.01)
  return bar('bar', left + 0.06 * width, y(number), 0.88 * width, height, text)


def reliability(
  title: str, bins: Sequence[tuple[float, float, float, int]]
) -> Markup:
  """Draws accuracy against confidence, and how many predictions have it.

  Args:
    title: what is read out in place of the picture.
    bins: start and end of the confidence of each, the accuracy, and how many
      there are; only bins in which something is. Bins of less than 1% of all
      are drawn faint.
  """
  side = HEIGHT - BOTTOM - 60
  x = Scale(0, 100, LEFT, WIDTH - RIGHT, False, (0, 20, 40, 60, 80, 100))
  y = Scale(0, 100, side, TOP, False, (0, 20, 40, 60, 80, 100))
  total = sum(count for *_, count in bins) or 1
  most = max((count for *_, count in bins), default=1)
  base = side + 58  # of the strip below
  parts = [
    y_axis(y, x, 'accuracy (%)'),
    x_axis(x, TOP, side, ''),
    tick_text((x.start + x.end) / 2, base + 20, 'confidence (%)', 'label'),
  ]
  for low, high, accuracy, number in bins:
    left, width = x(100 * low), x(100 * high) - x(100 * low) - 1
    text = (
      f'confidence {100 * low:.0f} to {100 * high:.0f}%: {100 * accuracy:.1f}%'
      f' right, {number:,} of {total:,} predictions'
    )
    style = 'bar' if number >= _FEW * total else 'bar faint'
    strip = 32 * number / most
    for kind, top, height in (
      (style, y(100 * accuracy), side - y(100 * accuracy)),
      ('bar pale', base - strip, strip),
    ):
      parts.append(bar(kind, left, top, width, max(height, 0.5), text))
  parts.append(rule('strong', x(0), y(0), x(100), y(100)))
  keys = [
    key('accuracy', 'box'), key('as confident as right', 'strong'),
    key('share of predictions', 'box pale'),
  ]  # fmt: skip
  return chart(title, parts, keys, base + 28)
