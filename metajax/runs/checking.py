"""Whether a learner, an objective and tasks fit together, before training."""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Objective,
  PyTree,
  SampleTask,
  Task,
  as_argument,
  values_and_weights,
)
from metajax.equality import Frozen, as_frozen
from metajax.objectives import loss_and_metrics
from metajax.runs.inputs import init_inputs
from metajax.runs.mixture import parts_of

__all__ = [
  'check',
  'check_adaptation',
  'check_function',
  'check_gradient',
  'check_learner',
  'check_task',
  'unfit_targets',
]


def check(
  learner: Learner | MetaLearner | Frozen,
  objective: Objective,
  sample: SampleTask,
  num_tasks: int = 1,
) -> None:
  """Refuses what does not fit together, in one line and before compiling it.

  Everything that training and testing run is run here as shapes alone: the
  draw of a task, `init`, `adapt` with its trajectory, `predict`, the objective
  and `grad`. Only the targets of one task are really drawn, as their values
  matter too: a class that no output stands for has no loss.

  Args:
    learner: any method, or a way to adapt alone.
    objective: what it is judged by.
    sample: the task distribution; of one `ByStep`, what it is at; of one that
      alternates, each of its parts.
    num_tasks: of an outer step, for what keeps a state for each of them.

  Raises:
    ValueError: if something does not fit, with the error that it follows from.

  Example:
    >>> import metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = metajax.maml(mlp([8], 2), metajax.mean_squared_error, 0.1, 1)
    >>> try:
    ...   check(learner, metajax.mean_squared_error, sinusoid(5, 5))
    ... except ValueError as error:
    ...   print(error)
    adapt: mean_squared_error wants outputs and targets of one shape; got (5, 2) and (5, 1)
  """  # noqa: E501
  check_function('objective', objective)
  check_function('sample', sample)
  shapes = _task_shapes(sample)
  for name, part in parts_of(sample).items():
    try:
      _check_part(learner, objective, part, name, shapes, num_tasks)
    except ValueError as error:
      if not name:
        raise
      raise ValueError(f'{name}: {error}') from error


def _check_part(
  learner: Learner | MetaLearner | Frozen,
  objective: Objective,
  sample: SampleTask,
  name: str,
  shapes: dict[str, Task],
  num_tasks: int,
) -> None:
  key, task = jax.random.key(0), shapes[name]
  meta_params = _initial_shapes(learner, *shapes.values())
  outputs = _adapted_shapes(learner, task, meta_params)
  if isinstance(task.query, Batch):
    judge = partial(loss_and_metrics, objective)
    _stage('objective', judge, outputs.query, task.query.targets)
  frozen = as_frozen(learner)
  if isinstance(frozen.made(), MetaLearner):
    tasks = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((num_tasks, *x.shape), x.dtype), task
    )
    result = _stage_of(frozen, 'grad', key, meta_params, tasks)
    check_gradient(result, meta_params)
  if reason := _unfit(outputs, sample, key, objective):
    raise ValueError(reason)


def check_learner(
  learner: Learner | MetaLearner | Frozen, sample: SampleTask
) -> None:
  """The part of `check` that needs neither an objective nor a meta-gradient.

  What a learner is trained on need not be what it adapts to (`hardest` takes
  groups of tasks), so it is not refused here if it cannot adapt to that.

  Raises:
    ValueError: if tasks, meta-parameters or an `Adaptation` have a wrong form.
  """
  tasks = _task_shapes(sample).values()
  frozen = as_frozen(learner)
  meta_params = _initial_shapes(frozen, *tasks)
  for task in tasks:
    try:
      result = jax.eval_shape(
        lambda learner, *arguments: learner.adapt(*arguments),
        frozen,
        jax.random.key(0),
        meta_params,
        task.support,
      )
    except Exception:  # training says so itself, if it adapts to this
      continue
    check_adaptation(result)


def _task_shapes(sample: SampleTask) -> dict[str, Task]:
  """The shapes of a task of each part; an error says of which."""
  shapes = {}
  for name, part in parts_of(sample).items():
    stage = f'{name}: sample' if name else 'sample'
    shapes[name] = _stage(stage, part, jax.random.key(0))
    check_task(shapes[name])
  return shapes


