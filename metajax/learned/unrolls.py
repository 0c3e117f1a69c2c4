r"""Unrolls: processes of many steps whose course meta-parameters decide.

Training a network by a learned optimiser is one, descent on a learned loss
another. The loss of an unroll is the mean of the losses along it,

.. math::
  L(\phi) = \frac{1}{T} \sum_{t=1}^{T} \ell_t(s_t), \qquad
  s_t = f_t(s_{t-1}, \phi)

What is estimated from parts of unrolls (`metajax.learned.estimators`) keeps
those that are unfinished beside the meta-parameters, as state: every outer step
leaves them where they have come to (see `metajax.outer_optimizer`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Metrics, PyTree, Task
from metajax.inner import partition

__all__ = [
  'LABELS',
  'LearnedParams',
  'Start',
  'Step',
  'Unfinished',
  'Unroll',
  'advance',
  'begin',
  'check_length',
  'step_shares',
  'whole_loss',
]


class Start(Protocol):
  """Draws the state before the first step."""

  def __call__(self, key: jax.Array, weights: PyTree, task: Task, /) -> Any: ...


class Step(Protocol):
  """Takes the step of a number, from 0: the next state, and its loss."""

  def __call__(
    self,
    key: jax.Array,
    weights: PyTree,
    state: PyTree,
    index: jax.Array,
    task: Task,
    /,
  ) -> tuple[PyTree, jax.Array]: ...


class Unroll(NamedTuple):
  """A process of `horizon` steps, each with a loss."""

  start: Start
  step: Step
  horizon: int


class LearnedParams(NamedTuple):
  """Meta-parameters: what is learned, and unrolls that are unfinished."""

  weights: PyTree
  unrolls: PyTree = ()  # `Unfinished`, or nothing


# For `metajax.outer_optimizer`.
LABELS = LearnedParams('weights', 'state')


class Unfinished(NamedTuple):
  """Unrolls on their way, one for each task of an outer step.

  Where estimation is by pairs of perturbed unrolls, states have an axis of
  both behind that of tasks.
  """

  states: PyTree  # leaves [tasks, ...]
  perturbations: PyTree  # sums of them, leaves [tasks, ...] as the weights
  next_step: jax.Array  # [tasks], of the next step; 0: it has to be started
  left: jax.Array  # [tasks], steps that are left to it
  tasks: Task  # leaves [tasks, ...], those that they are of


def check_length(unroll: Unroll, length: int) -> None:
  """Refuses parts that do not make up an unroll.

  Raises:
    ValueError: if the number of steps is no positive divisor of the horizon.
  """
  if unroll.horizon < 1:
    raise ValueError(f'horizon must be 1 or more, got {unroll.horizon}')
  if length < 1 or unroll.horizon % length:
    raise ValueError(
      f'length must divide the horizon of {unroll.horizon} steps, got {length}'
    )


def step_shares(
  step_weights: Sequence[float] | None, horizon: int
) -> np.ndarray:
  """What each step counts, `[horizon]`, 1 on the mean.

  Raises:
    ValueError: if there are not as many weights as steps, if one is negative or
      not finite, or if all are 0.

  Example:
    >>> step_shares([0, 1], 2).tolist()
    [0.0, 2.0]
  """
  if step_weights is None:
    return np.ones(horizon)
  shares = np.asarray(step_weights, float)
  fit = shares.shape == (horizon,) and np.isfinite(shares).all()
  if not fit or (shares < 0).any() or not shares.any():
    raise ValueError(
      f'step_weights must be {horizon} numbers from 0, one for each step, and'
      f' not all 0; got {step_weights}'
    )
  return shares / shares.mean()


def advance(
  unroll: Unroll,
  key: jax.Array,
  weights: PyTree,
  state: PyTree,
  index: jax.Array,
  length: int,
  task: Task,
) -> tuple[PyTree, jax.Array]:
  """Takes some steps.

  Args:
    unroll: the process.
    key: of the unroll; the key of step t is `fold_in(key, t)`.
    weights: that decide its course.
    state: where it is.
    index: the number of the next step.
    length: how many steps, a Python integer.
    task: of the unroll.

  Returns:
    The state after them, and the mean of their losses.
  """

  @jax.checkpoint  # states are kept, what lies between is computed again
  def step(state: PyTree, index: jax.Array) -> tuple[PyTree, jax.Array]:
    step_key = jax.random.fold_in(key, index)
    return unroll.step(step_key, weights, state, index, task)

  indices = index + jnp.arange(length, dtype=jnp.int32)
  state, losses = jax.lax.scan(step, state, indices)
  return state, jnp.mean(losses)


def whole_loss(
  unroll: Unroll, key: jax.Array, meta_params: LearnedParams, task: Task
) -> tuple[jax.Array, Metrics]:
  """The loss of a whole unroll, for `gradient_of` and `evolution_of`."""
  start_key, steps_key = jax.random.split(key)
  weights = meta_params.weights
  state = unroll.start(start_key, weights, task)
  _, loss = advance(
    unroll, steps_key, weights, state, jnp.int32(0), unroll.horizon, task
  )
  return loss, {'loss': loss}


def begin(
  unroll: Unroll,
  weights: PyTree,
  task: Task,
  num_tasks: int,
  length: int,
  *,
  pairs: bool,
  stagger: bool = True,
) -> Unfinished:
  """Unrolls that are all to be started.

  Args:
    unroll: the process.
    weights: of its course, for their shapes.
    task: a task, or its shapes (`jax.eval_shape(sample, key)`).
    num_tasks: how many unrolls.
    length: steps of a part.
    pairs: whether each is a pair of perturbed ones.
    stagger: whether the first unrolls are cut short, each at another place, so
      that later an outer step sees unrolls of all ages.

  Raises:
    ValueError: if a leaf of the task is neither floating-point nor int32, which
      could not be kept from step to step.
  """
  _check_kept(task)
  both = jax.eval_shape(unroll.start, jax.random.key(0), weights, task)

  def zeros(shape: Any, *axes: int) -> jax.Array:
    return jnp.zeros((num_tasks, *axes, *shape.shape), shape.dtype)

  parts = unroll.horizon // length
  places = np.arange(num_tasks) * parts // num_tasks if stagger else 0
  return Unfinished(
    jax.tree.map(lambda leaf: zeros(leaf, *([2] if pairs else [])), both),
    jax.tree.map(
      lambda leaf: zeros(jnp.asarray(leaf)), weights if pairs else ()
    ),
    jnp.zeros(num_tasks, jnp.int32),
    jnp.asarray(
      unroll.horizon - length * (places + np.zeros(num_tasks, int)), jnp.int32
    ),
    jax.tree.map(zeros, task),
  )


def _check_kept(task: Task) -> None:
  def refuse(path: str, leaf: Any) -> None:
    kept = jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == jnp.int32
    if not kept:
      raise ValueError(
        'tasks of unfinished unrolls are kept as floating-point numbers and'
        f' int32, but {path} is {leaf.dtype}; convert it where tasks are drawn'
      )

  partition.map_with_path(refuse, task)
