"""What all pictures share: colours, sizes, legends, and how they are saved.

Each picture is written to its `path` in one atomic replacement. Nothing here
touches the global state of pyplot, so drawing works in any thread and without a
display.
"""

import io
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

__all__ = [
  'BLUE',
  'COLORS',
  'GREY',
  'NOTE_SIZES',
  'ORANGE',
  'bare_axes',
  'color_and_dash',
  'count_steps',
  'figure_with_axes',
  'fit',
  'grid',
  'legend',
  'same_length',
  'save',
  'shortened',
]

# From the palette of Okabe and Ito, which the colour-blind can tell apart.
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#5F6368'
COLORS = (BLUE, ORANGE, '#009E73', '#CC79A7', '#E69F00', '#56B4E9', GREY)
NOTE_SIZES = (9.0, 8.0, 7.0)

_DASHES = ('-', '--', ':', '-.')
_DOTS_PER_INCH = 150
_TITLE_SIZES = (11.0, 10.0, 9.0, 8.0)


def figure_with_axes() -> tuple[Figure, Axes]:
  """Makes a figure with axes and a grid, of the size of all charts."""
  figure = Figure(figsize=(7, 4.6), layout='constrained')
  axes = figure.add_subplot()
  grid(axes)
  return figure, axes


def grid(axes: Axes, along: Literal['both', 'x', 'y'] = 'both') -> None:
  """Draws a pale grid behind what is drawn, and no frame."""
  axes.grid(axis=along, color='#E3E5E8', lw=0.7)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)


def bare_axes(
  width: float, height: float, inches: float, margin: float
) -> tuple[Figure, Axes]:
  """Makes a figure with bare axes, from (0, 0) at the top left.

  A unit of them is `inches` long; `margin` is for what stands above and below.
  """
  size = (max(5.0, width * inches + 0.2), height * inches + margin)
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.add_subplot(xlim=(0, width), ylim=(height, 0), aspect='equal')
  axes.set_axis_off()
  return figure, axes


def color_and_dash(place: int) -> tuple[str, str]:
  """Chooses how the line of a method is drawn, by its place among them."""
  dash, color = divmod(place, len(COLORS))
  return COLORS[color], _DASHES[dash % len(_DASHES)]


def legend(axes: Axes) -> None:
  """Puts a legend below the axes, where it hides nothing."""
  figure = axes.get_figure(root=True)
  assert figure is not None
  handles, names = axes.get_legend_handles_labels()
  for rows in range(1, len(names) + 1):
    made = figure.legend(
      handles,
      names,
      loc='outside lower center',
      ncols=math.ceil(len(names) / rows),
      fontsize=9,
      frameon=False,
    )
    if _width(made) < figure.bbox.width or rows == len(names):
      return
    made.remove()


def fit(text: Text, figure: Figure, sizes: Sequence[float]) -> None:
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


def save(
  figure: Figure, path: str | os.PathLike[str], title: str | None
) -> Figure:
  """Writes the figure, under its title, and returns it."""
  if title:
    fit(figure.suptitle(title, parse_math=False), figure, _TITLE_SIZES)
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


def same_length(name: str, a: np.ndarray, other: str, b: np.ndarray) -> None:
  """Refuses two arrays that are not about the same points, or about none."""
  if len(a) != len(b) or not len(a):
    raise ValueError(
      f'{name} and {other} must have one length, 1 or more; got {len(a)} and'
      f' {len(b)}'
    )


def shortened(text: str, letters: int) -> str:
  """A text of at most so many letters in one line, which the font all has."""
  font = get_font(findfont(FontProperties()))
  text = ''.join(
    each if font.get_char_index(ord(each)) else '?'
    for each in ' '.join(text.split())
  )
  if len(text) <= letters:
    return text
  half = letters // 2  # What differs is often at the end.
  return f'{text[: letters - half - 1]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}'


def count_steps(count: int) -> str:
  """Says how many steps."""
  return f'{count} step' if count == 1 else f'{count} steps'


def _width(artist: Artist) -> float:
  """Measures a text or a legend in pixels, as it would be drawn now."""
  # Typed Any as matplotlib does not annotate the renderer.
  canvas: Any = FigureCanvasAgg(artist.get_figure(root=True))
  return float(artist.get_window_extent(canvas.get_renderer()).width)
