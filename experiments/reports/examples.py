"""Test tasks as a page shows them, as plain data that JSON has.

Each function makes one of them of a run that is finished, the number of the
task, and the outputs after 0, 1, ... inner steps, `[steps + 1, queries, ...]`.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.data.samplers import Classes
from experiments.figures.finished import outputs_of, task_of_test
from experiments.figures.images import counted, drawable, pixels_of
from experiments.figures.regression import on_grid
from experiments.reports.scales import count
from experiments.runner.loop import Finished
from metajax.base import Batch, SampleTask
from metajax.tasks import caption_tokenizer, completion
from metajax.trained.portable.learner import softmax

__all__ = [
  'Example',
  'Show',
  'completed',
  'curve',
  'image_classes',
  'modal_classes',
  'names_in',
  'picture',
  'points',
  'shares',
  'text_classes',
]

# An image or a text.
Example = dict[str, Any]
Show = Callable[[Finished, int, np.ndarray], dict[str, Any]]

# What is shown of a task, so that a page stays small and can be read.
_CLASSES, _SUPPORT, _QUERIES, _EXAMPLES = 20, 5, 8, 48
_TEXT_QUERIES, _LETTERS, _TARGETS = 4, 320, 4
_LARGEST, _SMALL = 96, 48  # pixels; photos above this are made JPEG
_DIGITS = 5
_UNKNOWN = (0.55, 0.75, 0.95)  # the colour of pixels that are not known


def image_classes(
  run: Finished,
  index: int,
  outputs: np.ndarray,
  classes: Classes | None = None,
) -> dict[str, Any]:
  """A task of images, by class."""
  task = task_of_test(run.problem.test, index)
  support, query = (
    [picture(each) for each in pixels_of(drawable(batch.inputs), 4)]
    for batch in task
  )
  names = {} if classes is None else names_in(classes, index)
  return _by_class(task, support, query, outputs, names, _QUERIES)


def text_classes(
  run: Finished,
  index: int,
  outputs: np.ndarray,
  texts: Classes,
  classes: Classes,
) -> dict[str, Any]:
  """A task of texts, by class."""
  words = task_of_test(texts.sample, index)
  support, query = (
    [_text(texts.names[place]) for place in np.asarray(batch.inputs)]
    for batch in words
  )
  task = task_of_test(classes.sample, index)
  names = names_in(classes, index)
  return _by_class(task, support, query, outputs, names, _TEXT_QUERIES)


def modal_classes(
  run: Finished,
  index: int,
  outputs: np.ndarray,
  sample: SampleTask | None = None,
) -> dict[str, Any]:
  """A task of images or captions, by class; of another kind with `sample`."""
  task = task_of_test(sample or run.problem.test, index)
  support, query = (_modal(batch) for batch in task)
  return _by_class(task, support, query, outputs, {}, _TEXT_QUERIES)


def names_in(classes: Classes, index: int) -> dict[int, str]:
  """What the classes of a test task are called, by their number in it."""
  support = task_of_test(classes.sample, index).support
  labels, real = counted(support)
  places = np.asarray(support.inputs)
  return {
    int(label): classes.names[place]
    for label, place in zip(labels[real], places[real], strict=True)
  }


def curve(run: Finished, index: int, outputs: np.ndarray) -> dict[str, Any]:
  """A task of one input and one target: the curve and what is predicted."""
  task = task_of_test(run.problem.test, index)
  x = np.asarray(task.query.inputs)[:, 0]
  order = np.argsort(x)
  last = len(outputs) - 1
  return {
    'kind': 'curve',
    'x': _numbers(x[order]),
    'true': _numbers(np.asarray(task.query.targets)[order, 0]),
    'predicted': {
      _after(step, last): _numbers(outputs[step][order, 0])
      for step in sorted({0, 1, last})
      if step <= last
    },
    'support_x': _numbers(np.asarray(task.support.inputs)[:, 0]),
    'support_y': _numbers(np.asarray(task.support.targets)[:, 0]),
  }


def points(run: Finished, index: int, outputs: np.ndarray) -> dict[str, Any]:
  """A task of a table: what is predicted, and what is true, by target."""
  task = task_of_test(run.problem.test, index)
  true = np.asarray(task.query.targets)
  true = true.reshape(len(true), -1)
  # Behind the means, methods may predict how sure they are.
  outputs = outputs.reshape(*outputs.shape[:2], -1)[..., : true.shape[1]]
  names = run.problem.protocol.get('targets')
  names = [names] if isinstance(names, str) else names
  last = len(outputs) - 1
  return {
    'kind': 'points',
    'targets': [
      {
        'name': names[place] if names else f'target {place + 1}',
        'true': _numbers(true[:, place]),
        'predicted': {
          _after(step, last): _numbers(outputs[step][:, place])
          for step in sorted({0, last})
        },
      }
      for place in range(min(true.shape[1], _TARGETS))
    ],
    'targets_left_out': max(0, true.shape[1] - _TARGETS),
  }


def shares(run: Finished, index: int, outputs: np.ndarray) -> dict[str, Any]:
  """A task of two classes: the probability of the second, and what it was."""
  task = task_of_test(run.problem.test, index)
  names = run.problem.protocol['targets']
  last = len(outputs) - 1
  predicted = {
    _after(step, last): _numbers(softmax(outputs[step])[:, 1])
    for step in sorted({0, last})
  }
  true = _numbers(np.asarray(task.query.targets))
  targets = [{'name': names[0], 'true': true, 'predicted': predicted}]
  return {'kind': 'points', 'targets': targets, 'targets_left_out': 0}


def completed(run: Finished, index: int, outputs: np.ndarray) -> dict[str, Any]:
  """An image of which some pixels are known: these, the guess, the truth."""
  del outputs  # of some pixels; all that are not known are to be seen
  images = cast(jax.tree_util.Partial, run.problem.test).args[0]
  height, width = images.shape[1:3]
  shots = run.problem.recipe.shots
  whole = completion(images, shots, height * width - shots)
  task = task_of_test(whole, index)
  _, guessed = outputs_of(run, whole, [index])

  def grid(batch: Batch, values: Any) -> jax.Array:
    return on_grid(batch.inputs, values, height, width)

  known = grid(task.support, task.support.targets)
  is_known = grid(task.support, jnp.ones_like(task.support.targets)) > 0
  true = known + grid(task.query, task.query.targets)
  values = jnp.asarray(guessed[0, -1])[:, : task.query.targets.shape[-1]]
  guess = known + grid(task.query, jnp.clip(values, 0, 1))
  # Ink is dark, what is not known is coloured.
  given = jnp.where(is_known, 1 - known, jnp.array(_UNKNOWN))
  shown = {
    f'{count(shots, "pixel")} known': given,
    'completed': 1 - guess,
    'true': 1 - true,
  }
  return {
    'kind': 'images',
    'images': [
      [name, picture(np.broadcast_to(pixels, (height, width, 3)))]
      for name, pixels in shown.items()
    ],
  }


def picture(pixels: np.ndarray) -> Example:
  """An image of RGB in [0, 1] as data that a page can hold."""
  values = np.asarray(np.round(255 * np.clip(pixels, 0, 1)), np.uint8)
  is_grey = bool((values == values[..., :1]).all())
  image = Image.fromarray(values[..., 0] if is_grey else values)
  image.thumbnail((_LARGEST, _LARGEST))
  photo = not is_grey and max(image.size) > _SMALL
  buffer = io.BytesIO()
  if photo:
    image.save(buffer, 'JPEG', quality=85)
  else:
    image.save(buffer, 'PNG', optimize=True)
  data = base64.b64encode(buffer.getvalue()).decode()
  kind = 'jpeg' if photo else 'png'
  return {
    'image': f'data:image/{kind};base64,{data}',
    'width': image.width,
    'height': image.height,
    'text': '',
  }


def _by_class(
  task: Any,
  support: Sequence[Example],
  query: Sequence[Example],
  outputs: np.ndarray,
  names: Mapping[int, str],
  most: int,
) -> dict[str, Any]:
  (known, real), (asked_for, asked) = map(counted, task)
  before, after = outputs[0].argmax(-1), outputs[-1].argmax(-1)
  sure = softmax(outputs[-1]).max(-1)
  labels = np.unique(known[real]).tolist()
  shown = max(1, min(most, _EXAMPLES // len(labels)))
  rows = []
  for label in labels[:_CLASSES]:
    own = np.flatnonzero(real & (known == label))
    queries = np.flatnonzero(asked & (asked_for == label))
    rows.append(
      {
        'label': int(label),
        'name': names.get(int(label)),
        'support': [support[place] for place in own[:_SUPPORT]],
        'support_left_out': max(0, len(own) - _SUPPORT),
        'queries': [
          query[place]
          | {
            'before': int(before[place]) if len(outputs) > 1 else None,
            'after': int(after[place]),
            'probability': _number(sure[place]),
          }
          for place in queries[:shown]
        ],
        'queries_left_out': max(0, len(queries) - shown),
      }
    )
  return {
    'kind': 'classes',
    'has_names': bool(names),
    'is_text': not any(each['image'] for each in (*support, *query)),
    'classes': rows,
    'classes_left_out': max(0, len(labels) - _CLASSES),
  }


def _modal(batch: Batch) -> list[Example]:
  inputs: Any = batch.inputs
  if 'images' in inputs:
    return [picture(each) for each in pixels_of(inputs['images'], 4)]
  decode = caption_tokenizer().decode
  return [_text(decode(np.asarray(tokens))) for tokens in inputs['texts']]


def _text(text: str) -> Example:
  text = ' '.join(text.split())
  if len(text) > _LETTERS:
    text = f'{text[: _LETTERS - 1]}…'
  return {'image': '', 'text': text}


def _after(step: int, last: int) -> str:
  if last == 0:
    return 'prediction'
  return 'before adaptation' if step == 0 else f'after {count(step, "step")}'


def _numbers(values: Any) -> list[float | None]:
  return [_number(value) for value in np.asarray(values).ravel()]


def _number(value: Any) -> float | None:
  value = float(value)
  return float(f'{value:.{_DIGITS}g}') if np.isfinite(value) else None
