"""Pictures of optimisers: losses along training, by each of them."""

import math
import os
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.figures.canvas import color_and_dash, grid, legend, save

__all__ = ['loss_curves']

_NAMES = {
  'learned': 'learned',
  'adam': 'Adam',
  'adam_cosine': 'Adam, cosine',
  'sgd_momentum': 'SGD, momentum',
}


def loss_curves(
  path: str | os.PathLike[str],
  places: Mapping[str, Mapping[str, Any]],
  title: str,
) -> Figure:
  """Draws validation losses against inner steps, a panel for each place.

  Args:
    path: the PNG file.
    places: as `experiments.runner.opponents.compare` returns them.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if there are no places.
  """
  if not places:
    raise ValueError('places are none; draw one or more')
  columns = min(3, len(places))
  rows = math.ceil(len(places) / columns)
  figure = Figure(
    figsize=(4.0 * columns, 3.1 * rows + 0.6), layout='constrained'
  )
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes in panels[len(places) :]:
    axes.remove()
  for axes, (name, place) in zip(panels, places.items(), strict=False):
    for number, (key, label) in enumerate(_NAMES.items()):
      if key not in place:
        continue
      steps, losses = place[key]['validation_curve']
      color, dash = color_and_dash(number)
      axes.plot(
        steps, losses, color=color, ls=dash, lw=1.6 if number else 2.2,
        label=label,
      )  # fmt: skip
    axes.set_yscale('log')
    axes.set_title(f'{name}, {place["steps"]} steps', fontsize=10)
    axes.set_xlabel('inner steps')
    axes.set_ylabel('validation loss (nats)')
    grid(axes)
  legend(panels[0])
  return save(figure, path, title)
