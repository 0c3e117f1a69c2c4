"""What methods learn before a stream comes, kept in the workdir."""

import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.runner.errors import UsageError, unwritable
from experiments.runner.progress import shown
from metajax.adaptation.heads import TransferParams
from metajax.algorithms.anml import Gated, anml
from metajax.algorithms.oml import oml
from metajax.algorithms.protonet import protonet
from metajax.base import MetaLearner, Model, PyTree, SampleTask
from metajax.objectives import cross_entropy
from metajax.runs.training import make_train_step
from metajax.tasks import class_streams, episodes

__all__ = ['LEARNED', 'Trained', 'learned']

LEARNED = ('pretrained', 'oml', 'anml')  # in this order
_EVERY = 25  # steps in a dispatch
_PRETRAINING_WAYS, _PRETRAINING_SHOTS = 20, 5


class Trained(NamedTuple):
  """Parameters of an embedding, and how long they took."""

  params: PyTree
  seconds: float
  steps: int


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
  began = time.perf_counter()
  with shown(f'{name}: learning') as progress:
    for done in range(0, steps, _EVERY):
      state, _ = train.run(state, min(_EVERY, steps - done))
      progress(min(done + _EVERY, steps), steps)
  params = jax.tree.map(np.asarray, _embedding(state.meta_params))
  trained = Trained(params, time.perf_counter() - began, steps)
  _write(path, trained)
  return trained


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
  ways = min(given.stream_classes, classes)
  queries = math.ceil(each / 8)
  shots = min(given.stream_shots, each - queries)
  method = {'oml': oml, 'anml': anml}[name]
  learner = method(
    model, cross_entropy, 2, classes, given.inner_lr, moves=given.moves
  )
  return learner, class_streams(
    images, labels, ways, shots, queries, given.remembered
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
  about = np.asarray([trained.seconds, trained.steps], np.float64)
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
      seconds, steps = arrays['about'].tolist()
  except Exception as error:  # whatever the parser makes of damaged bytes
    raise UsageError(
      'workdir', f'{path} is damaged ({type(error).__name__}); remove it'
    ) from error
  for one, other in zip(found, leaves, strict=True):
    if one.shape != other.shape:
      raise UsageError(
        'workdir', f'{path} is of another network; name another directory'
      )
  return Trained(jax.tree.unflatten(structure, found), seconds, int(steps))
