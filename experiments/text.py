"""Few-shot classification of texts.

  python -m experiments.text

meta-trains MAML (second order) with a small transformer on a generated
language, tests it on classes that it has not seen, and prints a table next to
the baseline of bags of words. It needs no file. With a pretrained transformer:

  python -m experiments.text --model_dir=DIR --adapt=lora --algorithm=protonet
  python -m experiments.text --dataset=clinc150 --data_dir=DIR ...
  python -m experiments.text --dataset=banking77 --data_dir=DIR ...
  python -m experiments.text --dataset=csv --data_file=mine.csv ...
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from experiments.data import text as data_sets
from experiments.data.out_of_scope import OutOfScope, with_queries_apart
from experiments.data.samplers import Wanted, sizes
from experiments.data.text import TextData
from experiments.figures.texts import draw_texts
from experiments.recipes import text as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import text_classes
from experiments.reports.gathered import report
from experiments.runner.baselines import of_texts
from experiments.runner.common import Common, algorithm, count
from experiments.runner.encoders import (
  check_room,
  make_encoder,
  pooled_features,
)
from experiments.runner.errors import UsageError
from experiments.runner.experiment import Experiment
from experiments.runner.features import Encode, features_of, with_features
from experiments.runner.more_losses import MoreLosses, with_words_loss
from experiments.runner.networks import check_network
from experiments.runner.out_of_scope import with_rejection
from experiments.runner.problem import Problem, tested_how
from experiments.runner.settings import settings
from experiments.runner.teacher import (
  for_tasks_of,
  load_teacher,
  settings_of,
  taught_by,
)
from experiments.runner.text_networks import (
  for_encoder,
  reading_of_texts,
  text_network_again,
)
from experiments.runner.transformers import (
  Transformer,
  load_pretrained,
  tokenizer_of,
  uses_features,
  weights_kept,
)
from metajax.algorithms.recipe import Recipe
from metajax.metric import ACCURACY, MACRO_F1, NEGATIVE_LOG_LIKELIHOOD
from metajax.objectives import cross_entropy

__all__ = ['EXPERIMENT', 'Settings', 'make_problem', 'make_recipe', 'run']


@settings
class Settings(Common, TextData, OutOfScope, Transformer, MoreLosses):
  """What this experiment has beyond the shared settings."""

  algorithm: str = algorithm('maml', lambda: sorted(methods(kind)))
  ways: int | None = count(
    'classes per test task', of='tasks', forwarded=True, at_least=2
  )
  train_ways: int | None = count(
    'classes per training task', of='training', at_least=2
  )
  batch_size: int | None = count(
    'texts per step of methods that train on all classes at once',
    of='training',
  )  # fmt: skip


def make_recipe(settings: Settings) -> Recipe:
  """The recipe for these ways and shots, as settings change it."""
  recipe = published(
    kind, settings.algorithm, settings.ways or 5, settings.shots or 1
  )
  return with_settings(recipe, settings)


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Loads the texts and makes the network."""
  found = load_pretrained(settings)
  tokenize = None if found is None else tokenizer_of(settings, found)
  wanted = Wanted(settings, recipe)
  data = data_sets.load(wanted, tokenize)
  recipe = recipe._replace(train_classes=data.train_classes)
  recipe = for_encoder(settings, recipe, found)
  train_ways, _, _ = sizes(recipe, training=True)
  vocabulary = getattr(data.text.tokenize, 'vocabulary', 0)
  model = make_encoder(settings, recipe, train_ways, vocabulary, found)
  tokens, features = data.test, None
  if found is not None:
    encode = pooled_features(settings, found)
    features = partial(features_of, tokens, encode)
    if uses_features(settings):
      data = with_features(
        data, encode, in_shape_only=settings.dry_run is not None
      )
      features = partial(getattr, data, 'test')
  # Texts are tokens, which fit but for a prompt before them.
  origin = 'prompt_length' if settings.adapt == 'prompt' else 'dataset'
  check_network(model, data.train, origin, getattr(settings, origin))
  check_room(settings, recipe, found, data.test)
  assert data.test_classes is not None  # texts have names of classes
  apart = with_queries_apart(wanted, data)
  problem = Problem(
    name=f'{settings.dataset}-{settings.algorithm}-{recipe.ways}way'
    f'-{recipe.shots}shot-{settings.seed_name}',
    settings=settings,
    recipe=recipe,
    objective=cross_entropy,
    model=model,
    train=data.train,
    validation=data.validation,
    test=data.test,
    metric=ACCURACY,
    metrics=(MACRO_F1, NEGATIVE_LOG_LIKELIHOOD),
    protocol={
      'dataset': settings.dataset,
      'ways': recipe.ways,
      'shots': recipe.shots,
      'queries_per_class': recipe.queries,
      **tested_how(settings),
      **data.protocol,
      **({'out_of_scope': apart.described} if apart else {}),
      **weights_kept(settings, found),
    },
    around=with_words_loss(settings, recipe, vocabulary, found),
    baseline=partial(of_texts, tokens=tokens, features=features),
    draw=partial(
      draw_texts, texts=data.text.test_texts, classes=data.test_classes
    ),
    report=partial(
      report,
      show=partial(
        text_classes, texts=data.text.test_texts, classes=data.test_classes
      ),
      names=data.test_classes,
      are_classes=True,
    ),
    digests=data.digests,
    reading=reading_of_texts(tokens, data.text.tokenize, train_ways),
    weights_digest=found and found.digests,
    more=apart
    and partial(
      with_rejection,
      validation=apart.validation,
      test=apart.test,
      of_features=partial(_apart, wanted, data),
    ),
    without_more='--out_of_scope=none',
  )
  return problem if settings.teacher is None else _taught(problem)


def _apart(wanted: Wanted, data: Any, encode: Encode) -> tuple[Any, Any]:
  """Tasks with queries that are of no class, of features of texts."""
  held = with_features(data, encode, parts=('validation', 'test'))
  apart = with_queries_apart(wanted, held)
  assert apart is not None  # whoever asks has some
  return apart.validation, apart.test


def _taught(problem: Problem) -> Problem:
  """The same, which learns from another run too."""
  settings: Any = problem.settings
  if problem.around is not None:
    raise UsageError(
      'teacher', 'goes without --masked_words_weight; leave one out'
    )
  workdir, recipe = Path(settings.teacher), problem.recipe
  own = settings_of(workdir, Settings, make_recipe, 'teacher')
  own = for_tasks_of(own, recipe, workdir)
  teacher = load_teacher(workdir, make_problem(own, make_recipe(own)), recipe)
  return problem._replace(
    around=taught_by(teacher, problem), teacher_digest=teacher.digest
  )


EXPERIMENT = Experiment(
  Settings, make_recipe, make_problem, network=text_network_again
)
run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(EXPERIMENT.main())
