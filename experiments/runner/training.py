"""Training to the last step: dispatches, validation, checkpoints, resumes."""

import contextlib
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.runner import seeds
from experiments.runner.errors import UsageError
from experiments.runner.interrupts import (
  Interrupted,
  StallWatch,
  Stops,
  on_signals,
)
from experiments.runner.judging import judged
from experiments.runner.loading import report_restored
from experiments.runner.outputs import make_terminal, make_writers
from experiments.runner.problem import (
  VALIDATION_SEED,
  Judge,
  OfSeeds,
  Problem,
  Trained,
)
from experiments.runner.progress import on, shown
from experiments.runner.records import RESULT
from experiments.runner.workdir import Workdir
from metajax.base import PyTree, SampleTask
from metajax.devices.distributed import (
  agree,
  is_primary,
)
from metajax.runs.checkpoint import Checkpointer, CheckpointError
from metajax.runs.training import TrainState, TrainStep
from metajax.runs.writers import (
  VALIDATION,
  Writers,
  read_json_lines,
)

__all__ = [
  'MAX_SKIPPED_IN_A_ROW',
  'DivergenceError',
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
  with shown('drawing the first parameters'):
    initial = train_step.init(seeds.initial_keys(problem.settings))
    jax.block_until_ready(initial.meta_params)
  if loaded is not None:
    if problem.settings.seeds > 1:  # each starts there
      loaded = jax.tree.map(
        lambda leaf, own: jnp.broadcast_to(leaf, own.shape),
        loaded,
        initial.meta_params,
      )
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
    start = seeds.step_of(state)
    terminal = make_terminal(problem, start)
    writers = make_writers(problem, workdir.path, terminal, start)
    with writers, on(terminal):
      run = _Run(
        problem, judge, train_step, checkpointer, writers, state, watch, started
      )
      run.to_the_end(workdir)
    return run.trained()


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
  report_restored(restored, 'resumed from')
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
    self.step = seeds.step_of(state)
    self.lost = self._gave_up()
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
    waiting = shown('compiling the first step', at_once=True)
    with waiting if first else contextlib.nullcontext():
      self.state, means = self.train_step.run(self.state, size)
      jax.block_until_ready(means)
    seconds = time.perf_counter() - begun
    before, self.step = self.step, seeds.step_of(self.state)
    if first:
      self.seconds_to_first_step = time.perf_counter() - self.started
    else:
      self.timed_steps += self.step - before
      self.timed_seconds += seconds
    lost_before, self.lost = self.lost, self._gave_up()
    if self.step % recipe.log_every == 0 or self.step == recipe.steps:
      metrics = seeds.metrics_of(self.problem.settings, means, self.lost)
      self.writers.write(self.step, metrics)
    self._check_progress(lost_before)

  def _gave_up(self) -> dict[int, int]:
    limit = min(MAX_SKIPPED_IN_A_ROW, self.problem.recipe.steps)
    return seeds.gave_up(self.problem.settings, self.state, limit)

  def _check_progress(self, before: dict[int, int]) -> None:
    settings = self.problem.settings
    if len(self.lost) < settings.seeds:
      for seed in self.lost.keys() - before.keys():
        print(
          f'seed {seed}: the meta-gradient was not finite too many times in a'
          f' row; it stays at step {self.lost[seed]}, and the others go on',
          flush=True,
        )
      return
    self.checkpointer.wait()
    steps = self.checkpointer.steps()
    good = f'that of step {steps[-1]}' if steps else 'none, as none was due'
    in_a_row = int(jnp.max(self.state.skipped_in_a_row))
    of_all = ' for every seed' if settings.seeds > 1 else ''
    advice = self._why() or (
      'try a smaller --inner_lr or --outer_lr, in another --workdir'
    )
    raise DivergenceError(
      f'step {self.step}: the meta-gradient was not finite {in_a_row} times in'
      f' a row{of_all} ({int(jnp.sum(self.state.skipped))} steps skipped in'
      f' all); the last good checkpoint is {good}; {advice}'
    )

  def _why(self) -> str | None:
    """What the problem knows of the cause."""
    problem, meta_params = self.problem, self.state.meta_params
    if problem.why_diverged is None or problem.settings.is_distributed:
      return None
    if problem.settings.seeds > 1:
      meta_params = jax.tree.map(lambda leaf: leaf[0], meta_params)
    return problem.why_diverged(problem, meta_params)

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
    problem, meta_params = self.problem, self.state.meta_params
    how = sample, VALIDATION_SEED, problem.settings.validation_tasks
    if problem.settings.seeds == 1:
      found = judged(problem, self.judge, meta_params, *how, 'validating').mean
      metrics = {name: float(values[-1]) for name, values in found.items()}
    else:
      metrics = seeds.validation_of(
        problem,
        seeds.judged_seeds(problem, self.judge, meta_params, *how, self.lost),
      )
    # What a test measures besides is for its report.
    besides = {each.name for each in problem.metrics}
    return {
      name: value
      for name, value in metrics.items()
      if name.rpartition('/')[2] not in besides
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
        * self.problem.settings.seeds
        / self.timed_seconds
      )
    return Trained(
      state.meta_params,
      step,
      int(jnp.sum(state.skipped)),
      rate,
      self.seconds_to_first_step,
      self.timed_seconds,
      OfSeeds(np.ravel(state.skipped).tolist(), self.lost),
    )
