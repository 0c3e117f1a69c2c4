"""What adapts to a few examples and predicts others."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np

from .examples import (
  LearnerError,
  by_class,
  check_finite,
  images,
  numbers,
  pair,
  rows,
  scaled,
  tokens,
)

if TYPE_CHECKING:
  from .online import Online

__all__ = [
  'Adapted',
  'Prediction',
  'Programs',
  'TrainedLearner',
  'Values',
  'fill',
  'keys',
  'softmax',
]

# Numbers of queries that are compiled for; what is between is filled up.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Programs(Protocol):
  """A method on batches of tasks, with what it has learned.

  Inputs are `[tasks, examples, ...]`, as a model sees them.
  """

  def adapt(self, inputs: Any, targets: Any, keys: Any, /) -> list[Any]:
    """What was adapted: arrays `[tasks, ...]`; `keys` are `[tasks, 2]`."""

  def predict(self, state: list[Any], support: Any, queries: Any, /) -> Any:
    """Outputs `[tasks, queries, outputs]`."""


class Prediction(NamedTuple):
  """Classes of examples."""

  labels: list[str]  # the most likely class of each example
  probabilities: np.ndarray  # [examples, classes]
  classes: tuple[str, ...]  # names of the columns


class Values(NamedTuple):
  """Numbers that were predicted for examples, in the units of the targets."""

  values: np.ndarray  # [examples, targets]
  names: tuple[str, ...]  # of the columns


class TrainedLearner:
  """A method with what it has learned, for examples of one's own.

  Args:
    manifest: what examples and outputs are; that of an exported directory, or
      what stands in one.
    programs: adapt and predict.
    tokenize: makes tokens of texts, `(texts, most) -> (int32 [texts, length]
      with -1 for none, how many were cut off)`, where inputs are texts.
    for_classes: makes programs for another number of classes, where that is
      possible; else raises `LearnerError`.
    files: that an export has beside it, such as a tokenizer, by name.
  """

  def __init__(
    self,
    manifest: Mapping[str, Any],
    programs: Programs,
    tokenize: Callable[..., tuple[np.ndarray, int]] | None = None,
    for_classes: Callable[[int], Programs] | None = None,
    files: Mapping[str, str] | None = None,
  ) -> None:
    self.manifest = dict(manifest)
    self.programs = programs
    self._tokenize = tokenize
    self._for_classes = for_classes
    self._of_more = dict[int, Programs]()
    self.files = dict(files or {})

  def __repr__(self) -> str:
    kind = self.manifest['inputs']['kind']
    return f'TrainedLearner({self.manifest["method"]} on {kind})'

  @property
  def classifies(self) -> bool:
    """Whether it tells classes apart; else it predicts numbers."""
    return 'classes' in self.manifest['outputs']

  def adapt(self, examples: Any, seed: int = 0) -> 'Adapted':
    """Adapts to a support set.

    Args:
      examples: inputs by the name of their class; or a pair of inputs and of
        labels, or of inputs and numbers `[examples, targets]` where these are
        predicted. Inputs are what the learner was trained on: images `[n,
        height, width, channels]`, uint8 or from 0 to 1; texts; or rows of
        numbers in their own units.
      seed: of methods that draw something at random.

    Returns:
      What predicts for these classes.

    Raises:
      LearnerError: if inputs are of another kind or size, or not finite; if
        there is one class, or more than the learner can tell apart.
    """
    inputs, targets, classes = self.support(examples)
    programs = self.programs
    if classes and len(classes) > self.manifest['outputs']['classes']:
      programs = self.for_classes(len(classes))
    state = programs.adapt(inputs[None], targets[None], keys([seed]))
    return Adapted(self, programs, state, inputs, classes)

  def update(self, examples: Any, seed: int = 0) -> 'Online':
    """Begins to learn online: more examples can be told to what it returns.

    Args:
      examples: see `Online.update`.
      seed: of methods that draw something at random.

    Returns:
      What goes on learning, predicts, and can be saved. The learner itself
      stays as it is.

    Raises:
      LearnerError: as `Online.update`; and if the method cannot go on from what
        it has learned.
    """
    from .online import start  # it is made of learners

    return start(self).update(examples, seed)

  def resume(self, path: str | Path) -> 'Online':
    """Goes on with what `Online.save` has kept of this learner.

    Raises:
      LearnerError: if the file is missing, damaged, or of another learner.
    """
    from .online import resume

    return resume(self, path)

  def for_classes(self, number: int) -> Programs:
    """Programs for so many classes.

    Raises:
      LearnerError: if the method cannot tell so many apart.
    """
    most = self.manifest['outputs']['classes']
    if number <= most:
      return self.programs
    if self._for_classes is None:
      raise LearnerError(
        f'the examples are of {number} classes, and this learner tells'
        f' {most} apart at most; give fewer, or train or export it for more'
      )
    if number not in self._of_more:  # they are compiled once
      self._of_more[number] = self._for_classes(number)
    return self._of_more[number]

  def support(self, examples: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """Inputs and targets as programs take them, and the names of classes.

    Args:
      examples: as for `adapt`.

    Raises:
      LearnerError: as `adapt`.
    """
    if not self.classifies:
      inputs, targets = pair(examples)
      inputs = self.inputs(inputs)
      return inputs, self._numbers(targets, len(inputs)), ()
    names, parts = by_class(examples)
    if not names:
      raise LearnerError('there are no examples; give some of each class')
    if len(names) < 2:
      raise LearnerError(
        f'the examples are of {len(names)} class, and two or more are told'
        ' apart; give examples of another'
      )
    if self._for_classes is None:
      self.for_classes(len(names))  # or too many are refused
    arrays = [self.inputs(part, f'class {name!r}: ')
              for name, part in zip(names, parts, strict=True)]  # fmt: skip
    targets = np.repeat(np.arange(len(names)), [len(each) for each in arrays])
    return np.concatenate(arrays), targets.astype(np.int32), names

  def inputs(self, given: Any, where: str = '') -> np.ndarray:
    """Inputs as the model sees them.

    Args:
      given: inputs, see `adapt`.
      where: begins a message.

    Raises:
      LearnerError: as `adapt`.
    """
    what = self.manifest['inputs']
    try:
      if what['kind'] == 'texts':
        return tokens(given, what['length'], self._tokenize)
      if what['kind'] == 'images':
        return images(given, tuple(what['shape']))
      return rows(given, what)
    except LearnerError as error:
      raise LearnerError(f'{where}{error}') from None

  def _numbers(self, targets: Any, number: int) -> np.ndarray:
    what = self.manifest['outputs']
    array = numbers(targets, 'targets')
    if array.ndim == 1:
      array = array[:, None]
    wanted = (number, len(what['names']))
    if array.shape != wanted:
      raise LearnerError(
        f'targets are numbers {list(wanted)}, {", ".join(what["names"])} of'
        f' each example; got {list(array.shape)}'
      )
    check_finite(array, 'targets')
    return scaled(array, what)


class Adapted(NamedTuple):
  """A learner that has seen the examples of a task."""

  learner: TrainedLearner
  programs: Programs
  state: list[Any]  # arrays [1, ...]
  support: np.ndarray  # the inputs that it has seen
  classes: tuple[str, ...]

  def __repr__(self) -> str:
    told = f', of {", ".join(self.classes)}' if self.classes else ''
    return f'Adapted({self.learner} to {len(self.support)} examples{told})'

  def outputs(self, inputs: Any) -> np.ndarray:
    """What the model has at its end, `[examples, outputs]`: logits, say."""
    queries = self.learner.inputs(inputs)
    if self.learner.manifest['normalisation'] == 'transductive':
      return self._predicted(queries)  # they share statistics
    most = _SIZES[-1]
    parts = [
      self._predicted(filled)[: len(part)]
      for part in np.split(queries, range(most, len(queries), most))
      for filled in [fill(part, _SIZES)]
    ]
    return np.concatenate(parts)

  def _predicted(self, queries: np.ndarray) -> np.ndarray:
    found = self.programs.predict(self.state, self.support[None], queries[None])
    return np.asarray(found)[0]

  def predict(self, inputs: Any) -> Prediction | Values:
    """Predicts for examples that it has not seen.

    Each by itself: the others change nothing, unless the learner was loaded
    with `normalisation='transductive'`.

    Args:
      inputs: see `TrainedLearner.adapt`.

    Raises:
      LearnerError: if they are of another kind or size, or not finite, or if
        what is predicted is not, as after an adaptation that went astray.
    """
    found = self.learner_says(self.outputs(inputs))
    said = (
      found.probabilities if isinstance(found, Prediction) else found.values
    )
    if not np.isfinite(said).all():
      raise LearnerError(
        f'{self.learner.manifest["method"]} has no finite answer to these'
        ' examples; its adaptation went astray, so give others'
      )
    return found

  def learner_says(self, outputs: np.ndarray) -> Prediction | Values:
    """What outputs mean."""
    manifest = self.learner.manifest
    if not self.learner.classifies:
      what = manifest['outputs']
      wide = outputs.astype(np.float64)
      values = wide * what['deviation'] + np.asarray(what['mean'])
      return Values(values, tuple(what['names']))
    logits = outputs[:, : len(self.classes)]
    probabilities = softmax(logits / manifest['temperature'])
    best = np.argmax(probabilities, axis=1)
    labels = [self.classes[index] for index in best]
    return Prediction(labels, probabilities, self.classes)


def keys(seeds: Sequence[int]) -> np.ndarray:
  """Keys `[seeds, 2]` of numbers."""
  return np.stack(
    [np.asarray(jax.random.key_data(jax.random.key(seed))) for seed in seeds]
  )


def fill(array: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
  """An array filled up with its first row to the next of some sizes."""
  size = next((each for each in sizes if each >= len(array)), len(array))
  rest = np.repeat(array[:1], size - len(array), axis=0)
  return np.concatenate([array, rest])


def softmax(logits: np.ndarray) -> np.ndarray:
  """Probabilities of logits, along the last axis, in double precision."""
  wide = logits.astype(np.float64)
  powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)
