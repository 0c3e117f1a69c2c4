"""The chart of classes that come in a stream."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.axes import dress
from experiments.figures.canvas import color_and_dash, figure_with_axes, save
from metajax.metric import ACCURACY

__all__ = ['by_number']


def by_number(
  path: str | os.PathLike[str],
  numbers: Sequence[int],
  results: Mapping[str, Sequence[tuple[float, float]]],
  title: str,
  public: Mapping[int, float] | None = None,
) -> Figure:
  """Draws accuracies against the number of classes that have come.

  Args:
    path: the PNG file.
    numbers: of classes.
    results: of every method, accuracies at these numbers and halves of their
      95% intervals.
    title: one line with the protocol.
    public: accuracies of a published model by number, for comparison.

  Returns:
    The figure.
  """
  figure, axes = figure_with_axes()
  for place, (name, points) in enumerate(results.items()):
    values, halves = np.asarray(points, float).T
    color, style = color_and_dash(place)
    axes.errorbar(
      numbers, values, halves, color=color, ls=style, lw=1.4, marker='o', ms=4,
      capsize=2, label=name.replace('_', ' '),
    )  # fmt: skip
  if public:
    shown = {at: value for at, value in public.items() if at <= max(numbers)}
    axes.plot(
      list(shown), list(shown.values()), color='black', ls='', marker='x',
      ms=6, label='public OML model',
    )  # fmt: skip
  line = np.geomspace(min(numbers), max(numbers), 50)
  axes.plot(line, 1 / line, color='0.5', ls=':', lw=1.2, label='chance')
  axes.set_xscale('log')
  axes.set_xticks(numbers, [f'{number}' for number in numbers])
  axes.minorticks_off()
  axes.set_xlabel('classes that have come, all to be told apart')
  dress(axes, ACCURACY)
  return save(figure, path, title)
