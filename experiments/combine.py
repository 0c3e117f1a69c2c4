"""Combines trained runs: votes, stacking, and a choice for each task.

  python -m experiments.combine --runs=runs/a,runs/b --experiment=tables

tests runs of one experiment on the same tasks, each alone and together: all
alike, by votes, with weights fitted to tasks of validation, with weights
fitted to the support set of each task (stacking), and by choosing a learner for
each task. The last two leave support examples out in turn, so queries have no
part in them. Nothing is trained. The workdir receives `combine.json` and
`combine.md`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.runner import flags, tables
from experiments.runner.combined import Loaded, load
from experiments.runner.errors import UsageError, unwritable
from experiments.runner.over_tasks import (
  by_task,
  half_interval,
  number_of_tasks,
  said_of,
  tasks_drawn,
)
from experiments.runner.paths import Place, Places
from experiments.runner.problem import TEST_SEED, VALIDATION_SEED, Problem
from experiments.runner.progress import shown
from experiments.runner.settings import (
  Base,
  OneOf,
  Whole,
  setting,
  settings,
)
from experiments.runner.workdir import (
  make_directory,
  write_json,
  write_text,
)
from metajax import evaluate, select
from metajax.base import PyTree
from metajax.metric import Metric
from metajax.objectives import cross_entropy
from metajax.wrappers.committee import committee, fit_weights

__all__ = ['REFUSED', 'Settings', 'run']

# Why answers of several learners cannot be mixed there.
REFUSED = {
  'control': 'what a policy does decides what it sees next, so learners have no'
  ' common queries; train one on the rollouts of all',
  'hypergradients': 'a bilevel problem has one inner solution and no tasks that'
  ' learners share',
  'learned_optimizer': 'updates of several optimisers are no mean of answers;'
  ' combine what they have trained',
  'continual': 'learners change with the stream, and cross-validation inside a'
  ' support set would show it twice; combine them within a task',
  'incremental': 'learners change with what arrives, and no support set is left'
  ' to validate in',
  'self_destruct': 'it is a model that is judged, by an adversary, and no'
  ' learner',
}


def _able() -> list[str]:
  """The binaries here whose learners answer queries of tasks."""
  names = 'tables', 'sinusoid', 'completion', 'images', 'car'
  found = importlib.util.find_spec
  return [name for name in names if found(f'experiments.{name}')]


@settings
class Settings(Base):
  """Which runs are combined, and how they are tested."""

  runs: tuple[str, ...] = setting(
    (), Places(), 'workdirs of two runs or more',
    of='machine', resume=True,
  )  # fmt: skip
  experiment: str = setting(
    'tables',
    OneOf(lambda: [*_able(), *sorted(REFUSED)]),
    'which binary the runs are of',
    of='tasks', resume=False,
  )  # fmt: skip
  eval_tasks: int = setting(
    200, Whole(2), 'test tasks', of='test', resume=False
  )
  validation_tasks: int = setting(
    100, Whole(2), 'tasks that weights for all tasks are fitted to',
    of='test', resume=False,
  )  # fmt: skip
  folds: int = setting(
    5, Whole(2), 'parts of a support set, at most, that are left out in turn',
    of='test', resume=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/combine', Place(), 'where the results go',
    of='machine', resume=True,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Tests all runs alone and together."""
  loaded = _loaded(settings)
  make_directory(Path(settings.workdir))
  problem = loaded[0].problem
  classes = problem.objective is cross_entropy
  ways = problem.recipe.ways if classes else None
  values = {
    each.name: _values(
      settings, problem, each.name, each.learner, each.meta_params
    )
    for each in loaded
  }
  learners = tuple(each.learner for each in loaded)
  params = tuple(each.meta_params for each in loaded)
  with shown('fitting weights to tasks of validation', at_once=True):
    fitted = fit_weights(
      learners,
      params,
      problem.validation,
      key=jax.random.key(VALIDATION_SEED),
      num_tasks=settings.validation_tasks,
      num_classes=ways,
    )
  weights = tuple(map(float, fitted))
  folds = _folds(settings, problem, ways)
  together = {
    'alike': committee(learners, 'alike', ways),
    'weights of validation': committee(learners, weights, ways),
    'stacked by support': committee(learners, 'stacked', ways, num_folds=folds),
    'chosen by support': select(
      learners, problem.objective, ways, num_folds=folds
    ),
  }
  if classes:
    together['votes'] = committee(learners, 'alike', ways, votes=True)
  for name, learner in together.items():
    values[name] = _values(settings, problem, name, learner, params)
  drawn = tasks_drawn(
    problem.which_task, problem.test, TEST_SEED, settings.eval_tasks
  )
  alone = [each.name for each in loaded]
  rows = _rows(values, alone, problem.metric, drawn)
  _write(settings, problem, rows, weights, drawn)
  return 0


