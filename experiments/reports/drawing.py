"""What charts are drawn of: inline SVG, which needs no library and no script.

Whatever is drawn at a point has a text of its own: it appears over the point,
and, with the script of the page, over the nearest one. Every value is escaped.
"""

from collections.abc import Sequence

from markupsafe import Markup

from experiments.reports.scales import Scale, plain_number

__all__ = [
  'BOTTOM',
  'COLORS',
  'HEIGHT',
  'LEFT',
  'RIGHT',
  'TOP',
  'WIDTH',
  'axes',
  'bar',
  'chart',
  'dot',
  'key',
  'rule',
  'tick_text',
  'x_axis',
  'y_axis',
]

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 22, 12, 46
COLORS = 7


def chart(
  title: str, parts: Sequence[Markup], keys: Sequence[Markup], height: float
) -> Markup:
  """A chart with its legend, of what is drawn in it."""
  legend = Markup('')
  if keys:
    legend = Markup('<ul class="legend">{}</ul>').format(Markup('').join(keys))
  return Markup(
    '<div class="chart"><svg viewBox="0 0 {} {}" role="img" aria-label="{}"'
    ' tabindex="0">{}</svg>{}</div>'
  ).format(WIDTH, round(height), title, Markup('').join(parts), legend)


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
  """Both axes."""
  return y_axis(y, x, y_label) + x_axis(x, y.end, y.start, x_label)


def y_axis(y: Scale, x: Scale, label: str) -> Markup:
  """The axis on the left, with a line across for each tick."""
  parts = [
    rule('grid', x.start, y(tick), x.end, y(tick))
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


def x_axis(x: Scale, top: float, bottom: float, label: str) -> Markup:
  """The axis below, with a line upwards for each tick."""
  parts = [rule('axis', x.start, bottom, x.end, bottom)]
  for tick in x.ticks:
    parts.append(rule('grid', x(tick), top, x(tick), bottom))
    parts.append(tick_text(x(tick), bottom + 18, plain_number(tick)))
  parts.append(tick_text((x.start + x.end) / 2, bottom + 38, label, 'label'))
  return Markup('').join(parts)


def tick_text(x: float, y: float, text: str, style: str = 'tick') -> Markup:
  """A text with its middle at a place."""
  return Markup(
    '<text class="{}" text-anchor="middle" x="{}" y="{}">{}</text>'
  ).format(style, round(x, 2), round(y, 2), text)


def rule(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
  """A straight line."""
  return Markup(
    '<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>'
  ).format(style, *(round(each, 2) for each in (x1, y1, x2, y2)))  # fmt: skip


def dot(
  x: float, y: float, color: int, text: str, hidden: bool = False
) -> Markup:
  """A dot with its text."""
  return Markup(
    '<circle class="dot tip c{}{}" cx="{}" cy="{}" r="3.5" data-text="{}">'
    '<title>{}</title></circle>'
  ).format(color % COLORS, ' hidden' if hidden else '', x, y, text, text)


def key(name: str, style: str) -> Markup:
  """A line of the legend: how something is drawn, and its name."""
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


def bar(
  style: str, left: float, top: float, width: float, height: float, text: str
) -> Markup:
  """A bar with its text."""
  return Markup(
    '<rect class="{} tip" x="{}" y="{}" width="{}" height="{}"'
    ' data-text="{}"><title>{}</title></rect>'
  ).format(
    style, *(round(each, 2) for each in (left, top, width, height)), text, text
  )
