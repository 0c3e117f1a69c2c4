"""What methods learn before a stream comes, kept in the workdir."""

import io
import math
import re
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.runner.errors import UsageError, unwritable
from experiments.runner.progress import shown
from experiments.runner.stream_learners import METHODS
from experiments.runner.streams import Known, are_finite
from metajax.adaptation.heads import TransferParams
from metajax.algorithms.anml import Gated, anml
from metajax.algorithms.oml import oml
from metajax.algorithms.protonet import protonet
from metajax.base import MetaLearner, Model, PyTree, SampleTask, sample_tasks
from metajax.objectives import cross_entropy
from metajax.runs.training import make_train_step
from metajax.tasks import class_streams, episodes

__all__ = [
  'LEARNED',
  'Trained',
  'before_stream',
  'check',
  'check_moves',
  'learned',
  'wanted',
]

LEARNED = ('pretrained', 'oml', 'anml')  # in this order
_EVERY = 25  # steps in a dispatch
_PRETRAINING_WAYS, _PRETRAINING_SHOTS = 20, 5


class Trained(NamedTuple):
  """Parameters of an embedding, and how long they took."""

  params: PyTree
  seconds: float
  steps: int
  skipped: int  # of these, since something was not finite


def learned(
  name: str,
  model: Model,
  inputs: np.ndarray,
  given: Any,
  path: Path,
  before: Mapping[str, PyTree],
) -> Trained:
  """Trains an embedding, or reads one that was trained.

  Args:
    name: one of `LEARNED`.
    model: the embedding.
    inputs: of the classes of training, `[classes, examples, ...]`.
    given: settings of the experiment.
    path: the file it is kept in.
    before: what was learned before, by name.

  Raises:
    UsageError: if the file is damaged, or cannot be written.
  """
  learner, sample = _problem(name, model, inputs, given)
  steps = given.pretraining_steps if name == 'pretrained' else given.steps
  rate = optax.cosine_decay_schedule(given.outer_lr, steps)
  train = make_train_step(learner, optax.adam(rate), sample, tasks_per_step=1)
  shape = train.template().meta_params
  if path.exists():
    return _read(path, _embedding(shape))
  state = train.init(jax.random.key(given.seed))
  if name != 'pretrained' and given.start == 'pretrained':
    state = state._replace(
      meta_params=_started(state.meta_params, before['pretrained'])
    )
  train.run(jax.tree.map(lambda leaf: leaf.copy(), state), 1)  # compiled
  began, skipped = time.perf_counter(), 0
  with shown(f'{name}: learning') as progress:
    for done in range(0, steps, _EVERY):
      state, metrics = train.run(state, min(_EVERY, steps - done))
      skipped += int(metrics['skipped'])
      progress(min(done + _EVERY, steps), steps)
  params = jax.tree.map(np.asarray, _embedding(state.meta_params))
  trained = Trained(params, time.perf_counter() - began, steps, skipped)
  _write(path, trained)
  return trained


def wanted(settings: Any) -> set[str | None]:
  """What is to be learned before the stream."""
  names = {METHODS[name].start for name in settings.methods}
  if settings.start == 'pretrained' and names & {'oml', 'anml'}:
    names.add('pretrained')
  return names - {None}


def before_stream(
  settings: Any,
  model: Model,
  inputs: np.ndarray,
  validation: np.ndarray,
  workdir: Path,
) -> tuple[Known, dict[str, Any]]:
  """What is learned before the stream, and how long it took.

  Args:
    settings: of the experiment.
    model: the embedding.
    inputs: of the classes of training, `[classes, examples, ...]`.
    validation: the same of validation.
    workdir: where it is kept.

  Raises:
    UsageError: if features are not finite, or a file is damaged.
  """
  names = wanted(settings)
  known, seconds = Known(model, {}), dict[str, Any]()
  for name in LEARNED:
    if name in names:
      path = workdir / 'learned' / f'{name}.npz'
      trained = learned(name, model, inputs, settings, path, known.params)
      known.params[name] = trained.params
      if not are_finite(known, name, validation[:2]):
        raise UsageError(
          'outer_lr', f'is {settings.outer_lr:g}, with which {name} has learned'
          ' features that are not finite; lower it, in another --workdir'
        )  # fmt: skip
      seconds[name] = {
        'seconds': trained.seconds,
        'steps': trained.steps,
        'skipped': trained.skipped,
      }
  return known, seconds