def _loaded(settings: Settings) -> list[Loaded]:
  if settings.experiment in REFUSED:
    raise UsageError(
      'experiment', f'{settings.experiment}: {REFUSED[settings.experiment]}'
    )
  if len(settings.runs) < 2:
    raise UsageError('runs', 'name two workdirs or more, with commas')
  return load(settings.runs, settings.experiment)


def _folds(settings: Settings, problem: Problem, ways: int | None) -> int:
  """The most parts that divide a support set, as many as asked for."""
  task = jax.eval_shape(problem.test, jax.random.key(0))
  number = len(jax.tree.leaves(task.support)[0])
  if ways is not None and number < 2 * ways:
    raise UsageError(
      'runs', f'a support set of {number} examples of {ways} classes has none'
      ' to leave out; combine runs of more --shots'
    )  # fmt: skip
  fits = [n for n in range(2, settings.folds + 1) if number % n == 0]
  return max(fits, default=number)


def _values(
  settings: Settings,
  problem: Problem,
  name: str,
  learner: Any,
  params: PyTree,
) -> np.ndarray:
  with shown(f'testing {name}') as progress:
    found = evaluate(
      learner,
      problem.objective,
      params,
      problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=settings.eval_tasks,
      judged='last_step',
      progress=progress,
    )
  return np.asarray(found.values[problem.metric.name][:, -1])


def _rows(
  values: dict[str, np.ndarray],
  alone: Sequence[str],
  metric: Metric,
  drawn: np.ndarray | None = None,
) -> list[dict[str, Any]]:
  """A row of every learner, over the tasks that differ."""
  means = {name: by_task(own, drawn) for name, own in values.items()}
  best = min(alone, key=lambda name: metric.sort_key(means[name].mean()))
  rows = []
  for name, own in means.items():
    less = own - means[best]
    rows.append(
      {
        'name': name,
        'mean': float(own.mean()),
        'ci95': _half(own, drawn),
        'than': best,
        'difference': float(less.mean()),
        'difference_ci95': _half(less, drawn),
      }
    )
  return rows


def _half(means: np.ndarray, drawn: np.ndarray | None) -> float | None:
  """Half an interval; None of a single task."""
  return float(half_interval(means, drawn)) if len(means) > 1 else None


def _protocol(
  settings: Settings, problem: Problem, drawn: np.ndarray | None
) -> dict[str, Any]:
  """That of this test, and not of the test of one of the runs."""
  protocol = {
    name: value
    for name, value in problem.protocol.items()
    if name != 'trained_on'  # which is of one run alone
  } | {
    'test_tasks': settings.eval_tasks,
    'validation_tasks': settings.validation_tasks,
  }
  if drawn is not None:
    protocol['test_tasks_that_differ'] = number_of_tasks(drawn)
  return protocol


def _write(
  settings: Settings,
  problem: Problem,
  rows: list[dict[str, Any]],
  weights: Sequence[float],
  drawn: np.ndarray | None,
) -> None:
  metric = problem.metric
  best = rows[0]['than']
  table = [['', metric.heading, f'less {best}, the best alone']]
  for row in rows:
    less = ' \N{PLUS-MINUS SIGN} '.join(
      f'{metric.scale * row[name]:.{metric.digits + 1}f}'
      for name in ('difference', 'difference_ci95')
      if row[name] is not None
    )
    mean, half = row['mean'], row['ci95']
    table.append(
      [
        row['name'],
        metric.format(mean)
        if half is None
        else metric.format_interval(mean, half),
        '' if row['name'] == best else less,
      ]
    )
  workdir = Path(settings.workdir)
  protocol = _protocol(settings, problem, drawn)
  basis = f'over {settings.eval_tasks:,} test tasks'
  if drawn is not None:
    basis = said_of(number_of_tasks(drawn), settings.eval_tasks)
  record = {
    'runs': list(settings.runs),
    'metric': metric._replace(measure=None)._asdict(),
    'weights_of_validation': list(weights),
    'protocol': protocol,
    'rows': rows,
  }
  try:
    write_json(workdir / 'combine.json', record)
    write_text(workdir / 'combine.md', f'{tables.markdown(table)}\n{basis}\n')
  except OSError as error:
    raise unwritable('workdir', workdir, error) from error
  tables.show(table)
  tables.say(basis)
  named = zip(map(Path, settings.runs), weights, strict=True)
  tables.say(
    'weights of validation: '
    + ', '.join(f'{path.name} {weight:.2f}' for path, weight in named)
  )
  tables.say(f'{workdir}: combine.json, combine.md')


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
