"""What a run begins with: the meta-parameters that another has learned."""

from pathlib import Path
from typing import Any

import jax

from experiments.runner import tables
from experiments.runner.common import Common
from experiments.runner.data_digest import DIGEST_ENTRY, check_same_data
from experiments.runner.differences import differences, naming_differences
from experiments.runner.errors import UsageError, printable
from experiments.runner.problem import Problem
from experiments.runner.records import (
  RECORD,
  Missing,
  check_record,
  read_record,
)
from experiments.runner.weights_digest import (
  WEIGHTS_ENTRY,
  check_same_weights,
)
from metajax.base import PyTree
from metajax.runs.checkpoint import Checkpointer, CheckpointError, Restored
from metajax.runs.training import TrainState, TrainStep

__all__ = ['load_checkpoint', 'load_meta_params', 'report_restored']

# Of a run of several seeds; older records have neither.
_SEEDS = {'seed': (int, Missing), 'seeds': (int, Missing)}


def load_meta_params(
  problem: Problem, train_step: TrainStep, workdir: Path
) -> PyTree:
  """What another run, on the same data, has learned so far."""
  return load_checkpoint(problem, train_step, workdir).state


def load_checkpoint(
  problem: Problem, train_step: TrainStep, workdir: Path
) -> Restored:
  """The newest good checkpoint of another run: its meta-parameters."""
  settings, recipe = problem.settings, problem.recipe
  with naming_differences(settings, recipe):
    restored = _loaded(problem, train_step, workdir)
  if settings.test_only:
    more = differences(settings, recipe, ('tasks', 'method'))
    if more:
      tables.say(f'note: {more}')
  return restored


def _loaded(problem: Problem, train_step: TrainStep, workdir: Path) -> Restored:
  if not (workdir / 'checkpoints').is_dir():
    raise UsageError('load', f'{workdir} holds no checkpoints')
  settings = problem.settings
  there = dict[str, Any]()
  # Older runs, and those of the library alone, have no record.
  if (workdir / RECORD).exists():
    there = before = read_record(workdir / RECORD, 'load')
    entries = {**DIGEST_ENTRY, **WEIGHTS_ENTRY, **_SEEDS}
    check_record(before, entries, workdir / RECORD, 'load')
    check_same_weights(
      settings, before, problem.weights_digest, f'the run in {workdir}'
    )
    if settings.other_data:
      before = {}
    check_same_data(
      settings,
      before,
      problem.digests,
      f'those that {workdir} has learned from',
      'it might be tested on classes or tasks of its training; name the same'
      ' data, or say by --other_data that these are meant',
    )
  member = _member(settings, there, workdir)
  template = _template(train_step.template(), there.get('seeds', 1))
  try:
    with Checkpointer(workdir / 'checkpoints') as checkpointer:
      restored = checkpointer.restore(template, only='meta_params')
      step = restored.step
      if member is not None:
        steps = checkpointer.restore(template, step=step, only='step').state
        step = int(steps[member])  # it may have given up before the others
  except CheckpointError as error:
    raise UsageError('load', str(error)) from error
  report_restored(restored, 'loaded', step)
  if member is None:
    return restored
  own = jax.tree.map(lambda leaf: leaf[member], restored.state)
  return restored._replace(state=own, step=step)


def _member(
  settings: Common, there: dict[str, Any], workdir: Path
) -> int | None:
  """Which of the seeds of a run is loaded; None of a run that has one."""
  wanted, several = settings.load_seed, there.get('seeds', 1)
  if several == 1:
    if wanted is not None:
      raise UsageError(
        'load_seed', f'the run in {workdir} has one seed; leave the flag out'
      )
    return None
  first = there.get('seed', 0)
  if wanted is None or not first <= wanted < first + several:
    raise UsageError(
      'load_seed' if wanted is not None else 'load',
      f'the run in {workdir} has the seeds {first} to {first + several - 1};'
      ' name one of them by --load_seed',
    )
  return int(wanted - first)


def _template(state: TrainState, several: int) -> TrainState:
  """The shapes of a run of so many seeds, from those of any other number."""
  has_axis = state.step.ndim > 0

  def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    own = leaf.shape[1:] if has_axis else leaf.shape
    return jax.ShapeDtypeStruct(
      own if several == 1 else (several, *own), leaf.dtype
    )

  if not has_axis and several == 1:
    return state
  shapes: TrainState = jax.tree.map(shape_of, state)
  return shapes


def report_restored(
  restored: Restored, verb: str, step: int | None = None
) -> None:
  """Says which checkpoint was read, and which were passed over."""
  for reason in restored.rejected:
    text = printable(f'passed over a bad checkpoint: {reason}')
    print(text, flush=True)
  print(f'{verb} step {restored.step if step is None else step}', flush=True)
