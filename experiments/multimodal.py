"""Images and texts in one run, and from the one to the other.

  python -m experiments.multimodal

meta-trains a prototypical network on four kinds of tasks in turn: signs to be
told apart by pictures, by captions, by captions when pictures are asked for,
and the other way round. It needs no file. Each modality has an encoder of its
own; what follows is shared. It is tested on signs that it has not seen, for
each kind of task.
Fewer kinds, or other shares of the steps:

  python -m experiments.multimodal --tasks=images
  python -m experiments.multimodal --tasks=images:1,texts_to_images:3
  python -m experiments.multimodal --algorithm=maml
"""

import sys
from functools import partial

from experiments.data import multimodal as data_sets
from experiments.data.multimodal import MultimodalData
from experiments.data.samplers import Wanted
from experiments.figures.multimodal import draw_multimodal
from experiments.recipes import multimodal as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import modal_classes
from experiments.reports.gathered import report
from experiments.runner.common import Common, algorithm, count
from experiments.runner.experiment import Experiment
from experiments.runner.modalities import make_multimodal
from experiments.runner.problem import Problem, tested_how
from experiments.runner.settings import settings
from metajax.algorithms.recipe import Recipe
from metajax.metric import ACCURACY
from metajax.objectives import cross_entropy
from metajax.tasks import caption_tokenizer

__all__ = ['EXPERIMENT', 'Settings', 'make_problem', 'make_recipe', 'run']


@settings
class Settings(Common, MultimodalData):
  """What this experiment has beyond the shared settings."""

  algorithm: str = algorithm('protonet', lambda: sorted(methods(kind)))
  ways: int | None = count(
    'classes per task', of='tasks', forwarded=True, at_least=2
  )


def make_recipe(settings: Settings) -> Recipe:
  """The recipe for these ways and shots, as settings change it."""
  recipe = published(
    kind, settings.algorithm, settings.ways or 5, settings.shots or 1
  )
  return with_settings(recipe, settings)


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Makes tasks of all kinds, and the network that takes them."""
  data = data_sets.load(Wanted(settings, recipe))
  headline, *others = data.tested
  return Problem(
    name=f'multimodal-{"-".join(data.tested)}-{settings.algorithm}'
    f'-{recipe.ways}way-{recipe.shots}shot-{settings.seed_name}',
    settings=settings,
    recipe=recipe,
    objective=cross_entropy,
    model=make_multimodal(settings, recipe, caption_tokenizer().vocabulary),
    train=data.train,
    validation=data.tested[headline].validation,
    test=data.tested[headline].test,
    besides={name: data.tested[name] for name in others},
    metric=ACCURACY,
    protocol={
      'dataset': headline,
      'ways': recipe.ways,
      'shots': recipe.shots,
      'queries_per_class': recipe.queries,
      'evaluation': recipe.evaluation,
      **tested_how(settings),
      **data.protocol,
    },
    baseline=lambda problem: {'chance_accuracy': 1 / problem.recipe.ways},
    draw=draw_multimodal,
    report=partial(
      report, show=modal_classes, besides=modal_classes, are_classes=True
    ),
  )


EXPERIMENT = Experiment(Settings, make_recipe, make_problem)
run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(EXPERIMENT.main())