def check(
  model: Model, inputs: np.ndarray, given: Any, names: Collection[str | None]
) -> None:
  """Refuses settings of what is learned before that cannot be meant.

  Args:
    model: the embedding.
    inputs: of the classes of training, `[classes, examples, ...]`.
    given: settings of the experiment.
    names: of what is to be learned.

  Raises:
    UsageError: if a stream asks for more than there is, or nothing moves.
  """
  streams = [name for name in ('oml', 'anml') if name in names]
  if not streams:
    return
  classes, each = inputs.shape[:2]
  most = each - _asked(each)
  for name, there in (('stream_classes', classes), ('stream_shots', most)):
    if getattr(given, name) > there:
      what = 'classes of training' if there is classes else 'examples of each'
      raise UsageError(
        name, f'is {getattr(given, name)}, but there are {there} {what}; ask'
        ' for fewer'
      )  # fmt: skip
  for name in streams:
    try:
      learner, sample = _problem(name, model, inputs, given)
      key = jax.random.key(0)
      tasks = jax.eval_shape(partial(sample_tasks, sample, num=1), key)
      one = jax.eval_shape(sample, key).support.inputs
      params = jax.eval_shape(learner.init, key, one)
      jax.eval_shape(learner.grad, key, params, tasks)
    except ValueError as error:
      if 'pattern' not in str(error):
        raise
      raise UsageError('moves', f'of {name}: {error}') from error


def check_moves(given: Any) -> None:
  """Refuses what is no regular expression, before there are data.

  Raises:
    UsageError: if `moves` is none.
  """
  try:
    re.compile(given.moves)
  except re.error as error:
    raise UsageError(
      'moves',
      f'is no regular expression ({error}); give one, such as ^params/',
      given.moves,
    ) from error


def _asked(each: int) -> int:
  """Of the examples of a class, those that are no part of a stream."""
  return math.ceil(each / 8)


def _problem(
  name: str, model: Model, inputs: np.ndarray, given: Any
) -> tuple[MetaLearner, SampleTask]:
  classes, each = inputs.shape[:2]
  images = inputs.reshape(-1, *inputs.shape[2:])
  labels = np.repeat(np.arange(classes), each)
  if name == 'pretrained':
    ways = min(_PRETRAINING_WAYS, classes)
    shots = min(_PRETRAINING_SHOTS, each // 2)
    sample = episodes(images, labels, ways, shots, shots)
    return protonet(model, cross_entropy, ways), sample
  queries = _asked(each)
  method = {'oml': oml, 'anml': anml}[name]
  learner = method(
    model, cross_entropy, 2, classes, given.inner_lr, moves=given.moves
  )
  return learner, class_streams(
    images,
    labels,
    given.stream_classes,
    given.stream_shots,
    queries,
    given.remembered,
  )


def _embedding(meta_params: PyTree) -> PyTree:
  if isinstance(meta_params, TransferParams):
    return meta_params.params
  return meta_params


def _started(meta_params: TransferParams, params: PyTree) -> TransferParams:
  """The same with features that were learned before."""
  if isinstance(meta_params.params, Gated):
    params = meta_params.params._replace(prediction=params)
  return meta_params._replace(params=jax.tree.map(jax.numpy.asarray, params))


def _write(path: Path, trained: Trained) -> None:
  buffer = io.BytesIO()
  leaves = jax.tree.leaves(trained.params)
  about = np.asarray(trained[1:], np.float64)
  arrays = {f'leaf{place}': leaf for place, leaf in enumerate(leaves)}
  np.savez(buffer, about=about, **arrays)
  partial = path.with_name(f'.{path.name}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)
  except OSError as error:
    raise unwritable('workdir', path, error) from error


def _read(path: Path, shape: PyTree) -> Trained:
  leaves, structure = jax.tree.flatten(shape)
  try:
    with np.load(path, allow_pickle=False) as arrays:
      found = [arrays[f'leaf{place}'] for place in range(len(leaves))]
      seconds, steps, *more = arrays['about'].tolist()
      skipped = int(more[0]) if more else 0  # older ones do not say
      steps = int(steps)
  except Exception as error:  # whatever the parser makes of damaged bytes
    raise UsageError(
      'workdir', f'{path} is damaged ({type(error).__name__}); remove it'
    ) from error
  for one, other in zip(found, leaves, strict=True):
    if one.shape != other.shape or one.dtype != other.dtype:
      raise UsageError(
        'workdir', f'{path} is of another network; name another directory'
      )
    if not np.isfinite(one).all():
      raise UsageError(
        'workdir', f'{path} is damaged (no finite numbers); remove it'
      )
  params = jax.tree.unflatten(structure, found)
  return Trained(params, seconds, steps, skipped)
