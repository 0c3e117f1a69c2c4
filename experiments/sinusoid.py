"""Sinusoid regression.

  python -m experiments.sinusoid

meta-trains MAML on sine waves from 10 points each, tests it on 1000 new ones,
and prints the mean squared error before adaptation and after each of 10 inner
steps. It takes about a minute on two CPU cores. See docs/results.md for what
it prints. From fewer than 10 points there are as many inner steps at test as in
training; some tasks would diverge in more of them.

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, a page about all of it, `report.html`, and pictures:
`learning_curve.png`, `mse_by_inner_step.png`, `test_task.png` (the
true curve, the points, the prediction before and after).
"""

import sys
from functools import partial

from experiments.data.regression import waves
from experiments.figures.regression import draw_sinusoid
from experiments.recipes import regression as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import curve
from experiments.reports.gathered import report
from experiments.runner.baselines import zero
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
class Settings(Common):
  """The shared settings, for the methods that have a recipe."""

  algorithm: str = algorithm('maml', lambda: sorted(methods(kind)))


def make_recipe(settings: Settings) -> Recipe:
  """The published recipe, as the settings change it."""
  usual = published(kind, settings.algorithm)
  recipe = with_settings(usual, settings)
  if recipe.shots < usual.shots and settings.eval_inner_steps is None:
    recipe = recipe._replace(eval_inner_steps=recipe.inner_steps)
  return recipe


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Draws waves, and makes the network."""
  return regression(
    settings,
    recipe,
    waves(recipe),
    name=f'sinusoid-{settings.algorithm}-{recipe.shots}shot'
    f'-{settings.seed_name}',
    dataset='sinusoid',
    baseline=zero,
    draw=draw_sinusoid,
    experiment='experiments.sinusoid',
    report=partial(report, show=curve),
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
