"""Pictures of texts: a task of classification."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.data.samplers import Classes
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
from experiments.figures.images import RIGHT, WRONG, names_of_classes
from experiments.runner.loop import Finished

__all__ = ['draw_texts', 'text_task']

# What is shown of a task, so that it can be read.
_CLASSES, _SUPPORT, _QUERIES = 10, 3, 4
_LETTERS = 76  # of a text
_LETTERS_OF_NAME = 44
_SIZE = 8.5  # points
_LINE = 0.19  # inches


def draw_texts(run: Finished, texts: Classes, classes: Classes) -> None:
  """Draws the curves, and one test task with its predictions.

  Args:
    run: of classification of texts.
    texts: draws the test tasks with places in the texts for tokens.
    classes: draws them with places in the names of classes.
  """
  draw_curves(run)
  ((task, outputs),) = tested(run, run.problem.test, 1)
  known = np.asarray(task.support.targets)
  words = task_of_test(texts.sample, 0)
  text_task(
    run.workdir / 'test_task.png',
    [texts.names[place] for place in np.asarray(words.support.inputs)],
    known,
    [texts.names[place] for place in np.asarray(words.query.inputs)],
    task.query.targets,
    jnp.argmax(outputs[0], axis=-1),
    jnp.argmax(outputs[-1], axis=-1),
    title_of(run, 'one test task'),
    class_names=names_of_classes(*classes, known),
  )


def text_task(
  path: str | os.PathLike[str],
  support_texts: Sequence[str],
  support_labels: Any,
  query_texts: Sequence[str],
  query_labels: Any,
  predictions_before: Any,
  predictions_after: Any,
  title: str,
  class_names: Mapping[int, str] | None = None,
) -> Figure:
  """Draws one task of texts and what was predicted for its queries.

  Under the number of each class stand its support texts, in grey, and then its
  queries. Before a query stand the predictions before and after adaptation,
  green where right, and red where wrong; there is a cross before it where that
  after adaptation is wrong. What is too long is shortened in the middle.

  Args:
    path: the PNG file.
    support_texts: of the examples.
    support_labels: `[examples]` classes.
    query_texts: of the queries.
    query_labels: `[queries]` classes.
    predictions_before: `[queries]` classes.
    predictions_after: `[queries]` classes.
    title: one line with the protocol.
    class_names: stand beside the numbers of the classes that have one.

  Returns:
    The figure.

  Raises:
    ValueError: if lengths do not fit together.
  """
  support_labels, query_labels, before, after = map(
    np.ravel,
    (support_labels, query_labels, predictions_before, predictions_after),
  )
  examples, queries = (
    np.asarray(each, object) for each in (support_texts, query_texts)
  )
  same_length('support_texts', examples, 'support_labels', support_labels)
  for name, values in (
    ('query_labels', query_labels),
    ('predictions_before', before),
    ('predictions_after', after),
  ):
    same_length('query_texts', queries, name, values)
  rows = list[tuple[str, Any]]()
  labels = np.unique(support_labels)
  for label in labels[:_CLASSES]:
    rows.append(('class', label))
    own = np.flatnonzero(support_labels == label)
    asked = np.flatnonzero(query_labels == label)
    rows += [('support', place) for place in own[:_SUPPORT]]
    rows += [('query', place) for place in asked[:_QUERIES]]
  figure, axes = bare_axes(7, _LINE * (len(rows) + 1), 1, 0.75)
  top = 0.0
  for kind, at in rows:
    top += _LINE if kind != 'class' else 1.25 * _LINE
    if kind == 'class':
      name = (class_names or {}).get(int(at), '')
      _write(axes, 0.05, top, str(at), weight='bold', size=11)
      _write(axes, 0.4, top, shortened(name, _LETTERS_OF_NAME), weight='bold')
    elif kind == 'support':
      _write(axes, 1.15, top, shortened(examples[at], _LETTERS), color=GREY)
    else:
      _query(axes, top, queries[at], query_labels[at], before[at], after[at])
  axes.set_ylim(top + _LINE, 0)
  note = 'Grey: support. Before a query: its class as predicted before'
  note += ' \N{RIGHTWARDS ARROW} after adaptation; green is right; red, with a'
  note += ' cross, is wrong.'
  if len(labels) > _CLASSES:
    note += f' The first {_CLASSES} of {len(labels)} classes.'
  for shown, given, what in (
    (_SUPPORT, support_labels, 'support texts'),
    (_QUERIES, query_labels, 'queries'),
  ):
    most = np.unique(given, return_counts=True)[1].max()
    if most > shown:
      note += f' The first {shown} of up to {most} {what} of a class.'
  below = figure.supxlabel(note, color=GREY, parse_math=False)
  fit(below, figure, NOTE_SIZES)
  return save(figure, path, title)


def _query(
  axes: Axes, top: float, text: str, label: Any, before: Any, after: Any
) -> None:
  """Writes a query behind its predictions."""
  right = bool(after == label)
  arrow = '\N{RIGHTWARDS ARROW}'
  if not right:
    _write(axes, 0.1, top, '\N{MULTIPLICATION X}', color=WRONG, ha='center')
  for x, prediction, align in ((0.5, before, 'right'), (0.74, after, 'left')):
    color = RIGHT if prediction == label else WRONG
    _write(
      axes, x, top, str(prediction), color=color, ha=align, weight='bold'
    )  # fmt: skip
  _write(axes, 0.62, top, arrow, color=GREY, ha='center')
  _write(
    axes, 1.15, top, shortened(text, _LETTERS), color=RIGHT if right else WRONG
  )


def _write(axes: Axes, x: float, top: float, text: str, **how: Any) -> None:
  how = {'size': _SIZE, 'va': 'center', **how}
  axes.text(x, top, text, parse_math=False, **how)
