"""The outer loop of an experiment: train, validate, save, resume, stop."""

import contextlib
import math
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.runner import cluster, dry_run, report
from experiments.runner.common import Common
from experiments.runner.errors import UsageError, unwritable
from experiments.runner.interrupts import (
  Interrupted,
  StallWatch,
  Stops,
  on_signals,
  stop_at_once,
)
from experiments.runner.problem import (
  TEST_SEED,
  VALIDATION_SEED,
  Judge,
  Problem,
  Trained,
  judged,
  make_judge,
)
from experiments.runner.workdir import Workdir, open_workdir, write_json
from metajax.algorithms.recipe import Recipe
from metajax.base import PyTree
from metajax.devices.distributed import (
  agree,
  gather,
  is_lost_connection,
  is_primary,
)
from metajax.devices.mesh import Rule, replicated
from metajax.devices.parallel import ChunkSize
from metajax.runs.checkpoint import Checkpointer, CheckpointError, Restored
from metajax.runs.terminal import Terminal
from metajax.runs.training import TrainState, TrainStep, make_train_step
from metajax.runs.writers import VALIDATION, JsonLines, TensorBoard, Writers

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
    initial = initial._replace(meta_params=loaded)
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
      state = _resumed(checkpointer, initial, recipe.steps)
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


def load_meta_params(train_step: TrainStep, workdir: Path) -> PyTree:
  """Reads the newest good checkpoint of another run."""
  if not (workdir / 'checkpoints').is_dir():
    raise UsageError('load', f'{workdir} holds no checkpoints')
  try:
    with Checkpointer(workdir / 'checkpoints') as checkpointer:
      restored = checkpointer.restore(train_step.template())
  except CheckpointError as error:
    raise UsageError('load', str(error)) from error
  _report(restored, 'loaded')
  return restored.state.meta_params


def _report(restored: Restored, verb: str) -> None:
  for reason in restored.rejected:
    print(f'passed over a bad checkpoint: {reason}', flush=True)
  print(f'{verb} step {restored.step}', flush=True)


def _resumed(
  checkpointer: Checkpointer, initial: TrainState, steps: int
) -> TrainState:
  if not agree(checkpointer.steps()):
    # A run that was killed before its first checkpoint begins again.
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


def run(
  problem: Problem, workdir: Path, started: float | None = None
) -> dict[str, Any]:
  """A whole run: train, test, report.

  Args:
    problem: what to train and test.
    workdir: where everything goes.
    started: when the process did, as `time.perf_counter` counts; now without
      it.

  Returns:
    What `result.json` holds, or the report of a dry run. Nothing on processes
    but the first one.

  Raises:
    UsageError: if something is wrong that the user can put right.
    DivergenceError: if meta-gradients are not finite for too long.
    Interrupted: if a signal stopped it, with all saved.
  """
  started = time.perf_counter() if started is None else started
  settings = problem.settings
  record = recorded(settings, problem.recipe)
  cluster.check_agreement(settings, record)
  if settings.dry_run is not None:
    return _dry_run(problem, workdir)
  mesh = cluster.make_mesh(settings, problem.recipe.tasks_per_step)
  problem = problem._replace(mesh=mesh)
  train_step = _make_train_step(problem, mesh, problem.recipe.chunk_size)
  # What can be refused is refused before the workdir is touched.
  loaded = None
  if settings.load is not None:
    loaded = load_meta_params(train_step, Path(settings.load))
  opened = open_workdir(workdir, settings, record)
  judge = make_judge(problem)
  try:
    with (
      on_signals(stop_at_once, settings),
      StallWatch(settings.stall_seconds) as watch,
    ):
      return _trained_and_tested(
        problem, judge, train_step, loaded, opened, watch, started
      )
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    if is_lost_connection(error):
      cluster.end_with_the_others(settings, error)
    raise
  except BrokenPipeError:  # of whoever reads our output
    raise
  except (CheckpointError, OSError) as error:
    raise UsageError(
      'workdir', f'{error}; put that right, and --resume goes on'
    ) from error
  finally:
    opened.release()


