"""Evaluation: how well a learner adapts to tasks that it has never seen."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metajax.base import (
  Learner,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  SampleTask,
  Task,
  as_argument,
  as_key,
)
from metajax.devices.mesh import TASK, axis_size, put
from metajax.devices.parallel import map_over_devices
from metajax.devices.streaming import HostSampler
from metajax.equality import Frozen, as_frozen
from metajax.inner import partition
from metajax.normalisation import Normalisation, predict_queries
from metajax.objectives import confidence_interval, loss_and_metrics
from metajax.runs.checking import (
  check_adaptation,
  check_function,
  check_task,
  unfit_targets,
)
from metajax.runs.state import TrainState

__all__ = [
  'Evaluation',
  'Judged',
  'evaluate',
  'example_key',
  'example_outputs',
  'example_task',
]

Judged = Literal['every_step', 'last_step']

# Programs that are kept, the last ones used: a learner or objective that is
# made anew, and equal to none, leaves no other trace.
_PROGRAMS = 32

# The meta-parameters, what the learner stands on, what makes a task, and a key.
_Shared = tuple[PyTree, PyTree, Callable[[PyTree], Task], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Metrics on the queries of unseen tasks, after 0, 1, ... inner steps.

  Where the last step alone was judged, there is one entry and not steps + 1.
  """

  mean: Metrics  # each [steps + 1]
  ci95: Metrics  # each [steps + 1], half the width of the 95% interval
  values: Metrics  # each [tasks, steps + 1]
  # What a query shared its batch statistics with: `'transductive'`,
  # `'support'`, or `'population'` if the learner held those.
  normalisation: str = dataclasses.field(
    default='transductive', metadata={'static': True}
  )
  # After which steps, see `evaluate`.
  judged: Judged = dataclasses.field(
    default='every_step', metadata={'static': True}
  )


def evaluate(
  learner: Learner | MetaLearner | Frozen,
  objective: Objective,
  meta_params: PyTree,
  sample: SampleTask,
  *,
  key: jax.Array,
  num_tasks: int,
  normalisation: Normalisation = 'transductive',
  judged: Judged = 'every_step',
  chunk_size: int = 4,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
  """Adapts to unseen tasks and judges the queries after every inner step.

  Task i and its adaptation depend on `key` and i alone, so two methods that
  are given the same key and distribution are tested on the same tasks. What is
  compiled serves every learner, objective and distribution that are equal,
  which those of the library are if made alike (`metajax.equality`); a `lambda`
  is equal to itself alone. As under `jax.jit`, what a function reads besides
  its arguments, such as a global, is what it was when it was compiled.

  Args:
    learner: any method.
    objective: what to measure; `loss` and its metrics are reported.
    meta_params: of the learner.
    sample: the distribution of test tasks.
    key: fixes the tasks.
    num_tasks: how many, 2 or more.
    normalisation: what a query shares its batch statistics with:
      `'transductive'`, all queries of its task; `'support'`, the support set
      and no other query. (For statistics of a population, give
      `normalisation.population(...)` as the learner; the two choices are then
      one.)
    judged: `'every_step'`, or the `'last_step'` alone: where a network is large
      the places on the way are not kept, and the queries predicted once.
    chunk_size: tasks that are vectorised together on one device.
    mesh: the devices to test on, with an axis `'task'`; the default device
      alone if there is none.
    progress: is told how many tasks are done, and of how many, as they are.

  Returns:
    An `Evaluation`.

  Raises:
    ValueError: if `normalisation` or `judged` is none of the above, `num_tasks`
      < 2 or `chunk_size` < 1; if tasks, learner and objective do not fit
      together (see `metajax.check`).
    TypeError: if a function of the learner, or the objective, has no hash.
  """
  key = as_key(key)
  check_function('objective', objective)
  if isinstance(meta_params, TrainState):
    raise ValueError('meta_params are wanted, as in state.meta_params')
  if normalisation not in ('transductive', 'support'):
    raise ValueError(
      "normalisation must be 'transductive' or 'support', got"
      f' {normalisation!r}'
    )
  if judged not in get_args(Judged):
    raise ValueError(
      f"judged must be 'every_step' or 'last_step', got {judged!r}"
    )
  if num_tasks < 2:
    raise ValueError(f'num_tasks must be 2 or more, got {num_tasks}')
  if chunk_size < 1:
    raise ValueError(f'chunk_size must be 1 or more, got {chunk_size}')
  values = _of_tasks(
    learner,
    objective,
    meta_params,
    sample,
    key,
    range(num_tasks),
    normalisation,
    judged,
    chunk_size,
    mesh,
    progress,
  )
  if not np.isfinite(values['loss']).all():
    task_key, _ = _test_keys(key, jnp.int32(0))
    if reason := unfit_targets(
      learner, sample, task_key, objective, meta_params
    ):
      raise ValueError(reason)
  return Evaluation(
    mean=jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), values),
    ci95=jax.tree.map(confidence_interval, values),
    values=values,
    normalisation=getattr(learner.predict, 'normalisation', normalisation),
    judged=judged,
  )


