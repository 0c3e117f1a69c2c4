"""The outer loop of an experiment: train, validate, save, resume, stop."""

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax

from experiments import STARTED, options, report
from experiments.options import FLAGS, UsageError
from experiments.problem import Judge, Problem, Trained, make_judge, test
from metajax.algorithms.table import ANNEALED
from metajax.base import PyTree
from metajax.checkpoint import Checkpointer, CheckpointError, Restored
from metajax.metrics import (
  VALIDATION,
  JsonLines,
  TensorBoard,
  Terminal,
  Writers,
)
from metajax.training import TrainState, TrainStep, make_train_step

# Seeds of evaluations: fixed, so that all methods are tested on the same tasks.
VALIDATION_SEED = 1_000_001
TEST_SEED = 1_000_002

MAX_SKIPPED_IN_A_ROW = 20


class Interrupted(KeyboardInterrupt):
  """A signal asked the run to stop."""

  def __init__(self, number: int, saved: str):
    name = signal.Signals(number).name
    super().__init__(f'{name}: {saved}; the same command with --resume goes on')
    self.exit_code = 128 + number


class DivergenceError(Exception):
  """The meta-gradient was not finite too many times in a row."""


def open_workdir(settings: dict[str, Any]) -> Path:
  """Claims the workdir for these settings, or refuses without touching it."""
  workdir = Path(settings['workdir'])
  record = workdir / 'config.json'
  if record.exists():
    try:
      before = json.loads(record.read_text())
    except ValueError as error:
      raise UsageError(
        'workdir', f'{record} is not readable ({error}); name another'
      ) from error
    _check_same(workdir, before, settings)
    if not FLAGS.resume:
      raise UsageError(
        'workdir',
        f'{workdir} already holds this run; add --resume to go on with it, or'
        ' name another',
      )
    return workdir
  if FLAGS.resume:
    raise UsageError(
      'resume',
      f'{workdir} holds no run; check --workdir, or leave --resume out to'
      ' begin one',
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    found = {path.name for path in workdir.iterdir()}
    if found - {_partial(record).name}:  # what a killed process may leave
      raise UsageError(
        'workdir', f'{workdir} is not empty and holds no run; name another'
      )
    write_json(record, settings)
  except OSError as error:
    raise options.unwritable('workdir', workdir, error) from error
  return workdir


def _check_same(
  workdir: Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
  may_change = options.MAY_CHANGE
  if now['outer_schedule'] in ANNEALED:  # then they have shaped every step
    may_change -= {'steps'}
  differing = [
    f'--{name} was {before.get(name)!r} and is {now.get(name)!r}'
    for name in sorted({*before, *now} - may_change)
    if before.get(name) != now.get(name)
  ]
  if differing:
    raise UsageError(
      'workdir',
      f'{workdir} holds a run with other settings: {"; ".join(differing)};'
      ' name another directory, or set these as they were',
    )


def write_json(path: Path, value: Any) -> None:
  """Writes a file all at once or not at all."""
  partial = _partial(path)
  try:
    text = json.dumps(_null_for_nan(value), indent=2, allow_nan=False)
    partial.write_text(text + '\n')
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _null_for_nan(value: Any) -> Any:
  """JSON has neither NaN nor infinity."""
  if isinstance(value, dict):
    return {name: _null_for_nan(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_null_for_nan(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _partial(path: Path) -> Path:
  return path.with_name(path.name + '.partial')


def train(
  problem: Problem,
  judge: Judge,
  train_step: TrainStep,
  loaded: PyTree | None,
  workdir: Path,
) -> Trained:
  """Trains to the last step, or raises `Interrupted` with all saved."""
  recipe = problem.recipe
  initial = train_step.init(jax.random.key(FLAGS.seed))
  if loaded is not None:
    initial = initial._replace(meta_params=loaded)
  if recipe.steps == 0 or FLAGS.test_only:
    return Trained(initial.meta_params, 0, 0, None, None, 0.0)
  checkpointer = Checkpointer(
    workdir / 'checkpoints',
    best_metric=problem.metric,
    best_mode='max' if problem.higher_is_better else 'min',
  )
  with checkpointer:
    state = _resumed(checkpointer, initial, recipe.steps)
    start = int(state.step)
    with _writers(workdir, problem, start) as writers:
      run = _Run(problem, judge, train_step, checkpointer, writers, state)
      run.to_the_end()
    return run.trained()


def _writers(workdir: Path, problem: Problem, start: int) -> Writers:
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
  template = jax.eval_shape(train_step.init, jax.random.key(0))
  try:
    with Checkpointer(workdir / 'checkpoints') as checkpointer:
      restored = checkpointer.restore(template)
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
  if not FLAGS.resume or not checkpointer.steps():
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
  problem: Problem,
  name: str,
  baseline: Callable[[], dict[str, float]],
  draw: Callable[['Finished'], None],
) -> int:
  """A whole experiment: train, test, report.

  Args:
    problem: what to train and test.
    name: of the run; the default workdir is `runs/<name>`.
    baseline: what the result is compared with.
    draw: makes the pictures.

  Returns:
    The exit code.
  """
  settings = options.settings(problem.recipe)
  settings['workdir'] = settings['workdir'] or str(Path('runs') / name)
  options.use_compilation_cache()
  train_step = make_train_step(
    problem.meta_learner(),
    problem.algorithm.optimizer(problem.recipe),
    problem.train,
    tasks_per_step=problem.recipe.tasks_per_step,
    chunk_size=problem.recipe.chunk_size,
    max_skipped_in_a_row=MAX_SKIPPED_IN_A_ROW,
  )
  # What can be refused is refused before the workdir is touched.
  loaded = None
  if FLAGS.load is not None:
    loaded = load_meta_params(train_step, Path(FLAGS.load))
  workdir = open_workdir(settings)
  judge = make_judge(problem)
  try:
    with _on_signals(_stop_at_once):
      trained = train(problem, judge, train_step, loaded, workdir)
      evaluation = test(
        problem,
        judge,
        trained.meta_params,
        problem.test,
        TEST_SEED,
        FLAGS.eval_tasks,
      )
      outcome = report.result(
        problem, settings, trained, evaluation, baseline()
      )
      write_json(workdir / 'result.json', outcome)
      draw(Finished(problem, judge, trained.meta_params, outcome, workdir))
  except Interrupted as stop:
    print(stop, flush=True)
    return stop.exit_code
  except DivergenceError as stop:
    print(stop, file=sys.stderr, flush=True)
    return 1
  except BrokenPipeError:  # of whoever reads our output
    raise
  except (CheckpointError, OSError) as error:
    raise UsageError(
      'workdir', f'{error}; put that right, and --resume goes on'
    ) from error
  report.show(problem, outcome)
  print(f'{workdir}: {", ".join(sorted(os.listdir(workdir)))}')
  return 0


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
  ):
    self.problem = problem
    self.judge = judge
    self.train_step = train_step
    self.checkpointer = checkpointer
    self.writers = writers
    self.state = state
    self.step = int(state.step)
    self.saved = self.step
    self.seconds_to_first_step: float | None = None
    self.timed_steps = 0
    self.timed_seconds = 0.0

  def to_the_end(self) -> None:
    """Alternates dispatches and checkpoints until the last step."""
    recipe = self.problem.recipe
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
      if received:
        _stop_at_once(number, frame)
      received.append(number)

    with _on_signals(remember):
      while self.step < recipe.steps and not received:
        self.dispatch()
        due = self.step % recipe.checkpoint_every == 0
        if due or self.step == recipe.steps:
          self.save(self.validate())
      self.save({})
      self.checkpointer.wait()
    if received:
      raise Interrupted(received[0], f'saved step {self.step}')

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
    begun = time.perf_counter()
    self.state, means = self.train_step.run(self.state, size)
    metrics = {name: float(value) for name, value in means.items()}
    seconds = time.perf_counter() - begun
    before, self.step = self.step, int(self.state.step)
    if first:
      self.seconds_to_first_step = time.perf_counter() - STARTED
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
    evaluation = test(
      self.problem,
      self.judge,
      self.state.meta_params,
      self.problem.validation,
      VALIDATION_SEED,
      FLAGS.validation_tasks,
    )
    metrics = {
      name: float(values[-1]) for name, values in evaluation.mean.items()
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
    if FLAGS.test_checkpoint == 'best':
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


def _stop_at_once(number: int, frame: FrameType | None) -> None:
  del frame
  raise Interrupted(number, 'stopped at once')


@contextlib.contextmanager
def _on_signals(
  handle: Callable[[int, FrameType | None], None],
) -> Iterator[None]:
  """Handles SIGTERM and Ctrl-C for the length of a block."""
  previous = {
    number: signal.signal(number, handle)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