def _trained_and_tested(
  problem: Problem,
  judge: Judge,
  train_step: TrainStep,
  loaded: PyTree | None,
  workdir: Workdir,
  watch: StallWatch,
  started: float,
) -> dict[str, Any]:
  settings = problem.settings
  trained = train(problem, judge, train_step, loaded, workdir, watch, started)
  watch.now('testing')
  evaluation = judged(
    problem,
    judge,
    trained.meta_params,
    problem.test,
    TEST_SEED,
    settings.eval_tasks,
  )
  meta_params = whole(trained.meta_params)
  if not is_primary():
    return {}
  watch.now('reporting')
  outcome = report.result(
    problem,
    recorded(settings, problem.recipe),
    trained,
    meta_params,
    evaluation,
    problem.baseline(problem),
  )
  outcome = write_json(workdir.path / 'result.json', outcome)
  problem.draw(Finished(problem, judge, meta_params, outcome, workdir.path))
  return outcome


def recorded(settings: Common, recipe: Recipe) -> dict[str, Any]:
  """All settings by name, with the defaults of the recipe filled in."""
  return {
    name: getattr(recipe, name)
    if value is None and name in Recipe._fields
    else value
    for name, value in settings.given().items()
  }


def _make_train_step(
  problem: Problem, mesh: Mesh | None, chunk_size: ChunkSize
) -> TrainStep:
  def make(rule: Rule) -> TrainStep:
    return make_train_step(
      problem.meta_learner(),
      problem.algorithm.optimizer(problem.recipe),
      problem.train,
      tasks_per_step=problem.recipe.tasks_per_step,
      chunk_size=chunk_size,
      max_skipped_in_a_row=MAX_SKIPPED_IN_A_ROW,
      mesh=mesh,
      rule=rule,
    )

  shard = problem.settings.shard
  if not shard:
    return make(replicated)
  try:
    train_step = make(cluster.make_rule(mesh, shard))
  except ValueError as error:  # of a dimension that cannot be divided
    raise UsageError('shard', str(error)) from error
  assert mesh is not None  # or there is no rule
  cluster.check_rules(mesh, shard, train_step.template().meta_params)
  return train_step


def _dry_run(problem: Problem, workdir: Path) -> dict[str, Any]:
  """Compiles for another machine, and reports."""
  settings = problem.settings
  if problem.recipe.steps == 0:
    raise UsageError('dry_run', f'{settings.algorithm} takes no steps')
  assert settings.dry_run is not None  # or nobody calls this
  found = dry_run.dry_run(
    partial(_make_train_step, problem),
    settings.dry_run,
    cluster.parse_mesh(settings.mesh) if settings.mesh else None,
    problem.recipe.tasks_per_step,
    problem.recipe.chunk_size,
  )
  dry_run.show(found)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    outcome = write_json(workdir / 'dry_run.json', found._asdict())
  except OSError as error:
    raise unwritable('workdir', workdir, error) from error
  print(workdir / 'dry_run.json')
  return outcome


def whole(tree: PyTree) -> PyTree:
  """The arrays as this process can use them by itself.

  What lies in pieces on a mesh is gathered; every process has to call it.
  """

  def fetch(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
      return leaf
    return np.asarray(gather(leaf))

  return jax.tree.map(fetch, tree)


class Finished(NamedTuple):
  """What the pictures of a run are drawn from."""

  problem: Problem
  judge: Judge
  meta_params: PyTree
  outcome: dict[str, Any]
  workdir: Path


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
      stop = Interrupted(number, self.step)
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
    evaluation = judged(
      self.problem,
      self.judge,
      self.state.meta_params,
      self.problem.validation,
      VALIDATION_SEED,
      self.problem.settings.validation_tasks,
    )
    # What a test measures besides is for its report.
    besides = {each.name for each in self.problem.metrics}
    metrics = {
      name: float(values[-1])
      for name, values in evaluation.mean.items()
      if name not in besides
    }
    self.writers.write(
      self.step, {VALIDATION + name: value for name, value in metrics.items()}
    )
    return metrics

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
