"""Regression on a table: a CSV or Parquet file with a column of task ids.

  python -m experiments.tables --data_file=patients.csv --task_column=patient
      --target_columns=dose,response

meta-trains MAML on the rows of some tasks, tests it on other tasks, each from a
few of its rows, and prints the mean squared error of what is left of them, with
its 95% interval, beside that of the mean of the known targets. Columns are
standardised by the tasks of training, so an error of 1 is their deviation.

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, a page about all of it, `report.html`, and pictures:
`learning_curve.png`, `mse_by_inner_step.png`, `test_task.png`
(predicted against true values, before and after).
"""

import sys
from functools import partial
from pathlib import Path

from experiments.data.regression import TableData, read_table
from experiments.figures.regression import draw_table
from experiments.recipes import regression as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import points
from experiments.reports.gathered import report
from experiments.runner.baselines import mean
from experiments.runner.common import Common, algorithm
from experiments.runner.experiment import Experiment
from experiments.runner.networks import network_again
from experiments.runner.problem import Problem
from experiments.runner.regression import regression
from experiments.runner.settings import settings
from metajax.algorithms.recipe import Recipe
from metajax.objectives import mean_squared_error

__all__ = ['EXPERIMENT', 'Settings', 'make_problem', 'make_recipe', 'run']


@settings
class Settings(Common, TableData):
  """The shared settings and those of tables."""

  algorithm: str = algorithm('maml', lambda: sorted(methods(kind)))


def make_recipe(settings: Settings) -> Recipe:
  """That of waves with fewer queries and steps, and the settings."""
  return with_settings(
    kind.tables(published(kind, settings.algorithm)), settings
  )


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Reads the table, and makes the network."""
  data = read_table(settings, recipe)
  stem = Path(settings.data_file or '').stem
  return regression(
    settings,
    recipe,
    data,
    name=f'{stem}-{settings.algorithm}-{recipe.shots}shot-{settings.seed_name}',
    dataset=stem,
    baseline=mean,
    draw=draw_table,
    experiment='experiments.tables',
    report=partial(report, show=points),
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
