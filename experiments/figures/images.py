"""Pictures of images: a task of classification, and images in rows."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.canvas import (
  GREY,
  NOTE_SIZES,
  bare_axes,
  fit,
  same_length,
  save,
  shortened,
)
from experiments.figures.finished import (
  draw_curves,
  task_of_test,
  tested,
  title_of,
)
from experiments.runner.loop import Finished
from metajax.base import Batch, SampleTask, values_and_weights

__all__ = [
  'RIGHT',
  'WRONG',
  'counted',
  'draw_images',
  'drawable',
  'image_grid',
  'image_task',
  'names_of_classes',
  'pixels_of',
  'thumbnail',
]

RIGHT, WRONG = '#008A5E', '#D1242F'

# More queries of one class than this are left out of the picture of a task.
_QUERIES_SHOWN = 8
_NAME_SIZE = 7.5  # points, of the names of classes
_LETTER = 0.6 * _NAME_SIZE / 72  # inches, about, that a letter is wide


def draw_images(
  run: Finished, classes: tuple[SampleTask, Sequence[str]] | None = None
) -> None:
  """Draws the curves, and one test task with its predictions.

  Args:
    run: of image classification.
    classes: where they have names: what draws the test tasks with places in
      these names for images, and the names.
  """
  draw_curves(run)
  ((task, outputs),) = tested(run, run.problem.test, 1)
  (known, real), (asked_for, asked) = map(counted, task)
  image_task(
    run.workdir / 'test_task.png',
    drawable(task.support.inputs)[real],
    known[real],
    drawable(task.query.inputs)[asked],
    asked_for[asked],
    jnp.argmax(outputs[0], axis=-1)[asked],
    jnp.argmax(outputs[-1], axis=-1)[asked],
    title_of(run, 'one test task'),
    class_names=names_of_classes(*classes, known) if classes else None,
  )


def names_of_classes(
  sample: SampleTask, names: Sequence[str], labels: np.ndarray
) -> dict[int, str]:
  """What the classes of the first test task are called, by their number."""
  places = task_of_test(sample, 0).support.inputs
  return {
    label: names[place]
    for label, place in zip(labels.tolist(), places.tolist(), strict=True)
  }


def counted(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
  """Classes, and which do more than fill the task up."""
  classes, weights = values_and_weights(batch.targets)
  real = np.ones(len(classes)) if weights is None else np.asarray(weights)
  return np.asarray(classes), real > 0


def image_task(
  path: str | os.PathLike[str],
  support_images: Any,
  support_labels: Any,
  query_images: Any,
  query_labels: Any,
  predictions_before: Any,
  predictions_after: Any,
  title: str,
  class_names: Mapping[int, str] | None = None,
) -> Figure:
  """Draws one classification task and what was predicted for its queries.

  A row is a class: its support examples, then its queries. Under each query
  stand the predictions before and after adaptation; they, and the frame,
  which is that of the prediction after it, are green where right, and red
  and dashed where wrong.

  Args:
    path: the PNG file.
    support_images: `[examples, height, width, channels]`, uint8 or in [0, 1];
      ink is 1 where there is one channel, and drawn dark.
    support_labels: `[examples]` classes.
    query_images: `[queries, height, width, channels]`.
    query_labels: `[queries]` classes, all of them in the support set.
    predictions_before: `[queries]` classes.
    predictions_after: `[queries]` classes.
    title: one line with the protocol.
    class_names: stand under the support examples of the classes that have one.

  Returns:
    The figure.

  Raises:
    ValueError: if shapes do not fit together, or if a query belongs to a class
      without a support example.
  """
  support, query = pixels_of(support_images, 4), pixels_of(query_images, 4)
  support_labels, query_labels = (
    np.ravel(support_labels),
    np.ravel(query_labels),
  )
  before, after = np.ravel(predictions_before), np.ravel(predictions_after)
  same_length('support_images', support, 'support_labels', support_labels)
  for name, values in (
    ('query_labels', query_labels),
    ('predictions_before', before),
    ('predictions_after', after),
  ):
    same_length('query_images', query, name, values)
  classes = _classes(support_labels, query_labels)

  rows = [
    (
      label,
      np.flatnonzero(support_labels == label),
      np.flatnonzero(query_labels == label),
    )
    for label in classes
  ]
  shots = max(len(row[1]) for row in rows)
  queries = max(len(row[2]) for row in rows)
  shown = min(queries, _QUERIES_SHOWN)
  first_query = 0.9 + 1.1 * shots + 0.4
  width = first_query + 1.1 * shown
  height = 0.5 + 1.5 * len(rows)
  inches = min(0.85, max(0.62, min(7 / width, 9 / height)))
  figure, axes = bare_axes(width, height, inches, 0.9)
  for index, (label, examples, asked) in enumerate(rows):
    top = 0.5 + 1.5 * index
    axes.text(
      0.35,
      top + 0.5,
      str(label),
      ha='center',
      va='center',
      size=13,
      weight='bold',
    )
    if class_names and label in class_names:
      letters = int((first_query - 0.25) * inches / _LETTER)
      name = shortened(class_names[label], letters)
      axes.text(
        0.05, top + 1.26, name, va='center', size=_NAME_SIZE, color=GREY,
        parse_math=False,
      )  # fmt: skip
    for column, example in enumerate(examples):
      thumbnail(axes, 0.9 + 1.1 * column, top, support[example])
    for column, example in enumerate(asked[:shown]):
      left = first_query + 1.1 * column
      right = bool(after[example] == label)
      thumbnail(axes, left, top, query[example], right)
      _caption(axes, left, top, before[example], after[example], label)
  headings = {0.35: 'class', 0.9: 'support', first_query: 'queries'}
  for left, heading in headings.items():
    align = 'center' if heading == 'class' else 'left'
    axes.text(left, 0.3, heading, ha=align, size=9, color=GREY)
  note = 'Under a query: its class as predicted before \N{RIGHTWARDS ARROW}'
  note += ' after adaptation. Green is right; red, dashed, is wrong.'
  if shown < queries:
    note += f' The first {shown} of up to {queries} queries of a class.'
  below = figure.supxlabel(note, color=GREY, parse_math=False)
  fit(below, figure, NOTE_SIZES)
  return save(figure, path, title)


def image_grid(
  path: str | os.PathLike[str], images: Any, title: str | None = None
) -> Figure:
  """Draws images in rows, such as one class a row.

  Args:
    path: the PNG file.
    images: `[rows, columns, height, width, channels]`, as in `image_task`.
    title: one line, or none.

  Returns:
    The figure.

  Raises:
    ValueError: if the shape is not such.
  """
  pixels = pixels_of(images, 5)
  rows, columns = pixels.shape[:2]
  margin = 0.5 if title else 0.1
  figure, axes = bare_axes(1.1 * columns, 1.1 * rows, 0.5, margin)
  for row, line in enumerate(pixels):
    for column, image in enumerate(line):
      thumbnail(axes, 1.1 * column + 0.05, 1.1 * row + 0.05, image)
  return save(figure, path, title)


def _classes(support_labels: np.ndarray, query_labels: np.ndarray) -> Any:
  """Finds the classes of a task, each of which has to have an example."""
  classes = np.unique(support_labels)
  if missing := sorted(set(query_labels.tolist()) - set(classes.tolist())):
    raise ValueError(
      f'queries of the classes {missing} have no support example; the support'
      f' set has {classes.tolist()}'
    )
  return classes


def drawable(images: jax.Array) -> jax.Array:
  """Turns images grey whose channels are not one colour or three."""
  if images.shape[-1] in (1, 3):
    return images
  return jnp.mean(images, axis=-1, keepdims=True)


def pixels_of(images: Any, dimensions: int) -> np.ndarray:
  """Makes RGB in [0, 1]; ink is dark on white where there is one channel."""
  images = np.asarray(images)
  shape = images.shape
  if len(shape) != dimensions or shape[-1] not in (1, 3) or 0 in shape:
    raise ValueError(
      f'images must have {dimensions} axes, none of them empty, the last of 1'
      f' or 3 channels; got shape {shape}'
    )
  pixels = images.astype(np.float64)
  if images.dtype == np.uint8 and pixels.max() > 1:
    pixels /= 255
  low, high = pixels.min(), pixels.max()
  if low < 0 or high > 1:  # standardised, say
    pixels = (pixels - low) / max(high - low, 1e-12)
  return np.repeat(1 - pixels, 3, axis=-1) if shape[-1] == 1 else pixels


def thumbnail(
  axes: Axes,
  left: float,
  top: float,
  image: np.ndarray,
  right: bool | None = None,
) -> None:
  """Draws an image in a unit square, framed by how its prediction did."""
  height, width = np.asarray(image.shape[:2]) / max(image.shape[:2])
  x, y = left + (1 - width) / 2, top + (1 - height) / 2
  axes.imshow(
    image,
    extent=(x, x + width, y + height, y),
    vmin=0,
    vmax=1,
    interpolation='nearest',
  )
  edge = '#BDC1C6' if right is None else _color(right)
  axes.add_patch(
    Rectangle(
      (left, top),
      1,
      1,
      fill=False,
      edgecolor=edge,
      linewidth=0.8 if right is None else 2.4,
      linestyle=(0, (2.5, 1.2)) if right is False else '-',
      clip_on=False,
    )
  )


def _caption(
  axes: Axes, left: float, top: float, before: Any, after: Any, label: Any
) -> None:
  """Writes the two predictions for a query under its image."""
  y = top + 1.26
  arrow = '\N{RIGHTWARDS ARROW}'
  axes.text(left + 0.5, y, arrow, ha='center', va='center', size=9, color=GREY)
  for x, prediction, align in ((0.36, before, 'right'), (0.64, after, 'left')):
    axes.text(
      left + x,
      y,
      str(prediction),
      ha=align,
      va='center',
      size=8.5,
      weight='bold',
      color=_color(bool(prediction == label)),
    )


def _color(right: bool) -> str:
  return RIGHT if right else WRONG
