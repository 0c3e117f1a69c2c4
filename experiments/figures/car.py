"""Pictures of driving: what was foretold, and rides along the track."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from PIL import Image

from experiments.data.car_rides import FROM, Rides
from experiments.figures.canvas import BLUE, COLORS, GREY, grid, legend, save
from experiments.figures.finished import title_of
from experiments.figures.regression import draw_table
from experiments.runner.loop import Finished
from metajax.tasks.car import PERIOD

__all__ = ['draw_car', 'ride_moving', 'rides_on_track', 'trajectories']

_STYLES: Mapping[str, Mapping[str, Any]] = {
  'true car': {'color': 'black', 'lw': 1.6, 'ls': '-'},
  'before adaptation': {'color': GREY, 'lw': 1.4, 'ls': (0, (2, 2))},
  'adapted': {'color': BLUE, 'lw': 1.8, 'ls': '-'},
  'identified': {'color': COLORS[2], 'lw': 1.4, 'ls': '-.'},
}
_CARS = 6  # in the picture of what was foretold
_FRAMES, _MILLISECONDS = 70, 90


def draw_car(run: Finished, rides: Rides | None) -> None:
  """Draws the curves, a test task, and the rides if there are any."""
  draw_table(run)
  if rides is None:
    return
  trajectories(
    run.workdir / 'trajectories.png',
    rides,
    title_of(run, 'three seconds foretold, of unseen cars'),
  )
  distances = np.abs(rides.by_model['before adaptation'].distances).mean(1)
  middle = int(np.argsort(distances)[len(distances) // 2])
  title = title_of(run, 'an unseen car on the track')
  rides_on_track(run.workdir / 'track.png', rides, middle, title)
  ride_moving(run.workdir / 'track.gif', rides, middle)


def trajectories(
  path: str | os.PathLike[str], rides: Rides, title: str
) -> Figure:
  """Draws where cars were, and where models said that they would be.

  Args:
    path: the PNG file.
    rides: of a car or more; the first six are drawn.
    title: one line with the protocol.

  Returns:
    The figure.
  """
  true = rides.by_model['true car'].states
  count = min(_CARS, len(true))
  columns = min(count, 3)
  rows = -(-count // columns)
  figure = Figure(
    figsize=(3.2 * columns, 3.0 * rows + 0.8), layout='constrained'
  )
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for panel in panels[count:]:
    panel.remove()
  for number, axes in enumerate(panels[:count]):
    length = rides.foretold['adapted'].shape[1]
    real = true[number, FROM : FROM + length + 1]
    axes.plot(real[:, 0], real[:, 1], label='true', **_STYLES['true car'])
    for name in ('before adaptation', 'adapted', 'identified'):
      said = np.concatenate([real[:1], rides.foretold[name][number]])
      axes.plot(said[:, 0], said[:, 1], label=name, **_STYLES[name])
    axes.plot(*real[0, :2], 'o', color='black', ms=4)
    axes.set(aspect='equal', xlabel='x (m)', ylabel='y (m)')
    axes.set_adjustable('datalim')
    grid(axes)
  legend(panels[0])
  return save(figure, path, title)


def rides_on_track(
  path: str | os.PathLike[str], rides: Rides, number: int, title: str
) -> Figure:
  """Draws the rides of a car, and how far from the middle of the track it was.

  Args:
    path: the PNG file.
    rides: of cars.
    number: of the car.
    title: one line with the protocol.

  Returns:
    The figure.
  """
  figure = Figure(figsize=(9.5, 4.8), layout='constrained')
  on_map, along = figure.subplots(1, 2, width_ratios=[1, 1.15])
  _road(on_map, rides)
  for name, style in _STYLES.items():
    each = rides.by_model[name]
    states = each.states[number][each.on_road[number]]
    on_map.plot(states[:, 0], states[:, 1], label=name, **style)
    distances = each.distances[number][each.on_road[number]]
    along.plot(PERIOD * np.arange(len(distances)), distances, **style)
  on_map.set(aspect='equal', xlabel='x (m)', ylabel='y (m)')
  along.set_xlabel('time (s)')
  along.set_ylabel('to the left of the middle (m)')
  for axes in (on_map, along):
    grid(axes)
  legend(on_map)
  return save(figure, path, title)


def ride_moving(
  path: str | os.PathLike[str], rides: Rides, number: int
) -> None:
  """Draws a car on the track in a moving picture, before and after adaptation.

  Args:
    path: the GIF file.
    rides: of cars.
    number: of the car.
  """
  names = ['before adaptation', 'adapted']
  length = len(rides.by_model[names[0]].states[number])
  frames = [
    _frame(rides, number, names, now)
    for now in np.linspace(1, length - 1, min(_FRAMES, length - 1)).astype(int)
  ]
  path = Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    frames[0].save(
      temporary, 'GIF', save_all=True, append_images=frames[1:],
      duration=_MILLISECONDS, loop=0, optimize=True,
    )  # fmt: skip
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _frame(
  rides: Rides, number: int, names: list[str], now: int
) -> Image.Image:
  """The car by each model a moment, seen from close above it."""
  figure = Figure(figsize=(7, 3.6), layout='constrained')
  for axes, name in zip(figure.subplots(1, 2), names, strict=True):
    ride = rides.by_model[name]
    states = ride.states[number][: now + 1]
    _road(axes, rides)
    axes.plot(states[:, 0], states[:, 1], color=BLUE, lw=1.5)
    axes.add_patch(_body(states[-1]))
    x, y = states[-1, :2]
    axes.set(aspect='equal', xlim=(x - 14, x + 14), ylim=(y - 14, y + 14))
    axes.set_xticks([])
    axes.set_yticks([])
    distance = abs(ride.distances[number][now])
    off = '' if ride.on_road[number][now] else ', off the road'
    axes.set_title(f'{name}: {distance:.2f} m{off}', fontsize=10)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=70)
  return Image.open(buffer).convert('P', palette=Image.Palette.ADAPTIVE)


def _road(axes: Axes, rides: Rides) -> None:
  """The edges of the road and its middle."""
  middle = np.concatenate([rides.track.places, rides.track.places[:1]])
  headings = np.append(rides.track.headings, rides.track.headings[:1])
  left = np.stack([-np.sin(headings), np.cos(headings)], axis=1)
  for side in (-1, 1):
    edge = middle + side * rides.planner.road * left
    axes.plot(edge[:, 0], edge[:, 1], color='#9AA0A6', lw=1)
  axes.plot(middle[:, 0], middle[:, 1], color='#C8CCD0', lw=0.8, ls=(0, (6, 6)))


def _body(state: Any) -> Polygon:
  """A car of 4.2 by 1.8 m."""
  half = np.array([[2.1, 0.9], [2.1, -0.9], [-2.1, -0.9], [-2.1, 0.9]])
  sine, cosine = np.sin(state[2]), np.cos(state[2])
  turned = half @ np.array([[cosine, sine], [-sine, cosine]])
  return Polygon(turned + state[:2], closed=True, color=BLUE, alpha=0.8)
