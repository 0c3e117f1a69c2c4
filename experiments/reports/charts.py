"""Charts as inline SVG, which need no library and no script.

Whatever is drawn at a point has a text of its own: it appears over the point,
and, with the script of the page, over the nearest one. Every value is escaped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup

from experiments.reports.scales import (
  Scale,
  finite,
  fitting,
  is_wide,
  plain_number,
)

__all__ = ['Point', 'Series', 'bars', 'intervals', 'lines', 'reliability']

_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 22, 12, 46
_COLORS = 7
_NAMES = 168  # how wide names before intervals are
_ROW = 26  # the height of a row of them
_LETTERS = 24  # of such a name
_ALONE = 60  # points; of more than that only the line is seen


class Point(NamedTuple):
  """Where something is drawn, in the units of the axes."""

  x: float
  y: float
  low: float | None = None  # ends of an interval
  high: float | None = None
  text: str = ''  # instead of that of the chart


class Series(NamedTuple):
  """Points that belong together."""

  name: str  # in the legend; of nothing there, if it is empty
  points: Sequence[Point]
  color: int = 0
  style: Literal['line', 'thin', 'dots', 'dashed'] = 'line'


def lines(
  title: str,
  series: Sequence[Series],
  x_label: str,
  y_label: str,
  *,
  show: Callable[[float], str] = plain_number,
  levels: Mapping[str, float] | None = None,
  y_limits: tuple[float, float] | None = None,
  may_be_log: bool = False,
  x_is_log: bool = False,
  x_is_whole: bool = True,
  x_ticks: Sequence[float] = (),
  diagonal: str = '',
) -> Markup:
  """Draws curves and dots against two axes.

  Args:
    title: what is read out in place of the picture.
    series: what is drawn, with its intervals.
    x_label: of the axis.
    y_label: of the axis.
    show: writes a value of the y axis.
    levels: values that are drawn as lines across, by their names.
    y_limits: what the y axis does not go beyond, such as 0 and 100%.
    may_be_log: whether the y axis is logarithmic where values differ by much.
    x_is_log: the same of the x axis.
    x_is_whole: whether the x axis counts something.
    x_ticks: where the x axis has its ticks; it chooses them without.
    diagonal: the name of a line on which x is y, which both axes then share.

  Returns:
    The chart with its legend.
  """
  levels = levels or {}
  points = [point for each in series for point in _drawn(each)]
  y_values = [*finite([p.y for p in points]), *levels.values()]
  if not (may_be_log and is_wide(y_values)):  # there ends may have no place
    y_values += finite([end for p in points for end in (p.low, p.high)])
  x_values = [p.x for p in points]
  if diagonal:
    x_values = y_values = x_values + y_values
  x = fitting(
    x_values, _LEFT, _WIDTH - _RIGHT, may_be_log=x_is_log, whole=x_is_whole,
    at=x_ticks,
  )  # fmt: skip
  y = fitting(
    y_values, _HEIGHT - _BOTTOM, _TOP, may_be_log=may_be_log, limits=y_limits
  )
  parts = [_axes(x, y, x_label, y_label)]
  for value in levels.values():
    parts.append(_line('level', x.start, y(value), x.end, y(value)))
  if diagonal:
    parts.append(_line('level', x(y.low), y(x.low), x(y.high), y(x.high)))
  parts += [_band(each, x, y) for each in series]
  parts += [_path(each, x, y) for each in series]
  tip = f'{x_label} '
  parts += [_dots(each, x, y, tip, show) for each in series]
  keys = [
    _key(each.name, f'c{each.color % _COLORS} d{_dash(each)} {each.style}')
    for each in series
    if each.name
  ]
  keys += [
    _key(f'{name}, {show(value)}', 'level') for name, value in levels.items()
  ]
  keys += [_key(diagonal, 'level')] if diagonal else []
  return _chart(title, parts, keys, _HEIGHT)


def intervals(
  title: str,
  rows: Sequence[tuple[str, Point]],
  x_label: str,
  *,
  limits: tuple[float, float] | None = None,
  level: tuple[str, float] | None = None,
  may_be_log: bool = False,
) -> Markup:
  """Draws a dot with its interval for each name, one below the other.

  Args:
    title: what is read out in place of the picture.
    rows: names, and points whose x and interval are drawn, and whose text is
      shown.
    x_label: of the axis.
    limits: what the axis does not go beyond.
    level: a value that is drawn as a line across all rows, and its name.
    may_be_log: whether the axis is logarithmic where values differ by much.
  """
  height = _TOP + _ROW * len(rows) + _BOTTOM
  values = finite([v for _, p in rows for v in (p.x, p.low, p.high)])
  values += [level[1]] if level else []
  x = fitting(
    values, _NAMES, _WIDTH - _RIGHT, limits=limits, may_be_log=may_be_log,
    most=5,
  )  # fmt: skip
  bottom = height - _BOTTOM
  parts = [_x_axis(x, _TOP, bottom, x_label)]
  if level:
    parts.append(_line('level', x(level[1]), _TOP, x(level[1]), bottom))
  for place, (name, point) in enumerate(rows):
    top = _TOP + _ROW * (place + 0.5)
    shown = name if len(name) <= _LETTERS else f'{name[: _LETTERS - 1]}…'
    parts.append(
      Markup('<text class="name" x="{}" y="{}">{}</text>').format(
        _NAMES - 12, top + 4, shown
      )
    )
    if point.low is not None and point.high is not None:
      parts.append(_line('whisker c0', x(point.low), top, x(point.high), top))
    if math.isfinite(point.x):
      parts.append(_dot(x(point.x), top, 0, f'{name}: {point.text}'))
  return _chart(
    title, parts, [_key(level[0], 'level')] if level else [], height
  )


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
  y = fitting(
    [0.0, *(height for _, height, _ in heights)],
    _HEIGHT - _BOTTOM, _TOP + 8, limits=(0.0, math.inf), whole=True,
  )  # fmt: skip
  width = (_WIDTH - _LEFT - _RIGHT) / max(len(heights), 1)
  nothing = Scale(0, 1, _LEFT, _WIDTH - _RIGHT)
  parts = [_axes(nothing, y, x_label, y_label)]
  every = -(-len(heights) // 8)
  for place, (name, height, text) in enumerate(heights):
    left = _LEFT + place * width
    parts.append(
      Markup(
        '<rect class="bar tip" x="{}" y="{}" width="{}" height="{}"'
        ' data-text="{}"><title>{}</title></rect>'
      ).format(
        round(left + 0.06 * width, 2), y(height), round(0.88 * width, 2),
        round(max(y(0) - y(height), 0.01), 2), text, text,
      )
    )  # fmt: skip
    if place % every == 0:
      parts.append(_tick_text(left + width / 2, _HEIGHT - _BOTTOM + 18, name))
  return _chart(title, parts, [], _HEIGHT)


def reliability(
  title: str, bins: Sequence[tuple[float, float, float, int]]
) -> Markup:
  """Draws accuracy against confidence, and how many predictions have it.

  Args:
    title: what is read out in place of the picture.
    bins: start and end of the confidence of each, the accuracy, and how many
      there are; only bins in which something is.
  """
  side = _HEIGHT - _BOTTOM - 60
  x = Scale(0, 100, _LEFT, _WIDTH - _RIGHT, False, (0, 20, 40, 60, 80, 100))
  y = Scale(0, 100, side, _TOP, False, (0, 20, 40, 60, 80, 100))
  total = sum(count for *_, count in bins) or 1
  most = max((count for *_, count in bins), default=1)
  base = side + 58  # of the strip below
  parts = [
    _y_axis(y, x, 'accuracy (%)'),
    _x_axis(x, _TOP, side, ''),
    _tick_text((x.start + x.end) / 2, base + 20, 'confidence (%)', 'label'),
  ]
  for low, high, accuracy, number in bins:
    left, width = x(100 * low), round(x(100 * high) - x(100 * low) - 1, 2)
    text = (
      f'confidence {100 * low:.0f} to {100 * high:.0f}%: {100 * accuracy:.1f}%'
      f' right, {number:,} of {total:,} predictions'
    )
    strip = round(32 * number / most, 2)
    for style, top, height in (
      ('bar', y(100 * accuracy), side - y(100 * accuracy)),
      ('bar pale', base - strip, strip),
    ):
      parts.append(
        Markup(
          '<rect class="{} tip" x="{}" y="{}" width="{}" height="{}"'
          ' data-text="{}"><title>{}</title></rect>'
        ).format(
          style, left, top, width, round(max(height, 0.5), 2), text, text
        )
      )
  parts.append(_line('strong', x(0), y(0), x(100), y(100)))
  keys = [
    _key('accuracy', 'box'), _key('as confident as right', 'strong'),
    _key('share of predictions', 'box pale'),
  ]  # fmt: skip
  return _chart(title, parts, keys, base + 28)


def _dash(series: Series) -> int:
  """How a line is dashed, where there are more of them than colours."""
  return series.color // _COLORS % 3


def _drawn(series: Series) -> list[Point]:
  return [
    point
    for point in series.points
    if math.isfinite(point.x) and math.isfinite(point.y)
  ]


def _chart(
  title: str, parts: Sequence[Markup], keys: Sequence[Markup], height: float
) -> Markup:
  legend = Markup('')
  if keys:
    legend = Markup('<ul class="legend">{}</ul>').format(Markup('').join(keys))
  return Markup(
    '<div class="chart"><svg viewBox="0 0 {} {}" role="img" aria-label="{}"'
    ' tabindex="0">{}</svg>{}</div>'
  ).format(_WIDTH, round(height), title, Markup('').join(parts), legend)


def _axes(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
  return _y_axis(y, x, y_label) + _x_axis(x, y.end, y.start, x_label)


def _y_axis(y: Scale, x: Scale, label: str) -> Markup:
  parts = [
    _line('grid', x.start, y(tick), x.end, y(tick))
    + Markup('<text class="tick" text-anchor="end" x="{}" y="{}">{}</text>')
    .format(x.start - 8, y(tick) + 4, plain_number(tick))
    for tick in y.ticks
  ]  # fmt: skip
  middle = (y.start + y.end) / 2
  parts.append(
    Markup(
      '<text class="label" transform="translate(13 {}) rotate(-90)">{}</text>'
    ).format(middle, label)
  )
  return Markup('').join(parts)


def _x_axis(x: Scale, top: float, bottom: float, label: str) -> Markup:
  parts = [_line('axis', x.start, bottom, x.end, bottom)]
  for tick in x.ticks:
    parts.append(_line('grid', x(tick), top, x(tick), bottom))
    parts.append(_tick_text(x(tick), bottom + 18, plain_number(tick)))
  parts.append(_tick_text((x.start + x.end) / 2, bottom + 38, label, 'label'))
  return Markup('').join(parts)


def _tick_text(x: float, y: float, text: str, style: str = 'tick') -> Markup:
  return Markup(
    '<text class="{}" text-anchor="middle" x="{}" y="{}">{}</text>'
  ).format(style, round(x, 2), round(y, 2), text)


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
  return Markup(
    '<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>'
  ).format(style, *(round(each, 2) for each in (x1, y1, x2, y2)))  # fmt: skip


def _band(series: Series, x: Scale, y: Scale) -> Markup:
  """Draws intervals: as a band around a curve, as whiskers of dots."""
  found = [
    (x(p.x), y(p.low), y(p.high))
    for p in _drawn(series)
    if p.low is not None and p.high is not None
    if math.isfinite(p.low) and math.isfinite(p.high)
  ]
  color = series.color % _COLORS
  if len(found) < 2 or series.style == 'dots':
    return Markup('').join(
      _line(f'whisker c{color}', at, low, at, high) for at, low, high in found
    )
  edge = [f'{at},{high}' for at, _, high in found]
  edge += [f'{at},{low}' for at, low, _ in reversed(found)]
  return Markup('<polygon class="band c{}" points="{}"/>').format(
    color, ' '.join(edge)
  )


def _path(series: Series, x: Scale, y: Scale) -> Markup:
  if series.style == 'dots':
    return Markup('')
  places = ' '.join(f'{x(p.x)},{y(p.y)}' for p in _drawn(series))
  return Markup('<polyline class="{} c{} d{}" points="{}"/>').format(
    series.style, series.color % _COLORS, _dash(series), places
  )


def _dots(
  series: Series, x: Scale, y: Scale, tip: str, show: Callable[[float], str]
) -> Markup:
  points = _drawn(series)
  hidden = series.style != 'dots' and len(points) > _ALONE
  parts = []
  for point in points:
    text = point.text or f'{series.name}, {tip}{plain_number(point.x)}: ' + (
      show(point.y)
      if point.high is None
      else f'{show(point.y)} ± {show(point.high - point.y)}'
    )
    parts.append(_dot(x(point.x), y(point.y), series.color, text, hidden))
  return Markup('').join(parts)


def _dot(
  x: float, y: float, color: int, text: str, hidden: bool = False
) -> Markup:
  return Markup(
    '<circle class="dot tip c{}{}" cx="{}" cy="{}" r="3.5" data-text="{}">'
    '<title>{}</title></circle>'
  ).format(color % _COLORS, ' hidden' if hidden else '', x, y, text, text)


def _key(name: str, style: str) -> Markup:
  if style.startswith('box'):
    drawn = Markup('<rect class="bar {}" x="3" y="1" width="20" height="10"/>')
  elif style.endswith('dots'):
    drawn = Markup('<circle class="dot {}" cx="13" cy="6" r="4"/>')
  else:
    drawn = Markup('<line class="{}" x1="1" y1="6" x2="25" y2="6"/>')
  return Markup(
    '<li><svg class="swatch" viewBox="0 0 26 12" aria-hidden="true">{}</svg>'
    '{}</li>'
  ).format(drawn.format(style.removeprefix('box').strip()), name)
