"""A deployed learner that goes on learning, and whose state outlives it."""

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .drift import DriftAlarm
from .examples import LearnerError, by_class
from .learner import Adapted, Prediction, TrainedLearner, Values, keys

__all__ = ['Online', 'resume', 'start']

# Methods whose state is the mean of each class, and which classes there are.
_MEANS = frozenset({'protonet', 'nearest_mean', 'pixels'})
# Methods that take further steps from what they have adapted.
_STEPS = frozenset({'maml', 'fomaml', 'anil', 'boil', 'reptile', 'la_maml'})
_HEADER = b'metajax online 1\n'
# Features are summed as whole numbers of 2^-24, so that no order matters.
_BITS = 24
_MOST = 2.0**20  # of a feature
_SAME = 1e-4  # how far a feature of an example may move beside another


class _State(NamedTuple):
  """All that was learned since deployment."""

  classes: tuple[str, ...]
  counts: np.ndarray  # int64 [classes], examples of each that were learned
  arrays: list[np.ndarray]  # sums int64 [classes, features]; or as adapted
  support: np.ndarray  # inputs by which statistics of a batch are measured


class Online:
  """A learner that is told more examples while it is in use.

  Made by `TrainedLearner.update` and `TrainedLearner.resume`. Methods on class
  means keep exact sums: examples may come in any order and in any parts, and
  what comes out is the same to the last bit. Gradient methods take further
  steps on the new examples alone, from where they are, so there the order
  matters, and what is not shown again may be forgotten.
  """

  def __init__(
    self,
    learner: TrainedLearner,
    state: _State,
    alarm: DriftAlarm | None = None,
  ) -> None:
    self._learner = learner
    self._state = state
    self.alarm = alarm  # that `watch` asks, and `save` keeps

  def __repr__(self) -> str:
    number = int(self._state.counts.sum())
    return f'Online({self._learner} of {number} examples)'

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the classes that it knows, in the order they came in."""
    return self._state.classes

  @property
  def counts(self) -> dict[str, int]:
    """How many examples of each class it has learned from."""
    each = zip(self._state.classes, self._state.counts.tolist(), strict=True)
    return dict(each)

  def update(self, examples: Any, seed: int = 0) -> 'Online':
    """Learns more examples, of known classes or of new ones.

    Args:
      examples: inputs by class, or a pair of inputs and labels, see
        `TrainedLearner.adapt`; of one class alone, too.
      seed: of methods that draw something at random.

    Returns:
      Itself. Where an error is raised it is as it was before.

    Raises:
      LearnerError: if examples are of another kind or size, or if there are
        more classes than the learner can tell apart.
    """
    names, parts = by_class(examples)
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not -(2**31) <= seed < 2**32:
      raise LearnerError(f'seed is a whole number of 32 bits; got {seed!r}')
    if not names:
      raise LearnerError('there are no examples; give some of a class')
    arrays = [self._learner.inputs(part, f'class {name!r}: ')
              for name, part in zip(names, parts, strict=True)]  # fmt: skip
    classes = (*self.classes, *(n for n in names if n not in self.classes))
    if len(classes) > self._learner.manifest['outputs']['classes']:
      self._learner.for_classes(len(classes))  # or it is refused
    rule = _by_means if self._method in _MEANS else _by_steps
    self._state = rule(self._learner, self._state, classes, names, arrays, seed)
    return self

  def adapted(self) -> Adapted:
    """What it has learned so far, for any number of predictions."""
    state = self._state
    if len(state.classes) < 2:
      raise LearnerError(
        f'it knows {len(state.classes)} class, and two or more are told apart;'
        ' update it with examples of another'
      )
    programs = self._learner.for_classes(len(state.classes))
    arrays: list[Any] = state.arrays
    if self._method in _MEANS:
      arrays = _as_means(programs, state)
    return Adapted(
      self._learner, programs, arrays, state.support, state.classes
    )

  def predict(self, inputs: Any) -> Prediction | Values:
    """Predicts for examples, see `Adapted.predict`."""
    return self.adapted().predict(inputs)

  def scores(self, inputs: Any) -> np.ndarray:
    """How unsure it is of each input: 1 less its highest probability."""
    said = self.predict(inputs)
    assert isinstance(said, Prediction)  # others are refused at the start
    unsure: np.ndarray = 1 - said.probabilities.max(axis=1)
    return unsure

  def watch(self, inputs: Any) -> bool:
    """Shows the alarm how unsure it is of inputs that came, in their order.

    Returns:
      Whether there is an alarm, at these inputs or before.

    Raises:
      LearnerError: if it has no `alarm`, see `metajax.trained.DriftAlarm`.
    """
    if not isinstance(self.alarm, DriftAlarm):
      raise LearnerError(
        'there is no alarm to ask; set one: online.alarm ='
        ' DriftAlarm.calibrated(scores of inputs as they should be)'
      )
    return self.alarm.update(self.scores(inputs))

  def save(self, path: str | Path) -> None:
    """Keeps its state in a file, whole or not at all.

    `TrainedLearner.resume` reads it, and then answers to the last bit as
    before. A process that is killed meanwhile leaves the file that was there.

    Raises:
      LearnerError: if the file cannot be written.
    """
    state = self._state
    if not isinstance(self.alarm, DriftAlarm | None):
      raise LearnerError(
        f'the alarm is no DriftAlarm, but {type(self.alarm).__name__}'
      )
    about = {
      'learner': _identity(self._learner),
      'method': self._method,
      'classes': state.classes,
      'alarm': None if self.alarm is None else self.alarm.as_dict(),
      'arrays': len(state.arrays),
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
      'about': np.frombuffer(json.dumps(about).encode(), np.uint8),
      'counts': state.counts,
      'support': state.support,
      **{f'a{i}': np.asarray(each) for i, each in enumerate(state.arrays)},
    }
    np.savez(buffer, **arrays)
    body = buffer.getvalue()
    digest = hashlib.sha256(body).hexdigest().encode()
    _replace(Path(path), _HEADER + digest + b'\n' + body)

  @property
  def _method(self) -> str:
    return str(self._learner.manifest['method'])


def start(learner: TrainedLearner) -> Online:
  """A learner that knows no class yet, and can be told some.

  Raises:
    LearnerError: if its method cannot go on from what it has learned.
  """
  method = learner.manifest['method']
  if not learner.classifies:
    raise LearnerError(
      f'{method} predicts numbers here, and updates are of classes; adapt anew'
      ' to all examples'
    )
  if method not in _MEANS | _STEPS:
    raise LearnerError(
      f'{method} keeps no sums or weights to go on from: it has to see all'
      ' examples at once; adapt anew to old and new ones, or take one of'
      f' {", ".join(sorted(_MEANS | _STEPS))}'
    )
  if method in _STEPS and not getattr(learner.programs, 'goes_on', False):
    raise LearnerError(
      f'an exported {method} has no program for further steps; load the run'
      ' itself, or export a method on class means, such as protonet'
    )
  nothing = np.zeros((0,), np.int64)
  return Online(learner, _State((), nothing, [], np.zeros((0,))))


def resume(learner: TrainedLearner, path: str | Path) -> Online:
  """Reads what `Online.save` has kept.

  Raises:
    LearnerError: if the file is missing, damaged, or of another learner.
  """
  path = Path(path)
  online = start(learner)
  try:
    data = path.read_bytes()
  except (OSError, ValueError) as error:  # the name may be none
    why = getattr(error, 'strerror', error)
    raise LearnerError(f'{_named(path)} is not readable ({why})') from error
  if not data.startswith(_HEADER):
    raise LearnerError(f'{path} is no state that a learner has saved')
  digest, _, body = data[len(_HEADER) :].partition(b'\n')
  if hashlib.sha256(body).hexdigest().encode() != digest:
    raise LearnerError(f'{path} is not as it was saved; restore it')
  with np.load(io.BytesIO(body), allow_pickle=False) as kept:
    about = json.loads(kept['about'].tobytes())
    arrays = [kept[f'a{place}'] for place in range(about['arrays'])]
    counts, support = kept['counts'], kept['support']
  if about['learner'] != _identity(learner):
    raise LearnerError(
      f'{path} was saved by another learner, a {about["method"]}; load the one'
      ' that it is of'
    )
  alarm = about['alarm']
  classes = tuple(about['classes'])
  return Online(
    learner,
    online._state._replace(
      classes=classes, counts=counts, arrays=arrays, support=support
    ),
    None if alarm is None else DriftAlarm(**alarm),
  )


# Class means.


def _by_means(
  learner: TrainedLearner,
  state: _State,
  classes: tuple[str, ...],
  names: tuple[str, ...],
  parts: list[np.ndarray],
  seed: int,
) -> _State:
  """Adds features to the sums of their classes, one example at a time."""
  del seed  # nothing is drawn
  if not len(state.support):
    _check_alone(learner, np.concatenate(parts))
  sums, counts, support = dict[str, Any](), dict[str, int](), state.support
  for place, name in enumerate(state.classes):
    sums[name] = state.arrays[0][place]
    counts[name] = int(state.counts[place])
  for name, part in zip(names, parts, strict=True):
    for example in part:
      whole = _as_whole(_feature(learner, example[None]))
      sums[name] = sums[name] + whole if name in sums else whole
      counts[name] = counts.get(name, 0) + 1
    support = support if len(support) else part[:1]
  return _State(
    classes,
    np.asarray([counts[name] for name in classes], np.int64),
    [np.stack([sums[name] for name in classes])],
    support,
  )


def _feature(learner: TrainedLearner, inputs: np.ndarray) -> np.ndarray:
  """What a mean of the first example alone is, with others beside it."""
  targets = np.arange(len(inputs), dtype=np.int32)
  state = learner.programs.adapt(inputs[None], targets[None], keys([0]))
  return np.asarray(state[0])[0, 0]


def _check_alone(learner: TrainedLearner, inputs: np.ndarray) -> None:
  """Refuses a network in which an example is not the same beside others."""
  # Two at a time: of one alone such a network has no statistics.
  one, other = inputs[:1], inputs[1:2] if len(inputs) > 1 else 0 * inputs
  alone = _feature(learner, np.concatenate([one, one]))
  beside = _feature(learner, np.concatenate([one, other]))
  scale = max(float(np.abs(alone).max()), 1e-12)
  if not np.abs(alone - beside).max() <= _SAME * scale:
    raise LearnerError(
      f'{learner.manifest["method"]} normalises by the support set here, so'
      ' features of old examples would change with new ones; load a run with'
      ' normalisation="population", or adapt anew to all examples'
    )


def _as_whole(feature: np.ndarray) -> np.ndarray:
  if not (np.isfinite(feature).all() and np.abs(feature).max() < _MOST):
    raise LearnerError(
      'a feature of an example is not finite, or too large to be summed'
      f' exactly (above {_MOST:g}); give others'
    )
  return np.rint(feature.astype(np.float64) * 2**_BITS).astype(np.int64)


def _as_means(programs: Any, state: _State) -> list[np.ndarray]:
  """The state of the programs, from sums."""
  targets = np.zeros((1, 1), np.int32)
  like = programs.adapt(state.support[:1][None], targets, keys([0]))
  means, present = (np.zeros_like(np.asarray(each)) for each in like)
  number = len(state.classes)
  # Counts are exact in double precision, and the quotient is rounded once.
  exact = state.arrays[0] / (state.counts[:, None] * float(2**_BITS))
  means[0, :number] = exact.astype(means.dtype)
  present[0, :number] = True
  return [means, present]


# Further steps.


def _by_steps(
  learner: TrainedLearner,
  state: _State,
  classes: tuple[str, ...],
  names: tuple[str, ...],
  parts: list[np.ndarray],
  seed: int,
) -> _State:
  """Goes on descending, on the new examples."""
  inputs = np.concatenate(parts)
  numbers = [classes.index(name) for name in names]
  targets = np.repeat(numbers, [len(part) for part in parts]).astype(np.int32)
  programs: Any = learner.programs
  given = inputs[None], targets[None], keys([seed])
  arrays = (
    programs.go_on(state.arrays, *given)
    if state.arrays
    else programs.adapt(*given)
  )
  arrays = [np.asarray(each) for each in arrays]
  if not all(np.isfinite(each).all() for each in arrays):
    raise LearnerError(
      'steps on these examples diverge: what it would know is not finite; it'
      ' stays as it was, so give others'
    )
  counts = np.bincount(targets, minlength=len(classes)).astype(np.int64)
  counts[: len(state.counts)] += state.counts
  support = state.support if len(state.support) else inputs
  return _State(classes, counts, arrays, support)


# Files.


def _identity(learner: TrainedLearner) -> str:
  """What a state is of: the manifest, and the weights."""
  text = json.dumps(learner.manifest, sort_keys=True, default=str)
  digest = getattr(learner.programs, 'digest', lambda: '')()
  return hashlib.sha256(f'{text}{digest}'.encode()).hexdigest()


def _named(path: Path) -> str:
  return str(path).replace('\0', '?')


def _replace(path: Path, data: bytes) -> None:
  """Writes a file whole, or leaves the one that was there."""
  name: str | None = None
  try:
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(name, path)
    name = None
    folder = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)
  except (OSError, ValueError) as error:  # the name may be none
    why = getattr(error, 'strerror', error)
    raise LearnerError(
      f'{_named(path)} cannot be written ({why}); name another'
    ) from error
  finally:
    if name is not None:
      Path(name).unlink(missing_ok=True)
