"""A run that another one learns from: made again from its workdir."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.recipes.overrides import check_train_ways
from experiments.runner.common import Common
from experiments.runner.differences import check_one_seed
from experiments.runner.errors import UsageError
from experiments.runner.judging import make_judge
from experiments.runner.loading import load_checkpoint
from experiments.runner.problem import Problem
from experiments.runner.records import RECORD, read_record
from experiments.runner.settings import said
from experiments.runner.teacher_digest import teacher_digest
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Learner, MetaLearner, PyTree
from metajax.equality import Frozen
from metajax.runs.training import make_train_step
from metajax.wrappers.distillation import distil

__all__ = [
  'Teacher',
  'for_tasks_of',
  'load_teacher',
  'settings_in',
  'settings_of',
  'taught_by',
]

# Settings of a run that say nothing of what it has learned.
_OF_THE_RUN = (
  'workdir', 'resume', 'load', 'load_seed', 'load_share', 'other_data',
  'test_only', 'dry_run', 'profile', 'teacher', 'mesh', 'shard', 'distributed',
  'num_processes', 'process_id',
)  # fmt: skip


class Teacher(NamedTuple):
  """A method and what it has learned."""

  learner: Learner | MetaLearner | Frozen
  meta_params: PyTree
  problem: Problem
  digest: str  # of what it has learned, and when


def settings_of(
  workdir: Path,
  kind: type[Common],
  make_recipe: Callable[[Any], Recipe],
  setting: str,
) -> Any:
  """The settings that a run was started with.

  Args:
    workdir: of the run.
    kind: the settings of its experiment.
    make_recipe: the recipe for such settings.
    setting: the one that names the workdir.

  Raises:
    UsageError: if there is no record of such a run, or it is of several seeds.
  """
  path = workdir / RECORD
  record = read_record(path, setting)
  check_one_seed(record, workdir, setting)
  return settings_in(record, path, kind, make_recipe, setting)


def settings_in(
  record: Mapping[str, Any],
  path: Path,
  kind: type[Common],
  make_recipe: Callable[[Any], Recipe],
  setting: str,
) -> Any:
  """The settings of a record of a run, read from a path; see `settings_of`."""
  values = {
    name: record[name]
    for name in said(kind)
    if name in record and name not in _OF_THE_RUN
  }
  # What the recipe says was written down as if it had been given.
  of_recipe = {
    name: values.pop(name) for name in Recipe._fields if name in values
  }
  # A recipe of published figures depends on these, where there are any.
  sizes: dict[str, Any] = {
    name: of_recipe.get(name)
    for name in ('ways', 'shots')
    if name in said(kind)
  }
  try:
    usual = make_recipe(kind(**values, **sizes))
    given = {
      name: value
      for name, value in of_recipe.items()
      if value != getattr(usual, name)
    }
    return kind(**values, **{**sizes, **given})
  except UsageError as error:
    raise UsageError(
      setting, f'{path} is of no run of this experiment ({error})'
    ) from error


def for_tasks_of(given: Any, recipe: Recipe, workdir: Path) -> Any:
  """The settings of a run, with the sizes of the tasks that another trains on.

  Args:
    given: settings of the run, as `settings_of` reads them.
    recipe: of the other.
    workdir: of the run.

  Raises:
    UsageError: if the run has an output for each class, and tasks of training
      have another number of them.
  """
  row = ALGORITHMS[given.algorithm]
  sizes = {
    'ways': recipe.ways, 'shots': recipe.shots, 'queries': recipe.queries
  }  # fmt: skip
  if row.trains_on == 'classes':
    return given.replace(**sizes)
  check_train_ways(
    row, recipe, f'--teacher={workdir} is of {given.algorithm}, which'
  )
  return given.replace(
    **sizes, train_ways=recipe.train_ways, train_shots=recipe.train_shots
  )


def load_teacher(workdir: Path, problem: Problem, recipe: Recipe) -> Teacher:
  """A run with its newest good checkpoint, as it is tested.

  Args:
    workdir: of the run.
    problem: made from its settings.
    recipe: of the method that learns from it, on tasks of training.

  Raises:
    UsageError: if there is none, or its data are others by now.
  """
  learner = problem.meta_learner()
  train_step = make_train_step(
    learner,
    problem.algorithm.optimizer(problem.recipe),
    problem.train,
    tasks_per_step=problem.recipe.tasks_per_step,
  )
  try:
    found = load_checkpoint(problem, train_step, workdir)
  except UsageError as error:
    # The user has given no --load.
    said = error.message if error.setting == 'load' else str(error)
    raise UsageError('teacher', said) from error
  asked = problem._replace(
    recipe=problem.recipe._replace(
      ways=recipe.train_ways or recipe.ways,
      shots=recipe.train_shots or recipe.shots,
    )
  )
  return Teacher(
    make_judge(asked).learner,
    found.state,
    problem,
    teacher_digest(found.step, found.state),
  )


def taught_by(
  teacher: Teacher, problem: Problem
) -> Callable[[Any], MetaLearner | Frozen]:
  """What makes the method of a problem learn from a teacher.

  Raises:
    UsageError: if the teacher knows other texts, or tokens, or the method does
      not train on tasks.
  """
  settings: Any = problem.settings
  if problem.algorithm.trains_on != 'tasks' or problem.recipe.steps == 0:
    raise UsageError(
      'teacher',
      f'{settings.teacher} adapts to tasks, and {settings.algorithm} does not'
      ' train on these; take another --algorithm',
    )
  own, known = (_tokens(each) for each in (problem, teacher.problem))
  if own.shape != known.shape or (own != known).any():
    raise UsageError(
      'teacher',
      f'{settings.teacher} has learned on other tokens, {_size(known)}, than'
      f' those here, {_size(own)}; give both the same data, --max_tokens and'
      ' --model_dir, or none',
    )
  return lambda learner: distil(
    learner,
    teacher.learner,
    teacher.meta_params,
    problem.objective,
    weight=settings.distil_weight,
    temperature=settings.distil_temperature,
  )


def _tokens(problem: Problem) -> np.ndarray:
  """All texts of the test, as tokens."""
  return np.asarray(jax.tree.leaves(problem.test)[0])


def _size(tokens: np.ndarray) -> str:
  return ' x '.join(map(str, tokens.shape))
