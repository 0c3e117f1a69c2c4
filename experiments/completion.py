"""Image completion: a few pixels are known, the others are predicted.

  python -m experiments.completion

meta-trains an attentive neural process on procedural handwriting, every image
a regression from the place of a pixel to its intensity, tests it on images of
held-out classes, and prints the mean squared error with its 95% interval,
beside that of the mean of the known pixels. Other methods and images:

  python -m experiments.completion --algorithm=cnp
  python -m experiments.completion --dataset=omniglot --data_dir=DIR --shots=50

Images are those of experiments.images, colours averaged to grey. Methods are
those of experiments.sinusoid. The workdir receives `result.json`,
`metrics.jsonl`, `tensorboard/`, `checkpoints/`, a page about all of it,
`report.html`, and pictures: `learning_curve.png`, `mse_by_inner_step.png`,
`completed.png`.
"""

import sys
from functools import partial

from experiments.data.images import ImageData, file_name, resolve
from experiments.data.regression import complete
from experiments.figures.regression import draw_completion
from experiments.recipes import regression as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import completed
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
class Settings(Common, ImageData):
  """The shared settings and those of images."""

  algorithm: str = algorithm('anp', lambda: sorted(methods(kind)))


def make_recipe(settings: Settings) -> Recipe:
  """That of waves with more examples and fewer steps, and the settings."""
  return with_settings(
    kind.completion(published(kind, settings.algorithm)), settings
  )


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Draws images, and makes the network."""
  settings = resolve(settings)
  return regression(
    settings,
    recipe,
    complete(settings, recipe),
    name=f'completion-{file_name(settings)}-{settings.algorithm}'
    f'-{recipe.shots}shot-{settings.seed_name}',
    dataset=settings.dataset,
    baseline=mean,
    draw=draw_completion,
    experiment='experiments.completion',
    report=partial(report, show=completed),
  )


EXPERIMENT = Experiment(
  Settings,
  make_recipe,
  make_problem,
  network=network_again,
  objective=mean_squared_error,
)
run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(EXPERIMENT.main())