def example_outputs(
  learner: Learner | MetaLearner | Frozen,
  meta_params: PyTree,
  sample: SampleTask,
  *,
  key: jax.Array,
  indices: Sequence[int],
  normalisation: Normalisation = 'transductive',
  judged: Judged = 'every_step',
  chunk_size: int = 4,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[PyTree, PyTree]:
  """What is predicted for the queries of some test tasks of an evaluation.

  Args:
    learner: any method.
    meta_params: of the learner.
    sample: the distribution of test tasks.
    key: of the evaluation.
    indices: numbers of the tasks, one or more; `example_task` draws each.
    normalisation: see `evaluate`.
    judged: see `evaluate`.
    chunk_size: tasks that are vectorised together on one device.
    mesh: see `evaluate`.
    progress: as for `evaluate`.

  Returns:
    The targets of the queries, leaves `[tasks, queries, ...]`, and the outputs
    after 0, 1, ... inner steps, leaves `[tasks, steps + 1, queries, ...]`; on
    the host.

  Raises:
    ValueError: if there are no indices; if tasks and learner do not fit
      together.
    TypeError: if a function of the learner has no hash.
  """
  if not len(indices):
    raise ValueError('indices are none; give the numbers of some test tasks')
  found = _of_tasks(
    learner,
    None,
    meta_params,
    sample,
    as_key(key),
    indices,
    normalisation,
    judged,
    chunk_size,
    mesh,
    progress,
  )
  targets, outputs = jax.tree.map(np.asarray, found)
  return targets, outputs


def _of_tasks(
  learner: Learner | MetaLearner | Frozen,
  objective: Objective | None,
  meta_params: PyTree,
  sample: SampleTask,
  key: jax.Array,
  indices: Sequence[int],
  normalisation: Normalisation,
  judged: Judged,
  chunk_size: int,
  mesh: Mesh | None,
  progress: Callable[[int, int], None] | None,
) -> PyTree:
  """What `_program` finds, of each of the tasks."""
  frozen = as_frozen(learner)
  if frozen is not learner:
    learner = Learner(learner.init, learner.adapt, learner.predict)
    frozen = as_frozen(Learner(*map(_hashable, learner)))
  host = sample if isinstance(sample, HostSampler) else None
  draw = as_argument(host.decode if host else sample)
  shared = meta_params, frozen.arrays, draw, key
  at_once = chunk_size
  if mesh is not None:
    shared = put(shared, mesh)
    at_once *= axis_size(mesh, TASK)
  of_chunk = _program(
    frozen.make, _hashable(objective), normalisation, judged, mesh
  )
  # One program for any number of tasks: the last chunk is filled up with
  # tasks whose results are dropped.
  number = len(indices)
  filled = np.asarray(indices, np.int32)
  filled = np.pad(filled, (0, -number % at_once), mode='edge')
  chunks = list[PyTree]()
  for first in range(0, number, at_once):
    chosen = _chosen_tasks(host, key, filled[first : first + at_once])
    chunk = of_chunk(shared, chosen)
    if progress is not None and chunks:
      # Of the one before, as the device is not to wait for the host.
      jax.block_until_ready(chunks[-1])
      progress(first, number)
    if mesh is not None:
      # Where devices share the cores of a CPU, exchanges of two programs at
      # once can take all its threads and wait for each other for ever.
      jax.block_until_ready(chunk)
    chunks.append(chunk)
  whole: PyTree = jax.tree.map(
    lambda *leaves: jnp.concatenate([np.asarray(leaf) for leaf in leaves])[
      :number
    ],
    *chunks,
  )
  if progress is not None:
    progress(number, number)
  return whole


@lru_cache(maxsize=_PROGRAMS)
def _program(
  make: Callable[[PyTree], Learner | MetaLearner],
  objective: Any,  # an `Objective` that has a hash, or None
  normalisation: Normalisation,
  judged: Judged,
  mesh: Mesh | None,
) -> Callable[[_Shared, tuple[np.ndarray, PyTree]], PyTree]:
  """What evaluates a chunk of tasks, compiled once for what is equal.

  It finds the metrics; without an objective, targets and outputs.
  """

  def of_task(shared: PyTree, chosen: PyTree) -> PyTree:
    meta_params, arrays, draw, key = shared
    learner = make(arrays)
    index, drawn = chosen
    task_key, adapt_key = _test_keys(key, index)
    task = draw(task_key if drawn is None else drawn)
    check_task(task)
    result = learner.adapt(adapt_key, meta_params, task.support)
    check_adaptation(result)
    adapted, adaptation = result

    def judge(place: PyTree) -> PyTree:
      place = partition.merge(place, adapted)
      outputs = predict_queries(learner, place, task, normalisation)
      if objective is None:
        return outputs
      loss, metrics = loss_and_metrics(objective, outputs, task.query.targets)
      return {'loss': loss, **metrics}

    if judged == 'last_step':
      nothing = partition.nothing_of(adapted)
      found = jax.tree.map(lambda leaf: leaf[None], judge(nothing))
    else:
      found = jax.lax.map(judge, adaptation.trajectory)
    return found if objective is not None else (task.query.targets, found)

  of_tasks: Callable[[PyTree, PyTree], PyTree]
  of_tasks = jax.vmap(of_task, in_axes=(None, 0))
  if mesh is not None:
    of_tasks = map_over_devices(of_tasks, mesh)
  return jax.jit(of_tasks)


def _hashable(function: Any) -> Any:
  try:
    hash(function)
  except TypeError as error:
    raise TypeError(
      f'{type(function).__name__} can be changed in place ({error}), which a'
      ' compiled program does not see; make it a function or a frozen dataclass'
    ) from error
  return function


def _chosen_tasks(
  host: HostSampler | None, key: jax.Array, indices: np.ndarray
) -> tuple[np.ndarray, PyTree | None]:
  """The indices of test tasks; and the tasks, where the host draws them."""
  if host is None:
    return indices, None
  keys, _ = jax.vmap(_test_keys, in_axes=(None, 0))(key, jnp.asarray(indices))
  return indices, host.draw(keys)


def _test_keys(key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two keys of a test task: of the task, and of the adaptation to it."""
  task_key, adapt_key = jax.random.split(jax.random.fold_in(key, index))
  return task_key, adapt_key


def example_key(key: jax.Array, index: int | jax.Array) -> jax.Array:
  """What the test task number `index` of an evaluation is drawn by."""
  return _test_keys(as_key(key), jnp.asarray(index, jnp.int32))[0]


def example_task(sample: SampleTask, key: jax.Array, index: int = 0) -> Task:
  """The test task number `index` of an evaluation with this key."""
  task_key = example_key(key, index)
  if isinstance(sample, HostSampler):
    drawn = jax.tree.map(lambda leaf: leaf[0], sample.draw(task_key[None]))
    return _draw(as_argument(sample.decode), drawn)
  return _draw(as_argument(sample), task_key)


@jax.jit
def _draw(sample: jax.tree_util.Partial, drawn: PyTree) -> Task:
  task: Task = sample(drawn)
  return task
