"""Few-shot image classification.

  python -m experiments.images

meta-trains MAML (second order, 5-way 1-shot) on procedural handwriting, tests
it on held-out classes, and prints a table: accuracy before adaptation and
after each inner step, with its 95% interval, next to the pixel baseline. It
takes a few minutes on two CPU cores and needs no download. See
docs/results.md for what it and the following commands print, and for how long
they take:

  python -m experiments.images --dataset=omniglot --data_dir=DIR --rotate
  python -m experiments.images --algorithm=protonet --dataset=omniglot ...
  python -m experiments.images --dataset=npz --data_file=mine.npz
  python -m experiments.images --dataset=folder --data_dir=DIR --image_size=84
  python -m experiments.images --dataset=tfds:NAME --data_dir=DIR

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, a page about all of it, `report.html`, and pictures:
`learning_curve.png`, `accuracy_by_inner_step.png`, `test_task.png`.

From Python, `images.run(images.Settings(algorithm='protonet', steps=200))`
returns what `result.json` holds.
"""

import sys
from functools import partial

from experiments.data import images as data_sets
from experiments.data.images import ImageData
from experiments.data.samplers import Wanted, sizes
from experiments.figures.images import draw_images
from experiments.recipes import images as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import image_classes
from experiments.reports.gathered import report
from experiments.runner.baselines import pixels
from experiments.runner.common import Common, algorithm, count, evaluation
from experiments.runner.errors import UsageError
from experiments.runner.experiment import Experiment
from experiments.runner.networks import (
  check_network,
  make_model,
  network_again,
)
from experiments.runner.problem import Problem, tested_how
from experiments.runner.reading import Reading, of_images
from experiments.runner.settings import settings
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.metric import (
  ACCURACY,
  EXPECTED_CALIBRATION_ERROR,
  MACRO_F1,
  NEGATIVE_LOG_LIKELIHOOD,
)
from metajax.objectives import cross_entropy

__all__ = ['EXPERIMENT', 'Settings', 'make_problem', 'make_recipe', 'run']


@settings
class Settings(Common, ImageData):
  """What this experiment has beyond the shared settings."""

  algorithm: str = algorithm('maml', lambda: sorted(methods(kind)))
  evaluation: str | None = evaluation(['transductive', 'support', 'population'])
  ways: int | None = count(
    'classes per test task', of='tasks', forwarded=True, at_least=2
  )
  train_ways: int | None = count(
    'classes per training task', of='training', at_least=2
  )
  min_ways: int | None = count(
    'tasks have from so many classes to --ways, and are filled up to these',
    of='training', at_least=2, default='all have the same',
  )  # fmt: skip
  min_shots: int | None = count(
    'the same of support examples per class',
    of='training', default='all have the same',
  )  # fmt: skip
  batch_size: int | None = count(
    'images per step of methods that train on all classes at once',
    of='training',
  )  # fmt: skip


def make_recipe(settings: Settings) -> Recipe:
  """The published recipe for these ways and shots, as settings change it."""
  row = ALGORITHMS[settings.algorithm]
  recipe = published(
    kind, settings.algorithm, settings.ways or 5, settings.shots or 1
  )
  if settings.dataset == 'strokes':
    recipe = recipe._replace(steps=recipe.short_steps)
  if row.weights is None and settings.evaluation == 'population':
    raise UsageError(
      'evaluation',
      f'{settings.algorithm} has no weights to measure a population with; use'
      ' transductive or support',
    )
  return with_settings(recipe, settings)


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Loads the data and makes the network."""
  settings = data_sets.resolve(settings)
  data = data_sets.load(
    Wanted(settings, recipe, settings.min_ways, settings.min_shots)
  )
  recipe = recipe._replace(train_classes=data.train_classes)
  train_ways, _, _ = sizes(recipe, training=True)
  model = make_model(settings, recipe, train_ways)
  origin = 'data_file' if settings.data_file else 'dataset'
  check_network(model, data.train, origin, getattr(settings, origin))
  return Problem(
    name=f'{data_sets.file_name(settings)}-{settings.algorithm}-{recipe.ways}way'
    f'-{recipe.shots}shot-{settings.seed_name}',
    settings=settings,
    recipe=recipe,
    objective=cross_entropy,
    model=model,
    train=data.train,
    validation=data.validation,
    test=data.test,
    metric=ACCURACY,
    metrics=(MACRO_F1, EXPECTED_CALIBRATION_ERROR, NEGATIVE_LOG_LIKELIHOOD),
    protocol={
      'dataset': settings.dataset,
      'ways': recipe.ways,
      'shots': recipe.shots,
      'queries_per_class': recipe.queries,
      'evaluation': recipe.evaluation,
      **tested_how(settings),
      **{
        name: value
        for name in ('min_ways', 'min_shots')
        if (value := getattr(settings, name)) is not None
      },
      **data.protocol,
    },
    baseline=pixels,
    draw=partial(draw_images, classes=data.test_classes),
    report=partial(
      report,
      show=partial(image_classes, classes=data.test_classes),
      names=data.test_classes,
      are_classes=True,
    ),
    digests=data.digests,
    reading=Reading(
      'experiments.images',
      of_images(data.test, **data_sets.files(settings)),
      network={'outputs': train_ways},
    ),
  )


EXPERIMENT = Experiment(
  Settings, make_recipe, make_problem, network=network_again
)
run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(EXPERIMENT.main())