def unfit_targets(
  learner: Learner | MetaLearner | Frozen,
  sample: SampleTask,
  key: jax.Array,
  objective: Objective | None = None,
  meta_params: PyTree = None,
) -> str | None:
  """Says which targets of a task no output stands for, if there are some.

  Integers are taken for classes where outputs have the form of logits, unless
  there is an objective which has a loss for them.
  """
  task = jax.eval_shape(sample, key)
  if meta_params is None:
    meta_params = _initial_shapes(learner, task)
  shapes = _adapted_shapes(learner, task, meta_params)
  return _unfit(shapes, sample, key, objective)


def _adapted_shapes(
  learner: Learner | MetaLearner | Frozen, task: Task, meta_params: PyTree
) -> Task:
  """Shapes of the outputs for support and query."""
  key, frozen = jax.random.key(0), as_frozen(learner)
  result = _stage_of(frozen, 'adapt', key, meta_params, task.support)
  check_adaptation(result)
  adapted, _ = result
  outputs = [
    _stage_of(frozen, 'predict', adapted, batch.inputs)
    if isinstance(batch, Batch)
    else None  # of another kind of task, such as a stream or an environment
    for batch in task
  ]
  return Task(*outputs)


def _initial_shapes(
  learner: Learner | MetaLearner | Frozen, *tasks: Task
) -> PyTree:
  key, inputs = jax.random.key(0), jax.eval_shape(init_inputs, *tasks)
  return _stage_of(as_frozen(learner), 'init', key, inputs)


def _stage_of(learner: Frozen, name: str, *arguments: Any) -> Any:
  """The shapes of what a function of a learner returns."""
  return _stage(
    name,
    lambda learner, *arguments: getattr(learner.made(), name)(*arguments),
    learner,
    *arguments,
  )


def _stage(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
  """The shapes of a result; an error says where it was met."""
  try:
    return jax.eval_shape(function, *arguments)
  except Exception as error:
    text = str(error).strip().split('\n')[0] or type(error).__name__
    raise ValueError(f'{name}: {text}{_place(error)}') from error


def _place(error: Exception) -> str:
  """Where it was met, if that is in code of the user's own."""
  here = Path(__file__).parents[1]
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    path = Path(frame.filename)
    is_of_others = {'site-packages', 'lib'} & {*path.parts}
    if here not in path.parents and not is_of_others:
      return f' (line {frame.lineno} of {path.name})'
  return ''


def check_function(name: str, given: Any) -> None:
  """Refuses what cannot be called.

  Raises:
    ValueError: if it is no function.
  """
  if not callable(given):
    raise ValueError(f'{name} must be a function; got {type(given).__name__}')


def check_task(task: Any) -> None:
  """Refuses what a sampler must not return.

  Raises:
    ValueError: if it is no `Task`, or if a batch has no examples, or leaves of
      different lengths.
  """
  if not isinstance(task, Task):
    raise ValueError(
      f'a sampler must return Task(support, query); got {type(task).__name__}'
    )
  for name, batch in zip(task._fields, task, strict=True):
    if not isinstance(batch, Batch):
      continue
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
      raise ValueError(
        f'the {name} set must have leaves with one common axis of examples;'
        f' got the leading axes {sorted(lengths)}'
      )


def check_adaptation(result: Any) -> None:
  """Refuses what `adapt` must not return, as evaluation could not use it.

  Raises:
    ValueError: if it is no pair with an `Adaptation`, or if the trajectory of
      that is not what `predict` wants, once before each step and once after
      the last.
  """
  form = 'adapt must return (adapted, Adaptation(losses, trajectory)); got'
  if not isinstance(result, tuple) or len(result) != 2:
    raise ValueError(f'{form} {type(result).__name__}')
  adapted, adaptation = result
  if not isinstance(adaptation, Adaptation):
    raise ValueError(
      f'{form} {type(adaptation).__name__} beside what is adapted'
    )
  losses = jnp.shape(adaptation.losses)
  if len(losses) != 1:
    raise ValueError(
      f'the losses of an Adaptation must be [steps]; got shape {losses}'
    )
  # Methods that solve for what they adapt have no losses on the way.
  lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(adaptation.trajectory)}
  steps = lengths.pop() if len(lengths) == 1 and not losses[0] else ()
  steps = steps or (losses[0] + 1,)
  wanted = _described(adapted, steps)
  found = _described(adaptation.trajectory)
  if _gaps(adapted) == _gaps(adaptation.trajectory):
    # None in the place of a leaf says that no step changes it.
    wanted = {path: wanted.get(path, '') for path in found}
  if wanted != found:
    raise ValueError(
      'the trajectory of an Adaptation must be what adapt returns, after'
      f' 0, 1, ... steps: {_first_difference(wanted, found)}'
    )


