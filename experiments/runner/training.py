"""Training to the last step: dispatches, validation, checkpoints, resumes."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.runner.common import Common
from experiments.runner.data_digest import DIGEST_ENTRY, check_same_data
from experiments.runner.errors import UsageError, printable
from experiments.runner.interrupts import (
  Interrupted,
  StallWatch,
  Stops,
  on_signals,
)
from experiments.runner.problem import (
  VALIDATION_SEED,
  Judge,
  Problem,
  Trained,
  judged,
)
from experiments.runner.records import (
  RECORD,
  RESULT,
  check_record,
  read_record,
)
from experiments.runner.settings import said
from experiments.runner.weights_digest import (
  WEIGHTS_ENTRY,
  check_same_weights,
)
from experiments.runner.workdir import Workdir
from metajax.base import PyTree, SampleTask
from metajax.devices.distributed import (
  agree,
  is_primary,
)
from metajax.runs.checkpoint import Checkpointer, CheckpointError, Restored
from metajax.runs.terminal import Terminal
from metajax.runs.training import TrainState, TrainStep
from metajax.runs.writers import (
  VALIDATION,
  JsonLines,
  TensorBoard,
  Writers,
  read_json_lines,
)

__all__ = [
  'MAX_SKIPPED_IN_A_ROW',
  'DivergenceError',
  'load_checkpoint',
  'load_meta_params',
  'train',
]


MAX_SKIPPED_IN_A_ROW = 20


class DivergenceError(Exception):
  """The meta-gradient was not finite too many times in a row."""


def train(
  problem: Problem,
  judge: Judge,
  train_step: TrainStep,
  loaded: PyTree | None,
  workdir: Workdir,
  watch: StallWatch,
  started: float,
) -> Trained:
  """Trains to the last step, or raises `Interrupted` with all saved."""
  recipe = problem.recipe
  initial = train_step.init(jax.random.key(problem.settings.seed))
  if loaded is not None:
    between = optax.incremental_update(
      loaded, initial.meta_params, problem.settings.load_share
    )
    initial = initial._replace(meta_params=between)
  if recipe.steps == 0 or problem.settings.test_only:
    return Trained(initial.meta_params, 0, 0, None, None, 0.0)
  checkpointer = Checkpointer(
    workdir.path / 'checkpoints',
    best_metric=problem.metric.name,
    best_mode=problem.metric.mode,
  )
  with checkpointer:
    state = initial
    if workdir.resume:
      state = _resumed(workdir.path, checkpointer, initial, recipe.steps)
    start = int(state.step)
    with _writers(workdir.path, problem, start) as writers:
      run = _Run(
        problem, judge, train_step, checkpointer, writers, state, watch, started
      )
      run.to_the_end(workdir)
    return run.trained()


def _writers(workdir: Path, problem: Problem, start: int) -> Writers:
  if not is_primary():
    return Writers()
  try:
    lines = JsonLines(workdir / 'metrics.jsonl', resume_at=start)
  except ValueError as error:
    raise UsageError('workdir', str(error)) from error
  return Writers(
    lines,
    TensorBoard(workdir / 'tensorboard', resume_at=start),
    Terminal(
      problem.recipe.steps,
      tasks_per_step=problem.recipe.tasks_per_step,
      start_step=start,
    ),
  )


def load_meta_params(
  problem: Problem, train_step: TrainStep, workdir: Path
) -> PyTree:
  """What another run, on the same data, has learned so far."""
  return load_checkpoint(problem, train_step, workdir).state


def load_checkpoint(
  problem: Problem, train_step: TrainStep, workdir: Path
) -> Restored:
  """The newest good checkpoint of another run: its meta-parameters."""
  if not (workdir / 'checkpoints').is_dir():
    raise UsageError('load', f'{workdir} holds no checkpoints')
  settings = problem.settings
  there = dict[str, Any]()
  # Older runs, and those of the library alone, have no record.
  if (workdir / RECORD).exists():
    there = before = read_record(workdir / RECORD, 'load')
    entries = {**DIGEST_ENTRY, **WEIGHTS_ENTRY}
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
  try:
    with Checkpointer(workdir / 'checkpoints') as checkpointer:
      restored = checkpointer.restore(train_step.template(), only='meta_params')
  except CheckpointError as error:
    hint = _differences(settings, there)
    raise UsageError('load', f'{error}{hint}') from error
  _report(restored, 'loaded')
  return restored


def _differences(settings: Common, there: dict[str, Any]) -> str:
  """What of the method was set otherwise in the run that is loaded."""
  names = [
    name for name, each in said(type(settings)).items() if each.of == 'method'
  ]
  changed = [
    f'--{name} {there[name]} there and {value} here'
    for name, value in settings.given().items()
    if name in names and name in there and there[name] != value
  ]
  return f'; different are {", ".join(changed)}' if changed else ''


def _report(restored: Restored, verb: str) -> None:
  for reason in restored.rejected:
    text = printable(f'passed over a bad checkpoint: {reason}')
    print(text, flush=True)
  print(f'{verb} step {restored.step}', flush=True)


def _resumed(
  workdir: Path, checkpointer: Checkpointer, initial: TrainState, steps: int
) -> TrainState:
  if not agree(checkpointer.steps()):
    if agree(is_primary() and _has_saved(workdir)):
      raise UsageError(
        'resume',
        f'the checkpoints of the run in {workdir} are gone; restore'
        f' {workdir / "checkpoints"}, or begin again in another --workdir',
      )
    print('nothing was saved yet; begins again at step 0', flush=True)
    return initial
  try:
    restored = checkpointer.restore(initial)
  except CheckpointError as error:
    raise UsageError('resume', str(error)) from error
  if restored.step > steps:
    raise UsageError(
      'steps', f'the run is at step {restored.step} already, beyond {steps}'
    )
  _report(restored, 'resumed from')
  return restored.state


def _has_saved(workdir: Path) -> bool:
  """Whether a run has left traces of checkpoints, which are not there.

  It may have been killed while it wrote the first one. Its directory is made
  before, and a second one is begun when the first is whole; what has been
  validated is saved before the next step.
  """
  if (workdir / RESULT).exists():
    return True
  metrics = workdir / 'metrics.jsonl'
  if not metrics.exists():
    return False
  try:
    records = read_json_lines(metrics)
  except ValueError as error:
    raise UsageError('workdir', str(error)) from error
  last = max((record['step'] for record in records), default=0)
  validated = {
    record['step']
    for record in records
    if any(name.startswith(VALIDATION) for name in record)
  }
  begun = sum(step < last for step in validated)
  return begun > (1 if (workdir / 'checkpoints').is_dir() else 0)


class _Run:
  """The state of one training run, from here to its last step."""

  def __init__(
    self,
    problem: Problem,
    judge: Judge,
    train_step: TrainStep,
    checkpointer: Checkpointer,
    writers: Writers,
    state: TrainState,
    watch: StallWatch,
    started: float,
  ):
    self.problem = problem
    self.judge = judge
    self.train_step = train_step
    self.checkpointer = checkpointer
    self.writers = writers
    self.state = state
    self.watch = watch
    self.started = started
    self.step = int(state.step)
    self.saved = self.step
    self.seconds_to_first_step: float | None = None
    self.dispatches = 0
    self.timed_steps = 0
    self.timed_seconds = 0.0

  def to_the_end(self, workdir: Workdir) -> None:
    """Alternates dispatches and checkpoints until the last step."""
    recipe = self.problem.recipe
    settings = self.problem.settings
    stops, number = Stops(settings), None
    with on_signals(stops.remember, settings):
      while self.step < recipe.steps and number is None:
        with self._profile(workdir.path):
          self.dispatch()
        due = self.step % recipe.checkpoint_every == 0
        if due or self.step == recipe.steps:
          self.save(self.validate())
        number = stops.requested(self.dispatches)
      self.watch.now(f'saving step {self.step}')
      self.save({})
      self.checkpointer.wait()
    if number is not None:
      stop = Interrupted(number, self.step, settings.workdir is not None)
      if stop.preempted:
        workdir.mark_preempted()
      raise stop

  def _profile(self, workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Records the third dispatch, when all is compiled."""
    self.dispatches += 1
    if not self.problem.settings.profile or self.dispatches != 3:
      return contextlib.nullcontext()
    trace: contextlib.AbstractContextManager[None] = jax.profiler.trace(
      str(workdir / 'profile')
    )
    return trace

  def dispatch(self) -> None:
    """Runs up to the next step at which something is due."""
    recipe = self.problem.recipe
    size = min(
      recipe.steps - self.step,
      recipe.log_every - self.step % recipe.log_every,
      recipe.checkpoint_every - self.step % recipe.checkpoint_every,
    )
    first = self.seconds_to_first_step is None
    if first:
      size = 1
    self.watch.now(f'taking {size} steps from step {self.step}')
    begun = time.perf_counter()
    self.state, means = self.train_step.run(self.state, size)
    metrics = {name: float(value) for name, value in means.items()}
    seconds = time.perf_counter() - begun
    before, self.step = self.step, int(self.state.step)
    if first:
      self.seconds_to_first_step = time.perf_counter() - self.started
    else:
      self.timed_steps += self.step - before
      self.timed_seconds += seconds
    if self.step % recipe.log_every == 0 or self.step == recipe.steps:
      self.writers.write(self.step, metrics)
    self._check_progress()

  def _check_progress(self) -> None:
    in_a_row = int(self.state.skipped_in_a_row)
    if in_a_row < min(MAX_SKIPPED_IN_A_ROW, self.problem.recipe.steps):
      return
    self.checkpointer.wait()
    steps = self.checkpointer.steps()
    good = f'that of step {steps[-1]}' if steps else 'none, as none was due'
    raise DivergenceError(
      f'step {self.step}: the meta-gradient was not finite {in_a_row} times in'
      f' a row ({int(self.state.skipped)} steps skipped in all); the last good'
      f' checkpoint is {good}; try a smaller --inner_lr or --outer_lr, in'
      ' another --workdir'
    )

  def validate(self) -> dict[str, float]:
    """Tests on validation tasks."""
    self.watch.now(f'validating step {self.step}')
    metrics = self._validated(self.problem.validation)
    for name, tested in self.problem.besides.items():
      found = self._validated(tested.validation)
      metrics |= {f'{name}/{each}': value for each, value in found.items()}
    self.writers.write(
      self.step, {VALIDATION + name: value for name, value in metrics.items()}
    )
    return metrics

  def _validated(self, sample: SampleTask) -> dict[str, float]:
    evaluation = judged(
      self.problem,
      self.judge,
      self.state.meta_params,
      sample,
      VALIDATION_SEED,
      self.problem.settings.validation_tasks,
    )
    # What a test measures besides is for its report.
    besides = {each.name for each in self.problem.metrics}
    return {
      name: float(values[-1])
      for name, values in evaluation.mean.items()
      if name not in besides
    }

  def save(self, metrics: dict[str, float]) -> None:
    """Saves in the background; a second save of one step does nothing."""
    if self.step == self.saved:
      return
    finite = {
      name: value for name, value in metrics.items() if math.isfinite(value)
    }
    self.checkpointer.save(self.step, self.state, finite)
    self.saved = self.step

  def trained(self) -> Trained:
    """What the test needs, with the parameters that the user asked for."""
    state, step = self.state, self.step
    if self.problem.settings.test_checkpoint == 'best':
      restored = self.checkpointer.restore(state, best=True)
      state, step = restored.state, restored.step
    rate = None
    if self.timed_seconds:
      rate = (
        self.timed_steps
        * self.problem.recipe.tasks_per_step
        / self.timed_seconds
      )
    return Trained(
      state.meta_params,
      step,
      int(state.skipped),
      rate,
      self.seconds_to_first_step,
      self.timed_seconds,
    )
