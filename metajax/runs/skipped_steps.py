"""Says that steps of training were not applied, and why."""

import warnings

import jax

from metajax.base import (
  ByStep,
  MetaLearner,
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
  run: CountedRun, meta_learner: MetaLearner | Frozen, sample: SampleTask
) -> Run:
  """Makes what also says that steps were skipped, and why."""

  def reported(state: TrainState, num_steps: int) -> tuple[TrainState, Metrics]:
    check_num_steps(num_steps)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)):
      state, metrics, _ = run(state, num_steps)  # there is nobody to tell
      return state, metrics
    first = int(state.step)
    state, metrics, with_loss = run(state, num_steps)
    skipped = int(metrics.get('skipped', 0))
    if skipped:
      taken = int(state.step) - first
      text = f'{skipped} of {taken} steps were skipped'
      if taken < num_steps:
        text += f', and training stopped at step {first + taken}'
      # The last one, so that the key is that of tasks which were skipped.
      key = step_keys(state.key, state.step - 1)[0]
      drawn = sample
      if isinstance(drawn, ByStep | Alternating):
        drawn = drawn.at(state.step - 1)
      if isinstance(drawn, Alternating):
        taken_of = int(drawn.which(state.key, state.step - 1))
        drawn = list(drawn.samplers.values())[taken_of]
      why = _cause(int(with_loss), meta_learner, drawn, key)
      warnings.warn(f'{text}: {why}', SkippedSteps, stacklevel=2)
    elif num_steps > 0 and int(state.step) == first:
      warnings.warn(
        f'no step was taken: {int(state.skipped_in_a_row)} in a row had been'
        ' skipped before',
        SkippedSteps,
        stacklevel=2,
      )
    return state, metrics

  return reported


def _cause(
  with_loss: int,
  meta_learner: MetaLearner | Frozen,
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
