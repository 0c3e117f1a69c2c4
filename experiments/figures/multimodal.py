"""Pictures of a run on several modalities: curves and tasks of every kind."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.axes import dress
from experiments.figures.canvas import (
  GREY,
  NOTE_SIZES,
  bare_axes,
  color_and_dash,
  figure_with_axes,
  fit,
  save,
)
from experiments.figures.finished import draw_curves, tested, title_of
from experiments.figures.images import RIGHT, WRONG, pixels_of, thumbnail
from experiments.runner.loop import Finished
from metajax.base import Batch, Task
from metajax.metric import Metric
from metajax.runs.writers import VALIDATION, read_json_lines
from metajax.tasks import caption_tokenizer

__all__ = ['draw_multimodal', 'modal_curves', 'modal_task']

_QUERIES_SHOWN = 3  # of a class
_LETTERS = 22  # of a line of a caption
# How wide an example is, and the distance of classes.
_WIDTH, _ROW = 2.1, 1.3


def draw_multimodal(run: Finished) -> None:
  """Draws the curves of all kinds of tasks, and a test task of each."""
  draw_curves(run)
  headline = run.outcome['dataset']
  kinds = {headline: run.problem.test} | {
    name: each.test for name, each in run.problem.besides.items()
  }
  records = run.workdir / 'metrics.jsonl'
  if records.exists():
    modal_curves(
      run.workdir / 'validation_by_task.png',
      read_json_lines(records),
      run.problem.metric,
      headline,
      [*run.problem.besides],
      title_of(run),
      run.outcome['baseline']['chance_accuracy'],
    )
  for name, sample in kinds.items():
    ((task, outputs),) = tested(run, sample, 1)
    found = run.outcome['test'] if name == headline else None
    found = found or run.outcome['besides'][name]
    modal_task(
      run.workdir / f'test_task_{name}.png',
      task,
      np.asarray(jnp.argmax(outputs[-1], axis=-1)),
      f'{name.replace("_", " ")}: one test task ({found["accuracy"]:.1%} right'
      ' in all test tasks)',
    )


def modal_curves(
  path: str | os.PathLike[str],
  records: Sequence[Mapping[str, Any]],
  metric: Metric,
  headline: str,
  others: Sequence[str],
  title: str,
  chance: float,
) -> Figure:
  """Draws the metric in validation against outer steps, by kind of task.

  Args:
    path: the PNG file.
    records: of `metajax.runs.writers.read_json_lines`.
    metric: what to draw.
    headline: the kind of task whose metric has no name in front.
    others: the kinds whose metric is called `<kind>/<metric>`.
    title: one line with the protocol.
    chance: drawn as a dashed line.
  """
  figure, axes = figure_with_axes()
  for place, name in enumerate([headline, *others]):
    prefix = '' if name == headline else f'{name}/'
    key = f'{VALIDATION}{prefix}{metric.name}'
    pairs = [(each['step'], each[key]) for each in records if key in each]
    color, dash = color_and_dash(place)
    axes.plot(
      *np.asarray(pairs, float).reshape(-1, 2).T, color=color, ls=dash,
      marker='o', ms=4, label=name.replace('_', ' '),
    )  # fmt: skip
  axes.set_xlabel('outer steps')
  dress(axes, metric, chance, 'chance')
  return save(figure, path, f'{title}: validation')


def modal_task(
  path: str | os.PathLike[str], task: Task, predictions: Any, title: str
) -> Figure:
  """Draws a task whose inputs are a dictionary of images, or of captions.

  A row is a class: what is known of it, then the first of its queries, green
  where the prediction is right; red with the class that was predicted where it
  is wrong.

  Args:
    path: the PNG file.
    task: of one entry of inputs in each batch, `'images'` or `'texts'`.
    predictions: classes of the queries.
    title: one line.
  """
  known, asked = (np.asarray(batch.targets) for batch in task)
  classes = np.unique(known)
  width = 0.6 + _WIDTH * (1 + _QUERIES_SHOWN) + 0.3
  figure, axes = bare_axes(width, 0.5 + _ROW * len(classes), 0.9, 0.9)
  first_query = 0.9 + _WIDTH
  for row, label in enumerate(classes.tolist()):
    top = 0.5 + _ROW * row
    axes.text(0.3, top + 0.5, str(label), ha='center', size=13, weight='bold')
    example = int(np.flatnonzero(known == label)[0])
    _draw(axes, task.support, example, 0.6, top, None)
    for column, place in enumerate(
      np.flatnonzero(asked == label)[:_QUERIES_SHOWN].tolist()
    ):
      left = first_query + _WIDTH * column
      right = bool(predictions[place] == label)
      _draw(axes, task.query, place, left, top, right)
      if not right:
        axes.text(
          left + 1.1, top + 0.95, f'taken for {predictions[place]}', size=7,
          color=WRONG, rotation=90, va='bottom',
        )  # fmt: skip
  for left, heading in {0.6: 'given', first_query: 'asked for'}.items():
    axes.text(left, 0.3, heading, size=9, color=GREY)
  below = figure.supxlabel(
    'Green is right; red is wrong, with the class that it was taken for.',
    color=GREY,
  )
  fit(below, figure, NOTE_SIZES)
  return save(figure, path, title)


def _draw(
  axes: Axes,
  batch: Batch,
  place: int,
  left: float,
  top: float,
  right: bool | None,
) -> None:
  """Draws an example, framed or coloured by how its prediction did."""
  if 'images' in batch.inputs:
    image = pixels_of(np.asarray(batch.inputs['images']), 4)[place]
    thumbnail(axes, left, top, image, right)
    return
  text = caption_tokenizer().decode(np.asarray(batch.inputs['texts'][place]))
  color = 'black' if right is None else RIGHT if right else WRONG
  axes.text(
    left, top + 0.5, textwrap.fill(text, _LETTERS), size=7.5, va='center',
    color=color,
  )  # fmt: skip
