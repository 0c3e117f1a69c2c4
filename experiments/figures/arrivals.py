"""The chart of classes that arrive a few at a time."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.axes import dress
from experiments.figures.canvas import color_and_dash, figure_with_axes, save
from metajax.metric import ACCURACY

__all__ = ['by_classes']


def by_classes(
  path: str | os.PathLike[str],
  numbers: Sequence[int],
  results: Mapping[str, Sequence[tuple[float, float]]],
  title: str,
) -> Figure:
  """Draws accuracies against the number of classes that have come.

  Args:
    path: the PNG file.
    numbers: of classes.
    results: of every strategy, accuracies at these numbers and halves of their
      95% intervals.
    title: one line with the protocol.

  Returns:
    The figure.
  """
  figure, axes = figure_with_axes()
  # Side by side, or intervals would hide each other.
  gap = 0.02 * (max(numbers) - min(numbers) or 1)
  for place, (name, points) in enumerate(results.items()):
    values, halves = np.asarray(points, float).T
    color, style = color_and_dash(place)
    axes.errorbar(
      np.asarray(numbers) + gap * (place - (len(results) - 1) / 2) / 2,
      values,
      halves,
      color=color,
      ls=style,
      lw=1.4,
      marker='o',
      ms=4,
      capsize=2,
      label=name.replace('_', ' '),
    )
  axes.set_xticks(numbers)
  axes.set_xlabel('classes that have come, all to be told apart')
  dress(axes, ACCURACY)
  return save(figure, path, title)
