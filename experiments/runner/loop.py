"""A whole run: refuse what is wrong, train, test, report; or a dry run."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.runner import cluster, dry_run, report, seeds, tables
from experiments.runner.common import Common
from experiments.runner.data_digest import DIGEST
from experiments.runner.errors import UsageError, unwritable
from experiments.runner.interrupts import (
  StallWatch,
  on_signals,
  stop_at_once,
)
from experiments.runner.judging import (
  Ready,
  evaluated,
  judged,
  make_judge,
  ready,
)
from experiments.runner.learners import Served, keep, served
from experiments.runner.loading import load_meta_params
from experiments.runner.problem import TEST_SEED, Judge, Problem, Trained
from experiments.runner.progress import shown
from experiments.runner.teacher_digest import TEACHER
from experiments.runner.tracking import tracked
from experiments.runner.training import MAX_SKIPPED_IN_A_ROW, train
from experiments.runner.weights_digest import WEIGHTS
from experiments.runner.workdir import (
  Workdir,
  as_json,
  open_workdir,
  write_json,
)
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import registered
from metajax.base import Learner, MetaLearner, PyTree, SampleTask
from metajax.devices.distributed import (
  gather,
  is_lost_connection,
  is_primary,
)
from metajax.devices.mesh import Rule, replicated
from metajax.devices.parallel import ChunkSize
from metajax.equality import Frozen, as_frozen
from metajax.runs.checking import check
from metajax.runs.checkpoint import CheckpointError
from metajax.runs.evaluation import Evaluation
from metajax.runs.training import TrainStep, make_train_step

__all__ = ['Finished', 'recorded', 'train_and_test', 'whole']


def train_and_test(
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
  for name in ('other_data', 'load_share'):
    if settings.load is None and getattr(settings, name) != getattr(
      Common, name
    ):
      raise UsageError(name, 'goes with --load')
  if settings.load is None and settings.load_seed is not None:
    raise UsageError('load_seed', 'goes with --load')
  seeds.check_settings(settings)
  seeds.check_problem(problem)
  record = recorded(problem)
  cluster.check_agreement(settings, record)
  if settings.dry_run is not None:
    return _dry_run(problem, workdir)
  # Devices share the tasks of a run, or the seeds.
  if settings.seeds > 1:
    mesh = cluster.make_mesh(settings, settings.seeds, 'seeds')
  else:
    mesh = cluster.make_mesh(settings, *problem.divided)
  problem = problem._replace(mesh=mesh)
  with shown('checking that method and tasks fit'):
    _check_fit(problem)
  train_step = _make_train_step(problem, mesh, problem.recipe.chunk_size)
  # What can be refused is refused before the workdir is touched.
  loaded = None
  if settings.load is not None:
    loaded = load_meta_params(problem, train_step, Path(settings.load))
  opened = open_workdir(workdir, settings, record)
  judge = make_judge(problem)
  try:
    with (
      on_signals(stop_at_once(settings.workdir is not None), settings),
      StallWatch(settings.stall_seconds) as watch,
      tracked(problem, opened.path, record) as tracking,
    ):
      if tracking is not None:
        problem = problem._replace(writers=(tracking,))
      outcome = _outcome(
        problem, judge, train_step, loaded, opened, watch, started
      )
      if tracking is not None:
        tracking.finish(outcome)
      return outcome
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


def _outcome(
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
  several = settings.seeds > 1
  tested = (_tested_seeds if several else _tested)(
    problem, judge, trained, watch
  )
  if not is_primary():
    return {}
  outcome, meta_params, used = tested.outcome, tested.meta_params, tested.used
  if problem.more is not None:
    outcome |= problem.more(problem, judge, meta_params)
  if used is not None and used.calibration is not None:
    outcome |= {'calibration': used.calibration}
  if problem.reading is None and problem.not_kept is not None:
    outcome |= {'not_kept': problem.not_kept}
  outcome = as_json(outcome)
  if used is not None and settings.workdir is not None:
    keep(problem, used, outcome, workdir.path)
  write_json(workdir.path / 'result.json', outcome)  # and so it is done
  finished = Finished(
    problem, judge, meta_params, outcome, workdir.path, tested.evaluation,
    tested.of_test,
  )  # fmt: skip
  with shown('drawing pictures'):
    problem.draw(finished)
  if problem.report is not None and settings.workdir is not None:
    _report(problem.report, finished)
  return outcome


class _Tested(NamedTuple):
  """What a test has found, and what it is of."""

  outcome: dict[str, Any]
  meta_params: PyTree
  evaluation: Evaluation
  of_test: Ready
  used: Served | None  # what is kept for use


def _tested(
  problem: Problem, judge: Judge, trained: Trained, watch: StallWatch
) -> _Tested:
  """Tests a run."""
  number = problem.settings.eval_tasks
  of_test = ready(problem, judge, trained.meta_params, problem.test, number)
  evaluation = evaluated(problem, of_test, TEST_SEED, number)
  besides = {
    name: judged(
      problem,
      judge,
      trained.meta_params,
      each.test,
      TEST_SEED,
      number,
      f'testing {name}',
    )
    for name, each in problem.besides.items()
  }
  used = _used(problem, trained.meta_params, watch)
  meta_params = whole(trained.meta_params)
  if not is_primary():
    return _Tested({}, meta_params, evaluation, of_test, used)
  watch.now('reporting')
  outcome = report.result(
    problem,
    recorded(problem),
    trained,
    meta_params,
    evaluation,
    problem.baseline(problem),
    besides,
  )
  return _Tested(outcome, meta_params, evaluation, of_test, used)


def _tested_seeds(
  problem: Problem, judge: Judge, trained: Trained, watch: StallWatch
) -> _Tested:
  """The same of several seeds; what is kept and drawn is the first of them."""
  assert trained.of_seeds is not None  # whatever has been trained has some
  lost, number = trained.of_seeds.lost, problem.settings.eval_tasks

  def test(sample: SampleTask) -> seeds.OverSeeds:
    return seeds.judged_seeds(
      problem, judge, trained.meta_params, sample, TEST_SEED, number, lost
    )

  found = test(problem.test)
  besides = {name: test(each.test) for name, each in problem.besides.items()}
  first, of_first = next(iter(found.each.items()))
  member = problem.settings.all_seeds.index(first)
  meta_params = seeds.of_member(trained.meta_params, member)
  used = _used(problem, meta_params, watch)
  watch.now('reporting')
  outcome = report.result(
    problem,
    recorded(problem),
    trained,
    meta_params,
    found.mean,
    problem.baseline(problem),
    {name: each.mean for name, each in besides.items()},
  )
  outcome = seeds.with_seeds(outcome, problem, found, besides, trained.of_seeds)
  of_test = ready(problem, judge, meta_params, problem.test, number)
  return _Tested(outcome, meta_params, of_first, of_test, used)


def _used(
  problem: Problem, meta_params: PyTree, watch: StallWatch
) -> Served | None:
  """What is kept for use, where a problem says how examples are read."""
  if problem.reading is None:
    return None
  watch.now('calibrating')
  with shown('calibrating'):
    return served(problem, meta_params, whole)


def _report(write: Callable[[Any], None], finished: 'Finished') -> None:
  """Writes the page; whatever goes wrong, the result is there already."""
  try:
    write(finished)
  except OSError:
    raise
  except Exception as error:
    warnings.warn(
      f'{finished.workdir}: no report.html, {type(error).__name__}: {error};'
      ' result.json is complete',
      stacklevel=2,
    )


def recorded(problem: Problem) -> dict[str, Any]:
  """What a workdir remembers of its run.

  All settings by name, with the defaults of the recipe filled in, and the
  digests of the data, of pretrained weights and of a teacher.
  """
  record = {
    name: getattr(problem.recipe, name)
    if value is None and name in Recipe._fields
    else value
    for name, value in problem.settings.given().items()
  }
  if problem.digests:
    record |= {DIGEST: problem.digests}
  if problem.weights_digest:
    record |= {WEIGHTS: problem.weights_digest}
  if problem.teacher_digest:
    record |= {TEACHER: problem.teacher_digest}
  return record


def _check_fit(problem: Problem) -> None:
  """Refuses a method that does not fit the tasks, by where it comes from."""
  learner: Learner | MetaLearner | Frozen = problem.meta_learner()
  sample, tasks = problem.train, problem.recipe.tasks_per_step
  if problem.algorithm.trains_on == 'classes':
    # A batch of all classes is no task that the method adapts to.
    learner = Learner(learner.init, learner.adapt, learner.predict)
    sample = problem.test
  try:
    check(learner, problem.objective, sample, tasks)
  except ValueError as error:
    name = problem.settings.algorithm
    origin = 'plugin' if name in registered() else 'algorithm'
    raise UsageError(origin, f'{name}: {error}') from error


def _make_train_step(
  problem: Problem, mesh: Mesh | None, chunk_size: ChunkSize
) -> TrainStep:
  def make(rule: Rule) -> TrainStep:
    return make_train_step(
      problem.meta_learner(),
      (problem.optimizer or problem.algorithm.optimizer)(problem.recipe),
      problem.train,
      tasks_per_step=problem.recipe.tasks_per_step,
      chunk_size=chunk_size,
      max_skipped_in_a_row=MAX_SKIPPED_IN_A_ROW,
      members=seeds.members_of(problem.settings),
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
  # What is frozen is divided, too.
  frozen = as_frozen(problem.meta_learner()).arrays
  divided = (train_step.template().meta_params, frozen)
  cluster.check_rules(mesh, shard, divided)
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
  tables.say(str(workdir / 'dry_run.json'))
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
  evaluation: Evaluation | None = None  # of the test
  ready: Ready | None = None  # what it was made of