def check_gradient(result: Any, meta_params: PyTree) -> None:
  """Refuses a meta-gradient that no optimiser could apply.

  Raises:
    ValueError: if it is not like the meta-parameters, or if metrics are not
      scalars by name, or have the name `skipped`.
  """
  if not isinstance(result, tuple) or len(result) != 2:
    raise ValueError(
      f'grad must return (meta_gradient, metrics); got {type(result).__name__}'
    )
  gradient, metrics = result
  # Not types: what counts steps is an integer, its mean change is none.
  wanted, found = (
    _described(tree, typed=False) for tree in (meta_params, gradient)
  )
  if wanted != found:
    raise ValueError(
      'grad must return a meta-gradient that is like the meta-parameters:'
      f' {_first_difference(wanted, found)}'
    )
  if not isinstance(metrics, dict) or any(map(jnp.shape, metrics.values())):
    raise ValueError('grad must return metrics as a dict of scalars')
  if 'skipped' in metrics:
    raise ValueError(
      "grad returns a metric 'skipped', a name that training uses itself"
    )


def _described(
  tree: PyTree, axes: tuple[int, ...] = (), typed: bool = True
) -> dict[str, str]:
  """What is where in a tree, with more axes in front."""
  return {
    jax.tree_util.keystr(path): (
      (f'{jnp.result_type(leaf)} of ' if typed else '')
      + f'shape {axes + jnp.shape(leaf)}'
    )
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def _gaps(tree: PyTree) -> Any:
  """The structure of a tree, where None may stand for a leaf."""
  return jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None)


def _first_difference(wanted: dict[str, str], found: dict[str, str]) -> str:
  for path in [*wanted, *found]:
    if wanted.get(path) != found.get(path):
      return (
        f'expected {wanted.get(path, "nothing")} at {path or "its root"}, got'
        f' {found.get(path, "nothing")}'
      )
  return 'they differ in structure'


def _unfit(
  outputs: Task, sample: SampleTask, key: jax.Array, objective: Objective | None
) -> str | None:
  """What is wrong with targets, unless the objective has a loss for them."""

  @jax.jit
  def draw(sample: SampleTask, key: jax.Array) -> list[PyTree]:
    return [getattr(batch, 'targets', None) for batch in sample(key)]

  targets = draw(as_argument(sample), key)
  for shapes, drawn in zip(outputs, targets, strict=True):
    weights = values_and_weights(drawn)[1]
    if weights is not None and not jnp.all(weights >= 0):
      return 'there are weights that are below 0, or no numbers'
    reason = _why_unfit(shapes, drawn)
    if reason and not (objective and _has_loss(objective, shapes, drawn)):
      return reason
  return None


def _why_unfit(outputs: PyTree, targets: PyTree) -> str | None:
  """What is strange about targets, where outputs are those of classes."""
  values, weights = values_and_weights(targets)
  if not isinstance(values, jax.Array):
    return None  # several targets an example, about which nothing is known
  shape, values = values.shape, np.asarray(values)
  if weights is not None:
    values = values[np.asarray(weights) != 0]
  if not values.size:
    return None
  low, high = values.min(), values.max()
  if values.dtype.kind not in 'iu':
    finite = np.isfinite(low) and np.isfinite(high)
    return None if finite else 'there are targets that are not finite'
  if not hasattr(outputs, 'shape') or outputs.shape[:-1] != shape:
    return None
  ways = outputs.shape[-1]
  if low >= 0 and high < ways:
    return None
  counted = f', {high + 1} ways' if low == 0 else ' (they count from 0)'
  return (
    f'tasks have classes from {low} to {high} as targets{counted}, but'
    f' the learner has {ways} outputs, for classes from 0 to {ways - 1}'
  )


def _has_loss(objective: Objective, outputs: PyTree, targets: PyTree) -> bool:
  """Whether some outputs have a loss; one half is a probability, too."""
  some = jax.tree.map(
    lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), outputs
  )
  return bool(jnp.isfinite(loss_and_metrics(objective, some, targets)[0]))
