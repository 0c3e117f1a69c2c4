"""Tables: a CSV or Parquet file with a column that says which task a row is of.

  python -m experiments.tables
  python -m experiments.tables --data_file=patients.csv --task_column=patient
      --target_columns=dose,response
  python -m experiments.tables --data_file=clients.csv --task_column=segment
      --target_columns=default --target_type=classes --algorithm=lr_d2

meta-trains MAML on the rows of some tasks, tests it on other tasks, each from a
few of its rows, and prints the mean squared error of what is left of them (the
log loss, where targets are classes), with its 95% interval over tasks that
differ, where there are two or more. Beside it are
global models and models of each task, on the same queries, with intervals of
the differences over tasks. Columns are standardised by the tasks of training,
so an error of 1 is their deviation. With --order_column the support set of a
test is what came first. Without a file, tasks are random functions.

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, a page about all of it, `report.html`, and pictures:
`learning_curve.png`, `mse_by_inner_step.png` or `loss_by_inner_step.png`,
`test_task.png` (predicted against true values, before and after; of numbers,
and not of classes), and `rivals.png` (but with --norivals, or several targets).
"""

import sys
from functools import partial
from typing import Any

from experiments.data.tables import TableData, Tables, read_table, stem
from experiments.figures.tables import draw_table
from experiments.recipes import regression as on_numbers
from experiments.recipes import tables as on_classes
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import points, shares
from experiments.reports.gathered import report
from experiments.runner.baselines import mean
from experiments.runner.beside_rivals import LOG_LOSS, beside_rivals
from experiments.runner.common import Common, algorithm
from experiments.runner.errors import UsageError
from experiments.runner.experiment import Experiment
from experiments.runner.networks import check_network, make_model, network_again
from experiments.runner.problem import Judge, Problem, tested_how
from experiments.runner.regression import regression
from experiments.runner.settings import settings
from metajax.algorithms.recipe import Recipe
from metajax.base import PyTree
from metajax.objectives import cross_entropy, mean_squared_error
from metajax.tasks import task_of

__all__ = ['EXPERIMENT', 'Settings', 'make_problem', 'make_recipe', 'run']


@settings
class Settings(Common, TableData):
  """The shared settings and those of tables."""

  algorithm: str = algorithm(
    'maml', lambda: sorted({*methods(on_numbers), *methods(on_classes)})
  )


def make_recipe(settings: Settings) -> Recipe:
  """That of waves with fewer queries and steps, or of classes; and settings."""
  kind = on_classes if settings.target_type == 'classes' else on_numbers
  if settings.algorithm not in methods(kind):
    raise UsageError(
      'algorithm',
      f'{settings.algorithm} has no recipe for tables of'
      f' {settings.target_type}; there are {", ".join(methods(kind))}',
    )
  recipe = published(kind, settings.algorithm)
  if kind is on_numbers:
    recipe = on_numbers.tables(recipe)
  return with_settings(recipe, settings)


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Reads the table, and makes the network."""
  read = read_table(settings, recipe)
  name = stem(settings)
  run = f'{name}-{settings.algorithm}-{recipe.shots}shot-{settings.seed_name}'
  make = _of_classes if settings.target_type == 'classes' else _of_numbers
  problem = make(settings, recipe, read, run, name)
  if settings.data_file is not None:
    problem = problem._replace(which_task=task_of)
  if read.known is None:
    return problem
  known = read.known

  def more(problem: Problem, judge: Judge, params: PyTree) -> dict[str, Any]:
    return beside_rivals(problem, judge, params, known)

  return problem._replace(more=more, without_more='--norivals')


def _of_numbers(
  settings: Settings, recipe: Recipe, read: Tables, run: str, name: str
) -> Problem:
  problem = regression(
    settings,
    recipe,
    read.data,
    name=run,
    dataset=name,
    baseline=mean,
    draw=draw_table,
    experiment='experiments.tables',
    report=partial(report, show=points),
  )
  if settings.prior_column is None:
    return problem
  return problem._replace(
    reading=None,
    not_kept='what it predicts is to be added to what --prior_column says,'
    ' which experiments.predict does not do',
  )


def _of_classes(
  settings: Settings, recipe: Recipe, read: Tables, run: str, name: str
) -> Problem:
  data = read.data
  model = make_model(settings, recipe, data.num_targets)
  check_network(model, data.train, 'network', recipe.network)
  return Problem(
    name=run,
    settings=settings,
    recipe=recipe,
    objective=cross_entropy,
    model=model,
    train=data.train,
    validation=data.validation,
    test=data.test,
    metric=LOG_LOSS,
    protocol={
      'dataset': name,
      'shots': recipe.shots,
      'queries': recipe.queries,
      **tested_how(settings),
      **data.protocol,
    },
    baseline=lambda problem: {},
    draw=draw_table,
    report=partial(report, show=shares, are_classes=True),
    digests=data.digests,
    not_kept='experiments.predict reads tables whose targets are numbers, and'
    ' these are classes',
  )


EXPERIMENT = Experiment(
  Settings,
  make_recipe,
  make_problem,
  small_operations=True,
  network=network_again,
  objective=mean_squared_error,
)
run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(EXPERIMENT.main())
