"""Where the tasks of a step come from, and the meta-gradient over them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from metajax.base import (
  ByStep,
  MetaGradient,
  Metrics,
  PyTree,
  Task,
  task_keys,
)
from metajax.devices.parallel import ChunkSize, data_parallel, microbatch
from metajax.devices.streaming import step_keys
from metajax.equality import Frozen
from metajax.runs.checking import check_gradient
from metajax.runs.mixture import Alternating
from metajax.runs.state import TrainState

__all__ = ['StepSource', 'make_estimate', 'meta_gradient']


class StepSource(NamedTuple):
  """What a step is made of beside its state; a pytree."""

  learner: Frozen  # the method, and what it stands on
  optimizer: Frozen  # the outer one, and the rates that are data
  # Where its tasks come from:
  draw: Callable[[PyTree], Task]  # from a key, or from what the host has drawn
  drawn: PyTree | None = None  # leaves [tasks, ...]


def make_estimate(
  chunk_size: ChunkSize, mesh: Mesh | None, copies: int = 1
) -> MetaGradient:
  """Makes the meta-gradient draw its tasks where they are adapted to.

  Args:
    chunk_size: tasks that are vectorised together.
    mesh: of devices that share the tasks, if there is one.
    copies: how many such are vectorised around it.
  """

  def draw_and_estimate(
    keys: jax.Array, shared: PyTree, drawn_by: PyTree
  ) -> tuple[PyTree, Metrics]:
    meta_params, learner, draw = shared
    grad = microbatch(learner.made().grad, chunk_size, copies)
    return grad(keys, meta_params, jax.vmap(draw)(drawn_by))

  estimate: MetaGradient = draw_and_estimate
  return estimate if mesh is None else data_parallel(estimate, mesh)


def meta_gradient(
  estimate: MetaGradient,
  state: TrainState,
  source: StepSource,
  tasks_per_step: int,
) -> tuple[PyTree, Metrics]:
  """The meta-gradient of a step, over tasks that its number decides.

  Args:
    estimate: of `make_estimate`.
    state: before the step.
    source: of its tasks.
    tasks_per_step: how many.

  Raises:
    ValueError: if it is no meta-gradient, or if parts of a mixture have other
      metrics than each other.
  """
  sample_key, grad_key = step_keys(state.key, state.step)
  drawn_by: PyTree = source.drawn
  if drawn_by is None:
    drawn_by = task_keys(sample_key, tasks_per_step)

  def over(draw: Callable[[PyTree], Task]) -> tuple[PyTree, Metrics]:
    shared = state.meta_params, source.learner, draw
    result = estimate(task_keys(grad_key, tasks_per_step), shared, drawn_by)
    check_gradient(result, state.meta_params)
    return result

  draw = source.draw
  if isinstance(draw, ByStep | Alternating):
    draw = draw.at(state.step)
  if not isinstance(draw, Alternating):
    return over(draw)
  parts = {name: partial(over, each) for name, each in draw.samplers.items()}
  _check_metrics(
    {name: sorted(jax.eval_shape(part)[1]) for name, part in parts.items()}
  )
  result: tuple[PyTree, Metrics] = jax.lax.switch(
    draw.which(state.key, state.step), list(parts.values())
  )
  return result


def _check_metrics(names: dict[str, list[str]]) -> None:
  (first, wanted), *others = names.items()
  for name, found in others:
    if found != wanted:
      raise ValueError(
        'distributions that alternate must have the same metrics:'
        f' {first} has {", ".join(wanted) or "none"}, {name} has'
        f' {", ".join(found) or "none"}'
      )
