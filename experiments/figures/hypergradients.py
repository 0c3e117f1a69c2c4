"""Pictures of bilevel problems: validation by step, and what was learned."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.canvas import (
  BLUE,
  GREY,
  ORANGE,
  color_and_dash,
  figure_with_axes,
  grid,
  legend,
  save,
)

__all__ = ['outer', 'problem']

Path = str | os.PathLike[str]


def outer(path: Path, outcome: Mapping[str, Any]) -> Figure:
  """Draws the validation loss by outer step: every seed, and their mean."""
  figure, axes = figure_with_axes()
  for place, (name, own) in enumerate(outcome['distributions'].items()):
    color, style = color_and_dash(place)
    losses = np.array(own['validation_loss'], float)
    for each in losses:
      axes.plot(own['steps'], each, color=color, lw=0.6, alpha=0.4)
    label = f'{name}, mean of seeds' if name else 'mean of seeds'
    axes.plot(
      own['steps'], losses.mean(0), color=color, ls=style, lw=1.8, label=label
    )
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.set_xlabel('outer steps')
  axes.set_ylabel('validation loss (nats)')
  legend(axes)
  solve = outcome['solve'].replace('_', ' ')
  mark = '' if outcome['converged'] else '; inner problems not converged'
  return save(figure, path, f'{outcome["problem"]}, {solve}{mark}')


def problem(path: Path, outcome: Mapping[str, Any]) -> Figure:
  """Draws what was learned with the first seed."""
  shown = {name: own['show'] for name, own in outcome['distributions'].items()}
  draw = _PICTURES[outcome['problem']]
  return save(draw(shown), path, f'{outcome["about"]}; seed 0')


def _cleaning(shown: Mapping[str, Any]) -> Figure:
  own = shown['']
  figure = Figure(figsize=(8, 6), layout='constrained')
  above, below = _parts(figure, 2, 1, height_ratios=(1, 1.1))
  axes = above.add_subplot()
  weights, wrong = np.array(own['weights']), np.array(own['wrong'])
  edges = np.linspace(0, 1, 41)
  axes.hist(weights[~wrong], edges, color=BLUE, alpha=0.7, label='right label')
  axes.hist(weights[wrong], edges, color=ORANGE, alpha=0.7, label='wrong label')
  axes.axvline(0.5, color=GREY, ls='--', lw=1)
  axes.set_xlabel('weight of a training image that was learned')
  axes.set_ylabel('images')
  axes.legend(frameon=False, fontsize=9)
  grid(axes)
  cells = below.subplots(3, 10)
  for cell, image, label, found in zip(
    cells.flat, own['images'], own['labels'], own['found'], strict=True
  ):
    _image(cell, image)
    cell.set_title(
      f'called {label}', fontsize=8, color=BLUE if not found else ORANGE
    )
  below.suptitle(
    'the 30 of least weight; orange where the label is wrong', fontsize=9
  )
  return figure


def _regularisation(shown: Mapping[str, Any]) -> Figure:
  own = shown['']
  figure = Figure(figsize=(8, 3.6), layout='constrained')
  left, right, beside = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
  digit, noise = np.array(own['digit']), np.array(own['noise'])
  low, high = min(digit.min(), noise.min()), max(digit.max(), noise.max())
  for axes, values, name in ((left, digit, 'digit'), (right, noise, 'noise')):
    drawn = axes.imshow(
      values.reshape(8, 8), cmap='viridis', vmin=low, vmax=high
    )
    axes.set_title(f'pixels of {name}', fontsize=9)
    axes.set_axis_off()
  figure.colorbar(
    drawn, ax=[left, right], label='mean logit of its decays', shrink=0.7
  )
  edges = np.linspace(low, high, 30)
  beside.hist(digit, edges, color=BLUE, alpha=0.7, label='digit')
  beside.hist(noise, edges, color=ORANGE, alpha=0.7, label='noise')
  beside.axvline(own['start'], color=GREY, ls='--', lw=1, label='start')
  beside.set_xlabel('mean logit of the decays of a pixel')
  beside.set_ylabel('pixels')
  beside.legend(frameon=False, fontsize=9)
  grid(beside)
  return figure


def _augmentation(shown: Mapping[str, Any]) -> Figure:
  own = shown['']
  figure = Figure(figsize=(8, 6.4), layout='constrained')
  above, below = _parts(figure, 2, 1, height_ratios=(1, 1.6))
  axes = above.add_subplot()
  units = np.maximum(np.array(own['sizes']), np.array(own['truth']))
  units = np.maximum(units, 1e-9)
  places = np.arange(len(units))
  axes.barh(
    places - 0.2, np.array(own['sizes']) / units, 0.38, color=BLUE,
    label='learned',
  )  # fmt: skip
  axes.barh(
    places + 0.2, np.array(own['truth']) / units, 0.38, color=ORANGE,
    label='of the test',
  )  # fmt: skip
  for place, (size, truth) in enumerate(
    zip(own['sizes'], own['truth'], strict=True)
  ):
    axes.text(1.02, place, f'{size:.2f} / {truth:.2f}', va='center', fontsize=8)
  axes.set_yticks(places, own['names'], fontsize=8)
  axes.set_xlim(0, 1.2)
  axes.set_xticks([])
  axes.invert_yaxis()
  axes.set_xlabel(f'magnitudes; copies weigh {own["copies"]:.2f}')
  axes.legend(frameon=False, fontsize=8, loc='lower right')
  rows = [own['images'][0], *own['images'][1:3], own['test']]
  names = ['training', 'a copy', 'another', 'test']
  _rows(below, rows, names)
  return figure


def _architecture(shown: Mapping[str, Any]) -> Figure:
  figure = Figure(figsize=(8, 2.9 * len(shown)), layout='constrained')
  parts = _parts(figure, len(shown), 1)
  for part, (name, own) in zip(parts, shown.items(), strict=True):
    left, right = _parts(part, 1, 2, width_ratios=(1.5, 1))
    columns = left.subplots(1, len(own['weights']), sharey=True)
    for axes, (place, weights) in zip(
      columns, own['weights'].items(), strict=True
    ):
      axes.bar(
        range(len(weights)), list(weights.values()),
        color=[
          ORANGE if each == max(weights.values()) else BLUE
          for each in weights.values()
        ],
      )  # fmt: skip
      axes.set_xticks(
        range(len(weights)), list(weights), rotation=25, fontsize=7, ha='right'
      )
      axes.set_ylim(0, 1)
      axes.set_title(place, fontsize=9)
      grid(axes, 'y')
    columns[0].set_ylabel('weight')
    left.suptitle(f'{name}: {own["cell"]}', fontsize=9)
    for cell, image in zip(
      right.subplots(2, 4).flat, own['images'], strict=True
    ):
      _image(cell, image)
  return figure


def _loss(shown: Mapping[str, Any]) -> Figure:
  own = shown['']
  figure, axes = figure_with_axes()
  shares = np.array(own['shares'])
  axes.plot(
    shares, own['losses'], color=BLUE, lw=1.8,
    label=f'learned: temperature {own["temperature"]:.2f}, smoothing'
    f' {own["smoothing"]:.2f}, q {own["power"]:.2f}',
  )  # fmt: skip
  axes.plot(
    shares, -np.log(shares), color=ORANGE, ls='--', label='cross-entropy'
  )
  axes.set_ylim(-0.1, 5)
  axes.set_xlabel('probability of the label (the others alike)')
  axes.set_ylabel('loss of an example')
  legend(axes)
  return figure


def _distillation(shown: Mapping[str, Any]) -> Figure:
  own = shown['']
  figure = Figure(figsize=(8, 3.2), layout='constrained')
  _rows(
    figure,
    [own['learned'], own['means'], own['real']],
    ['learned', 'class means', 'real'],
    own_range=('learned',),
  )
  return figure


def _parts(figure: Any, rows: int, columns: int, **ratios: Any) -> list[Any]:
  """Figures within a figure."""
  return list(np.ravel(figure.subfigures(rows, columns, **ratios)))


def _rows(
  figure: Any,
  rows: Sequence[Sequence[Any]],
  names: Sequence[str],
  own_range: Sequence[str] = (),
) -> None:
  """Images in rows, each with its name."""
  cells = figure.subplots(len(rows), len(rows[0]), squeeze=False)
  for line, images, name in zip(cells, rows, names, strict=True):
    values = np.array(images)
    ends = (0.0, 1.0)
    if name in own_range:
      ends = float(np.quantile(values, 0.02)), float(np.quantile(values, 0.98))
    for cell, image in zip(line, images, strict=True):
      _image(cell, image, *ends)
    line[0].set_ylabel(name, fontsize=8)


def _image(
  axes: Axes, image: Sequence[float], low: float = 0.0, high: float = 1.0
) -> None:
  """One image, ink dark."""
  axes.imshow(np.reshape(image, (8, 8)), cmap='gray_r', vmin=low, vmax=high)
  axes.set_xticks([])
  axes.set_yticks([])


_PICTURES = {
  'cleaning': _cleaning,
  'regularisation': _regularisation,
  'augmentation': _augmentation,
  'architecture': _architecture,
  'loss': _loss,
  'distillation': _distillation,
}
