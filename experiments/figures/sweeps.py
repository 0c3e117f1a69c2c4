"""Pictures of a sweep: what matters, and which settings did well."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments.figures.canvas import BLUE, GREY, grid, save
from metajax.metric import Metric

__all__ = ['importance', 'parallel']


def importance(
  path: str | os.PathLike[str], shares: Mapping[str, float], title: str
) -> Figure:
  """Draws how much each setting matters.

  Args:
    path: the PNG file.
    shares: of each setting.
    title: one line.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no setting.
  """
  if not shares:
    raise ValueError('there is no setting to draw')
  figure = Figure(figsize=(7, 1.4 + 0.4 * len(shares)), layout='constrained')
  axes = figure.add_subplot()
  names = sorted(shares, key=lambda name: shares[name])
  axes.barh(names, [shares[name] for name in names], color=BLUE)
  for place, name in enumerate(names):
    axes.text(
      shares[name], place, f' {100 * shares[name]:.0f}%', va='center', size=9
    )
  axes.set_xlim(0, 1.1 * max(shares.values()))
  axes.set_xlabel('importance, share of what differs between trials')
  grid(axes, 'x')
  return save(figure, path, title)


def parallel(
  path: str | os.PathLike[str],
  trials: Sequence[tuple[Mapping[str, Any], float]],
  logarithmic: Mapping[str, bool],
  metric: Metric,
  title: str,
) -> Figure:
  """Draws each trial as a line through the values of its settings.

  Args:
    path: the PNG file.
    trials: their settings and what they have reached; the best are on top, and
      the very best is drawn wide.
    logarithmic: the settings, and whether their scale is logarithmic.
    metric: what was measured; the last axis is of it.
    title: one line.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no trial.
  """
  if not trials:
    raise ValueError('there is no trial to draw')
  columns = {
    name: _Scale([each[name] for each, _ in trials], log)
    for name, log in logarithmic.items()
  }
  values = [value for _, value in trials]
  columns[metric.heading] = _Scale([metric.scale * x for x in values], False)
  order = sorted(
    range(len(trials)), key=lambda index: metric.sort_key(values[index])
  )[::-1]
  figure = Figure(
    figsize=(max(7.0, 1.9 * len(columns)), 4.6), layout='constrained'
  )
  axes = figure.add_subplot()
  norm = Normalize(min(values), max(values))
  colors = ScalarMappable(norm, colormaps['viridis'])
  for rank, index in enumerate(order):
    best = rank + 1 == len(order)
    axes.plot(
      range(len(columns)),
      [scale.places[index] for scale in columns.values()],
      color=colors.to_rgba(np.array(values[index])),
      lw=3 if best else 1.1,
      alpha=1 if best else 0.75,
    )
  for place, scale in enumerate(columns.values()):
    axes.axvline(place, color=GREY, lw=0.8)
    for tick, label in scale.ticks:
      axes.text(
        place + 0.02, tick, label, size=8, va='center', parse_math=False,
        bbox={'facecolor': 'white', 'alpha': 0.75, 'lw': 0, 'pad': 0.8},
      )  # fmt: skip
  axes.set_xlim(-0.1, len(columns) - 0.6)
  axes.set_xticks(range(len(columns)), list(columns))
  axes.set_yticks([])
  axes.spines[['top', 'right', 'left', 'bottom']].set_visible(False)
  return save(figure, path, f'{title}; wide: the best')


class _Scale:
  """Where the values of a column stand, from 0 to 1, and its ticks."""

  def __init__(self, values: Sequence[Any], log: bool) -> None:
    numbers = all(
      isinstance(x, int | float) and not isinstance(x, bool) for x in values
    )
    if not numbers:
      names = sorted({str(each) for each in values})
      steps = np.linspace(0, 1, len(names)) if len(names) > 1 else [0.5]
      known = dict(zip(names, map(float, steps), strict=True))
      self.places = [known[str(each)] for each in values]
      self.ticks = [(place, name) for name, place in known.items()]
      return
    scaled = [math.log(x) if log else float(x) for x in values]
    low, high = min(scaled), max(scaled)
    width = (high - low) or 1.0
    middle = 0.5 if high == low else 0.0
    self.places = [middle + (x - low) / width for x in scaled]
    ends = [low] if high == low else [low, (low + high) / 2, high]
    self.ticks = [
      (middle + (x - low) / width, f'{math.exp(x) if log else x:.3g}')
      for x in ends
    ]
