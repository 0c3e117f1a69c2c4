"""Trials of a sweep: trained side by side, judged on folds of training classes.

Trials that differ in rates alone are members of one program, all with the same
key: they see the same tasks, from the same start.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner import cluster, seeds
from experiments.runner.common import Common
from experiments.runner.errors import UsageError
from experiments.runner.experiment import Experiment
from experiments.runner.judging import judged, make_judge
from experiments.runner.problem import Judge, Problem, no_tasks
from experiments.runner.search import as_settings
from experiments.runner.training import MAX_SKIPPED_IN_A_ROW
from metajax.algorithms.recipe import Recipe
from metajax.equality import Frozen
from metajax.runs.checking import check
from metajax.runs.training import TrainState, TrainStep, Varied, make_train_step

__all__ = ['Group', 'Scores', 'grouped', 'run_group']

# Of the tasks that trials are judged on: others than those of runs.
_SEED = 1_000_003

Values = Mapping[str, Any]
# Rates that members of one program may have of their own.
_RATES = ('inner_lr', 'outer_lr')


class Scores(NamedTuple):
  """What trials have reached at a rung; nan of one that has given up."""

  rung: int
  by_fold: np.ndarray  # [folds, trials]

  @property
  def mean(self) -> np.ndarray:
    """Over folds; nan where one is."""
    mean: np.ndarray = self.by_fold.mean(axis=0)
    return mean


class Group(NamedTuple):
  """Trials of one program."""

  settings: Common  # but for the rates
  rates: dict[str, list[float]]  # of each trial
  members: list[int]  # which of the trials that were asked for


class _Fold(NamedTuple):
  """A fold of a group: what is trained, and how it is judged."""

  problem: Problem
  train_step: TrainStep
  judges: Sequence[Judge]


def grouped(
  experiment: Experiment, given: Common, trials: Sequence[Values]
) -> list[Group]:
  """Puts trials together that differ in rates alone.

  Args:
    experiment: what is trained.
    given: the settings of all trials.
    trials: what each of them tries.
  """
  groups, takes_rates = dict[str, Group](), dict[str, bool]()
  for index, values in enumerate(trials):
    alike = {name: x for name, x in values.items() if name not in _RATES}
    settings = as_settings(given, alike)
    own = {name: float(values[name]) for name in _RATES if name in values}
    if 'inner_lr' in own:
      rest = repr(settings.given())
      if rest not in takes_rates:  # to find out reads the data
        takes_rates[rest] = _takes_rates(experiment, settings)
      if not takes_rates[rest]:
        settings = settings.replace(inner_lr=own.pop('inner_lr'))
    group = groups.setdefault(
      repr(settings.given()), Group(settings, {name: [] for name in own}, [])
    )
    group.members.append(index)
    for name, value in own.items():
      group.rates[name].append(value)
  return list(groups.values())


def _takes_rates(experiment: Experiment, settings: Common) -> bool:
  """Whether the method takes a rate that is data, and no Python number."""
  try:
    recipe = experiment.recipe(settings)
    problem = experiment.problem(settings, recipe)
    made = problem.meta_learner()
  except UsageError:  # which its group is told of, and no other trial
    return False
  if isinstance(made, Frozen) or recipe.evaluation == 'population':
    return False
  learner = Frozen(
    lambda rate: _with_rates(problem, {'inner_lr': rate}).meta_learner(),
    jnp.float32(recipe.inner_lr),
  )
  try:
    check(learner, problem.objective, problem.train)
  except Exception:  # whatever it needs the number for
    return False
  return True


def _with_rates(problem: Problem, rates: Mapping[str, Any]) -> Problem:
  recipe: Recipe = problem.recipe._replace(**rates)
  return problem._replace(recipe=recipe)


def run_group(
  experiment: Experiment,
  group: Group,
  folds: Sequence[str | None],
  rungs: int,
) -> Generator[Scores, Collection[int], None]:
  """Trains trials to one rung after the other, and judges them at each.

  It is sent the trials that are pruned, which then stay where they are.

  Args:
    experiment: what is trained.
    group: the trials.
    folds: which parts of the training classes they are judged on; None of
      tasks that are drawn without end.
    rungs: into how many parts the steps are divided.

  Yields:
    `Scores`.
  """
  made = [_fold(experiment, group, fold) for fold in folds]
  settings, recipe = group.settings, made[0].problem.recipe
  key = jax.random.key(settings.seed)
  keys = jnp.stack([key] * len(group.members))
  states = [each.train_step.init(keys) for each in made]
  ends = [recipe.steps * (rung + 1) // rungs for rung in range(rungs)]
  for rung, end in enumerate(ends):
    scores = []
    for index, fold in enumerate(made):
      states[index] = _trained(fold.train_step, states[index], end)
      scores.append(_scores(fold, states[index]))
    pruned = yield Scores(rung, np.stack(scores))
    states = [_without(state, pruned or ()) for state in states]


def _without(state: TrainState, pruned: Collection[int]) -> TrainState:
  """The state in which trials stop, as those do that have given up."""
  stops = np.array(state.skipped_in_a_row)
  stops[list(pruned)] = MAX_SKIPPED_IN_A_ROW
  return state._replace(skipped_in_a_row=jnp.asarray(stops))


def _trained(train_step: TrainStep, state: TrainState, end: int) -> TrainState:
  at = seeds.step_of(state)
  if end > at:
    state, _ = train_step.run(state, end - at)
  return state


def _scores(fold: _Fold, state: TrainState) -> np.ndarray:
  problem, metric = fold.problem, fold.problem.metric.name
  limit = min(MAX_SKIPPED_IN_A_ROW, problem.recipe.steps)
  lost = np.asarray(state.skipped_in_a_row) >= limit
  host = jax.tree.map(np.asarray, state.meta_params)
  return np.array([
    np.nan
    if lost[member]
    else float(
      judged(
        problem,
        judge,
        seeds.of_member(host, member),
        problem.validation,
        _SEED,
        problem.settings.validation_tasks,
      ).mean[metric][-1]
    )
    for member, judge in enumerate(fold.judges)
  ])  # fmt: skip


def _fold(experiment: Experiment, group: Group, fold: str | None) -> _Fold:
  settings: Any = group.settings
  if fold is not None:
    settings = settings.replace(fold=fold)
  recipe = experiment.recipe(settings)
  number = len(group.members)
  mesh = cluster.make_mesh(settings, number, 'members')
  problem = experiment.problem(settings, recipe)._replace(mesh=mesh)
  rates = {name: jnp.array(values) for name, values in group.rates.items()}
  inner = {name: x for name, x in rates.items() if name == 'inner_lr'}
  outer = {name: x for name, x in rates.items() if name == 'outer_lr'}

  def learner(values: Mapping[str, Any]) -> Any:
    return _with_rates(problem, values).meta_learner()

  # Programs of tests are kept, and the data of a fold are not to be with them.
  without_tasks = problem._replace(
    train=no_tasks, validation=no_tasks, test=no_tasks
  )

  def tested(values: Mapping[str, Any]) -> Any:
    return make_judge(_with_rates(without_tasks, values)).learner

  def optimizer(values: Mapping[str, Any]) -> Any:
    return problem.algorithm.optimizer(problem.recipe._replace(**values))

  train_step = make_train_step(
    Varied(learner, inner) if inner else problem.meta_learner(),
    Varied(optimizer, outer) if outer else optimizer({}),
    problem.train,
    tasks_per_step=recipe.tasks_per_step,
    chunk_size=recipe.chunk_size,
    max_skipped_in_a_row=MAX_SKIPPED_IN_A_ROW,
    members=number,
    mesh=mesh,
  )
  judge = make_judge(problem)
  judges = [judge] * number
  if inner:  # of which each has its own at test, too, in one program
    judges = [
      judge._replace(
        learner=Frozen(
          tested, {name: values[member] for name, values in inner.items()}
        )
      )
      for member in range(number)
    ]
  return _Fold(problem, train_step, judges)
