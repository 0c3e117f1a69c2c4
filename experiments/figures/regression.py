"""Pictures of regression: a wave, a table, and images to be completed."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.canvas import (
  BLUE,
  GREY,
  ORANGE,
  count_steps,
  figure_with_axes,
  grid,
  legend,
  same_length,
  save,
)
from experiments.figures.finished import draw_curves, tested, title_of
from experiments.figures.images import image_grid
from experiments.runner.loop import Finished
from metajax.tasks import completion

__all__ = [
  'draw_completion',
  'draw_sinusoid',
  'draw_table',
  'on_grid',
  'sinusoid_task',
  'table_task',
]

_COMPLETED = 6  # images in the picture of a completion
_TARGETS = 4  # of a table, those that are drawn
_NAME_LENGTH = 40  # of a target; longer names are cut
_UNKNOWN = (0.55, 0.75, 0.95)  # the colour of pixels that are not known


def draw_sinusoid(run: Finished) -> None:
  """Draws the curves, and one test wave before and after adaptation."""
  draw_curves(run)
  ((task, outputs),) = tested(run, run.problem.test, 1)
  order = np.argsort(task.query.inputs[:, 0])
  curves = np.asarray(outputs)[:, order, 0]
  last = len(curves) - 1
  sinusoid_task(
    run.workdir / 'test_task.png',
    task.query.inputs[order, 0],
    task.query.targets[order, 0],
    task.support.inputs[:, 0],
    task.support.targets[:, 0],
    curves[0],
    {step: curves[step] for step in sorted({1, last}) if step <= last},
    title_of(run, 'one test task'),
  )


def sinusoid_task(
  path: str | os.PathLike[str],
  grid_x: Sequence[float],
  true_y: Sequence[float],
  support_x: Sequence[float],
  support_y: Sequence[float],
  before_y: Sequence[float],
  after_y: Mapping[int, Sequence[float]],
  title: str,
) -> Figure:
  """Draws one regression task: the curve, the points, the predictions.

  Args:
    path: the PNG file.
    grid_x: `[points]`, increasing, in radians.
    true_y: `[points]`, the curve that the examples come from.
    support_x: `[examples]`.
    support_y: `[examples]`.
    before_y: `[points]`, the prediction before adaptation.
    after_y: for each number of inner steps, the prediction `[points]` then.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if lengths do not fit together.
  """
  x = np.ravel(grid_x)
  curves = {'true_y': true_y, 'before_y': before_y}
  curves |= {f'after_y[{steps}]': y for steps, y in after_y.items()}
  for name, y in curves.items():
    same_length('grid_x', x, name, np.ravel(y))
  points_x, points_y = np.ravel(support_x), np.ravel(support_y)
  same_length('support_x', points_x, 'support_y', points_y)

  figure, axes = figure_with_axes()
  axes.plot(x, np.ravel(true_y), color='black', lw=1.6, label='true curve')
  axes.plot(
    x,
    np.ravel(before_y),
    color=GREY,
    lw=1.4,
    ls=(0, (2, 2)),
    label='before adaptation',
  )
  shades = np.linspace(0.45, 1, max(1, len(after_y)))
  for shade, (steps, y) in zip(shades, sorted(after_y.items()), strict=False):
    axes.plot(
      x,
      np.ravel(y),
      color=(ORANGE, shade),
      lw=1 + shade,
      label=f'after {count_steps(steps)}',
    )
  axes.plot(
    points_x,
    points_y,
    ls='',
    marker='o',
    ms=6,
    color=BLUE,
    mec='white',
    zorder=5,
    label=f'{len(points_x)} support examples',
  )
  axes.set_xlabel('x (radians)')
  axes.set_ylabel('y')
  axes.margins(x=0.02)
  legend(axes)
  return save(figure, path, title)


def draw_table(run: Finished) -> None:
  """Draws the curves, and one test task: predicted against true values."""
  draw_curves(run)
  ((task, outputs),) = tested(run, run.problem.test, 1)
  true = _columns(task.query.targets)
  # Behind the means, methods may predict how sure they are.
  predicted = [_columns(each)[:, : true.shape[1]] for each in outputs]
  last = len(predicted) - 1
  names = run.problem.protocol.get('targets')
  table_task(
    run.workdir / 'test_task.png',
    true,
    predicted[0] if last else None,
    predicted[-1],
    last,
    [names] if isinstance(names, str) else names,
    title_of(run, 'one test task'),
  )


def table_task(
  path: str | os.PathLike[str],
  true: Any,
  before: Any | None,
  after: Any,
  steps: int,
  names: Sequence[str] | None,
  title: str,
) -> Figure:
  """Draws one regression task on a table: predicted against true values.

  Each target has a panel, up to the first four of them, and each query a point
  in it, which is on the diagonal where the prediction is right.

  Args:
    path: the PNG file.
    true: `[queries, targets]`, or `[queries]` of a single target.
    before: the same of the predictions before adaptation; None for a method
      that has none.
    after: the same of those after it.
    steps: how many inner steps there were.
    names: of the targets; they are numbered if it is None.
    title: one line with the protocol.

  Returns:
    The figure.

  Raises:
    ValueError: if shapes or the number of names do not fit together.
  """
  true, after = _columns(true), _columns(after)
  drawn = {f'after {count_steps(steps)}' if steps else 'prediction': after}
  if before is not None:
    drawn = {'before adaptation': _columns(before)} | drawn
  count = true.shape[1]
  for name, values in drawn.items():
    if values.shape != true.shape or not true.size:
      raise ValueError(
        f'the values {name!r} must be as many as the true ones, 1 or more; got'
        f' shapes {values.shape} and {true.shape}'
      )
  if names is not None and len(names) != count:
    raise ValueError(f'got {len(names)} names for {count} targets')
  if names is None and count > 1:
    names = [f'target {place}' for place in range(1, count + 1)]

  shown = min(count, _TARGETS)
  rows, columns = -(-shown // 2), min(shown, 2)
  size = (5, 5.4) if shown == 1 else (4.2 * columns, 4 * rows + 0.8)
  figure = Figure(figsize=size, layout='constrained')
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes in panels[shown:]:
    axes.remove()
  for place, axes in enumerate(panels[:shown]):
    of_target = {name: each[:, place] for name, each in drawn.items()}
    _against_truth(axes, true[:, place], of_target)
    if names is not None:
      name = textwrap.shorten(names[place], _NAME_LENGTH, placeholder=' ...')
      axes.set_title(name, fontsize=10, parse_math=False)
  legend(panels[0])
  if shown < count:
    title += f', the first {shown} of {count} targets'
  return save(figure, path, title)


def _columns(values: Any) -> np.ndarray:
  """Makes `[examples, targets]` of what may have a single target."""
  values = np.asarray(values, float)
  return values.reshape(len(values), -1)


def _against_truth(
  axes: Axes, true: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> None:
  """Draws predictions of one target; the last of them stand out."""
  finite = np.concatenate([true, *predicted.values()])
  finite = finite[np.isfinite(finite)]
  low, high = (finite.min(), finite.max()) if len(finite) else (0, 1)
  margin = 0.05 * (high - low) or 0.5
  ends = low - margin, high + margin
  axes.plot(ends, ends, color='black', lw=1, label='prediction is right')
  *firsts, last = predicted
  for name in firsts:
    axes.plot(
      true, predicted[name], 'o', ms=5, mfc='none', mec=GREY, label=name
    )
  axes.plot(
    true, predicted[last], 'o', ms=5.5, color=BLUE, mec='white', label=last
  )
  axes.set(xlim=ends, ylim=ends, aspect='equal')
  axes.set_xlabel('true')
  axes.set_ylabel('predicted')
  grid(axes)


def draw_completion(run: Finished) -> None:
  """Draws the curves, and a few test images: known, completed, true."""
  draw_curves(run)
  # All that is not known is asked for, so that images are whole.
  images = cast(jax.tree_util.Partial, run.problem.test).args[0]
  height, width = images.shape[1:3]
  shots = run.problem.recipe.shots
  whole = completion(images, shots, height * width - shots)
  rows = []
  for task, outputs in tested(run, whole, _COMPLETED):
    known = on_grid(task.support.inputs, task.support.targets, height, width)
    true = known + on_grid(task.query.inputs, task.query.targets, height, width)
    guess = known + on_grid(
      task.query.inputs, jnp.clip(outputs[-1], 0, 1), height, width
    )
    is_known = on_grid(
      task.support.inputs, jnp.ones_like(task.support.targets), height, width
    )
    # Ink is dark, what is not known is coloured.
    given = jnp.where(is_known > 0, 1 - known, jnp.array(_UNKNOWN))
    rows.append([given, *(jnp.tile(1 - grey, 3) for grey in (guess, true))])
  image_grid(
    run.workdir / 'completed.png',
    np.asarray(rows).swapaxes(0, 1),  # an image a column
    title_of(run, 'known, completed, true'),
  )


def on_grid(
  places: jax.Array, values: jax.Array, height: int, width: int
) -> jax.Array:
  """Puts values at places from -1 to 1 into an image that is 0 elsewhere."""
  lengths = jnp.array([[height, width]])
  rows, columns = jnp.floor((places + 1) / 2 * lengths).astype(int).T
  return jnp.zeros((height, width, 1)).at[rows, columns].set(values)
