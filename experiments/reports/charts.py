"""Charts of points: curves, dots, and intervals by name."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup

from experiments.reports.drawing import (
  BOTTOM,
  COLORS,
  HEIGHT,
  LEFT,
  RIGHT,
  TOP,
  WIDTH,
  axes,
  chart,
  dot,
  key,
  rule,
  x_axis,
)
from experiments.reports.scales import (
  Scale,
  finite,
  fitting,
  is_wide,
  plain_number,
  shortened,
)

__all__ = ['Point', 'Series', 'intervals', 'lines']

_NAMES = 190  # how wide names before intervals are, with room behind them
_ROOM = 12
_ROW = 26  # the height of a row of them
_SIZE = 14.5  # of letters of names, in a narrow window
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
    x_is_log: whether the x axis is logarithmic, where it is above 0.
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
    x_values, LEFT, WIDTH - RIGHT, is_log=x_is_log, whole=x_is_whole,
    at=x_ticks,
  )  # fmt: skip
  y = fitting(
    y_values, HEIGHT - BOTTOM, TOP, may_be_log=may_be_log, limits=y_limits
  )
  parts = [axes(x, y, x_label, y_label)]
  for value in levels.values():
    parts.append(rule('level', x.start, y(value), x.end, y(value)))
  if diagonal:
    parts.append(rule('level', x(y.low), y(x.low), x(y.high), y(x.high)))
  parts += [_band(each, x, y) for each in series]
  parts += [_path(each, x, y) for each in series]
  tip = f'{x_label} '
  parts += [_dots(each, x, y, tip, show) for each in series]
  keys = [
    key(each.name, f'c{each.color % COLORS} d{_dash(each)} {each.style}')
    for each in series
    if each.name
  ]
  keys += [
    key(f'{name}, {show(value)}', 'level') for name, value in levels.items()
  ]
  keys += [key(diagonal, 'level')] if diagonal else []
  return chart(title, parts, keys, HEIGHT)


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

  Names stand before the lines or, where one is too long for that, above them.

  Args:
    title: what is read out in place of the picture.
    rows: names, and points whose x and interval are drawn, and whose text is
      shown.
    x_label: of the axis.
    limits: what the axis does not go beyond.
    level: a value that is drawn as a line across all rows, and its name.
    may_be_log: whether the axis is logarithmic where values differ by much.
  """
  room = _NAMES - _ROOM
  above = any(shortened(name, room / _SIZE) != name for name, _ in rows)
  left, row = (_ROOM, 2 * _ROW) if above else (_NAMES, _ROW)
  height = TOP + row * len(rows) + BOTTOM
  values = finite([v for _, p in rows for v in (p.x, p.low, p.high)])
  values += [level[1]] if level else []
  x = fitting(
    values, left, WIDTH - RIGHT, limits=limits, may_be_log=may_be_log, most=5
  )
  bottom = height - BOTTOM
  parts = [x_axis(x, TOP, bottom, x_label)]
  if level:
    parts.append(rule('level', x(level[1]), TOP, x(level[1]), bottom))
  for place, (name, point) in enumerate(rows):
    top = TOP + row * (place + 1) - _ROW / 2
    parts.append(_name(name, top, above))
    if point.low is not None and point.high is not None:
      parts.append(rule('whisker c0', x(point.low), top, x(point.high), top))
    if math.isfinite(point.x):
      parts.append(dot(x(point.x), top, 0, f'{name}: {point.text}'))
  return chart(title, parts, [key(level[0], 'level')] if level else [], height)


def _name(name: str, y: float, above: bool) -> Markup:
  """A name before or above its line; it ends before the edge."""
  x, style = (_NAMES - _ROOM, 'name')
  if above:
    x, y, style = _ROOM, y - 0.7 * _ROW, 'name above'
  room = WIDTH - RIGHT - _ROOM if above else x
  shown = shortened(name, room / _SIZE)
  whole = Markup('<title>{}</title>').format(name) if shown != name else ''
  return Markup('<text class="{}" x="{}" y="{}">{}{}</text>').format(
    style, x, round(y + 4, 2), whole, shown
  )


def _dash(series: Series) -> int:
  """How a line is dashed, where there are more of them than colours."""
  return series.color // COLORS % 3


def _drawn(series: Series) -> list[Point]:
  return [
    point
    for point in series.points
    if math.isfinite(point.x) and math.isfinite(point.y)
  ]


def _band(series: Series, x: Scale, y: Scale) -> Markup:
  """Draws intervals: as a band around a curve, as whiskers of dots."""
  found = [
    (x(p.x), y(p.low), y(p.high))
    for p in _drawn(series)
    if p.low is not None and p.high is not None
    if math.isfinite(p.low) and math.isfinite(p.high)
  ]
  color = series.color % COLORS
  if len(found) < 2 or series.style == 'dots':
    return Markup('').join(
      rule(f'whisker c{color}', at, low, at, high) for at, low, high in found
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
    series.style, series.color % COLORS, _dash(series), places
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
    parts.append(dot(x(point.x), y(point.y), series.color, text, hidden))
  return Markup('').join(parts)
