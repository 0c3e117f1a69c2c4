"""Runs that are to be combined: made again, on the same tasks."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runner import runs
from experiments.runner.common import Common
from experiments.runner.errors import UsageError
from experiments.runner.judging import make_judge
from experiments.runner.problem import Problem
from experiments.runner.records import DATA, RECORD, read_record
from experiments.runner.settings import Base, said
from experiments.runner.teacher import load_teacher, settings_of
from metajax.algorithms.recipe import Recipe
from metajax.base import PyTree
from metajax.equality import Frozen

__all__ = ['Loaded', 'check_evaluation', 'load']


# What a run may be of; what runs others, such as a sweep, is none of them.
_BINARIES = (
  'car', 'completion', 'continual', 'control', 'hypergradients', 'images',
  'learned_optimizer', 'multimodal', 'sinusoid', 'tables', 'text',
)  # fmt: skip


class Loaded(NamedTuple):
  """A run of several, as it is tested."""

  name: str
  problem: Problem
  learner: Any
  meta_params: PyTree


def load(workdirs: Sequence[str], binary: str) -> list[Loaded]:
  """Makes runs again, with what they have learned.

  Args:
    workdirs: of two runs or more.
    binary: the experiment that all of them are of.

  Raises:
    UsageError: if one is of another experiment, has not come to its end, was
      tested on other tasks, or by other statistics.
  """
  experiment = importlib.import_module(f'experiments.{binary}').EXPERIMENT
  loaded, seen = list[Loaded](), set[str]()
  paths = [Path(each) for each in workdirs]
  for path in paths:  # all of them before any is made again
    if path.name in seen:
      raise UsageError('runs', f'two are called {path.name}; rename one')
    seen.add(path.name)
    if not runs.is_done(path):
      raise UsageError('runs', f'{path} is no run that has come to its end')
    _check_experiment(path, binary, experiment.settings)
  for path in paths:
    own = settings_of(path, experiment.settings, experiment.recipe, 'runs')
    recipe = experiment.recipe(own)
    check_evaluation(path, recipe)
    problem = experiment.problem(own, recipe)
    if loaded:
      _check_same(loaded[0], path, problem)
    try:
      found = load_teacher(path, problem, recipe)
    except UsageError as error:
      raise UsageError('runs', f'{path}: {error.message}') from error
    judge = make_judge(problem)
    if isinstance(judge.learner, Frozen):
      raise UsageError('runs', f'{path} stands on a pretrained network')
    loaded.append(
      Loaded(
        path.name, problem, judge.learner, judge.prepare(found.meta_params)
      )
    )
  return loaded


def _check_experiment(path: Path, wanted: str, kind: type[Base]) -> None:
  """Refuses a run of another binary, by what its workdir remembers.

  Args:
    path: of a run that has ended.
    wanted: the binary that all runs are to be of.
    kind: the settings of that.
  """
  found = None
  if (path / DATA).exists():  # an older run, or one from Python, has none
    found = read_record(path / DATA, 'runs').get('experiment')
  of = str(found or '').removeprefix('experiments.')
  if of not in _BINARIES:
    own = set(said(kind)) - set(said(Common))
    if not own or own & read_record(path / RECORD, 'runs').keys():
      return
    of = 'another binary'
  if of != wanted:
    raise UsageError(
      'runs', f'{path} is a run of {of}, and runs of {wanted} are wanted'
      f' (--experiment={wanted}); name others, or give the --experiment that'
      ' all of them are of'
    )  # fmt: skip


def check_evaluation(path: Path, recipe: Recipe) -> None:
  """Refuses a run whose queries do not share their statistics."""
  if recipe.evaluation != 'transductive':
    raise UsageError(
      'runs', f'{path} was tested with --evaluation={recipe.evaluation}, and'
      ' runs are combined by statistics of all queries; test it again, by'
      ' --load --test_only --evaluation=transductive'
    )  # fmt: skip


def _check_same(first: Loaded, path: Path, problem: Problem) -> None:
  """Refuses runs whose test tasks are others."""
  one, other = first.problem, problem
  names = said(type(one.settings))
  for name in ('target_type', 'ways', 'shots', 'queries'):
    if name not in names:
      continue
    mine, theirs = (
      getattr(each.recipe if name in Recipe._fields else each.settings, name)
      for each in (one, other)
    )
    if mine != theirs:
      raise UsageError(
        'runs', f'{first.name} and {path.name} have other tasks: --{name} is'
        f' {mine} and {theirs}'
      )  # fmt: skip
  # Samplers are trees, of which arrays are the data.
  forms = [str(jax.tree.structure(each.test)) for each in (one, other)]
  same = forms[0] == forms[1] and one.objective == other.objective
  if not same or not all(
    np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(one.test), jax.tree.leaves(other.test), strict=True
    )
  ):
    raise UsageError(
      'runs', f'{first.name} and {path.name} were tested on other data'
      + _of_data(one, other)
    )  # fmt: skip


def _of_data(one: Problem, other: Problem) -> str:
  """Which settings of tasks and data are not alike, as far as these say it."""
  differ = [
    f'--{name} is {getattr(one.settings, name)} and'
    f' {getattr(other.settings, name)}'
    for name, each in said(type(one.settings)).items()
    if each.of in ('tasks', 'data')
    and name not in Recipe._fields
    and getattr(one.settings, name) != getattr(other.settings, name)
  ]
  return f': {", ".join(differ)}' if differ else ''
