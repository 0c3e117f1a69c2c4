"""Says that steps of training were not applied, and why."""

import warnings
from collections.abc import Callable

import jax
import numpy as np

from metajax.base import (
  ByStep,
  Metrics,
  SampleTask,
  task_keys,
)
from metajax.devices.streaming import step_keys
from metajax.equality import Frozen
from metajax.inner.descend import check_num_steps
from metajax.runs.checking import unfit_targets
from metajax.runs.mixture import Alternating
from metajax.runs.state import CountedRun, Run, TrainState

__all__ = ['SkippedSteps', 'reporting']


class SkippedSteps(RuntimeWarning):
  """Steps were not applied, as not all of their numbers were finite."""


def reporting(
  run: CountedRun, learner_of: Callable[[int], Frozen], sample: SampleTask
) -> Run:
  """Makes what also says that steps were skipped, and why.

  Args:
    run: counts them.
    learner_of: the learner of a member; of a run without any, that of 0.
    sample: the task distribution.
  """

  def reported(state: TrainState, num_steps: int) -> tuple[TrainState, Metrics]:
    check_num_steps(num_steps)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)):
      state, metrics, _ = run(state, num_steps)  # there is nobody to tell
      return state, metrics
    before = np.array(state.step)  # a copy, for the state is donated
    state, metrics, with_loss = run(state, num_steps)
    skipped = np.asarray(metrics.get('skipped', np.zeros_like(before)))
    for member in np.ndindex(skipped.shape):  # () where there are no members
      if not skipped[member]:
        continue
      of_it = state._replace(
        **{name: getattr(state, name)[member] for name in ('step', 'key')}
      )
      taken = int(of_it.step) - int(before[member])
      text = f'{int(skipped[member])} of {taken} steps were skipped'
      if taken < num_steps:
        text += f', and training stopped at step {int(of_it.step)}'
      why = _cause(
        int(with_loss[member]),
        learner_of(*member or (0,)),
        *_last_tasks(of_it, sample),
      )
      who = f'member {member[0]}: ' if member else ''
      warnings.warn(f'{who}{text}: {why}', SkippedSteps, stacklevel=2)
    if num_steps > 0 and np.array_equal(before, state.step):
      in_a_row = int(np.min(state.skipped_in_a_row))
      warnings.warn(
        f'no step was taken: {in_a_row} in a row had been skipped before',
        SkippedSteps,
        stacklevel=2,
      )
    return state, metrics

  return reported


def _last_tasks(
  state: TrainState, sample: SampleTask
) -> tuple[SampleTask, jax.Array]:
  """What drew the tasks of the last step, which was skipped, and their key."""
  step = state.step - 1
  key = step_keys(state.key, step)[0]
  if isinstance(sample, ByStep | Alternating):
    sample = sample.at(step)
  if isinstance(sample, Alternating):
    which = int(sample.which(state.key, step))
    sample = list(sample.samplers.values())[which]
  return sample, key


def _cause(
  with_loss: int,
  meta_learner: Frozen,
  sample: SampleTask,
  key: jax.Array,
) -> str:
  """Why steps were skipped, as far as can be told."""
  if with_loss:
    return (
      f'of {with_loss} the loss was finite, the meta-gradient or the new'
      ' parameters were not. A norm, a square root or a quotient has no finite'
      ' derivative at 0: look for one in the losses, inner and outer. In inner'
      ' loops those of optimisers have one, which for optax.adam is as large as'
      ' 1 / eps; that of metajax.adam is 0'
    )
  try:
    unfit = unfit_targets(meta_learner, sample, task_keys(key, 1)[0])
  except Exception:  # whatever it is, the state must not be lost over it
    unfit = None
  return unfit or (
    'the loss was not finite; a smaller learning rate, inner or outer, may keep'
    ' it so'
  )
