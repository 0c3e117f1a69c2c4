"""An optimiser that is learned on small networks, and tried on others.

  python -m experiments.learned_optimizer

learns an optimiser by training networks of three widths on digits 0 to 4 of
scikit-learn (`pip install -e '.[baselines]'`), and then trains networks of
other widths on digits 5 to 9 by it; and, from the same starts and on the same
batches, by Adam, Adam with a cosine schedule, and SGD with momentum, each with
the best of ten rates, found on networks of that very kind on digits 0 to 4.
Then it goes where the optimiser may break: more steps, larger networks, other
kinds of them. See docs/guides/learned.md.

The workdir receives what every run has, `optimizer.safetensors` for
`metajax.learned.load_weights`, and `unseen.png` and `farther.png`, losses along
training by each optimiser.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from experiments.data.learned_optimizer import (
  Digits,
  digits,
  with_training_examples,
)
from experiments.figures.finished import draw_curves
from experiments.figures.optimizers import loss_curves
from experiments.recipes import learned_optimizer as recipes
from experiments.reports.examples import image_classes
from experiments.reports.gathered import report
from experiments.runner import flags
from experiments.runner.common import Common, algorithm, worded
from experiments.runner.errors import UsageError
from experiments.runner.experiment import Experiment
from experiments.runner.loop import Finished
from experiments.runner.opponents import compare
from experiments.runner.problem import Judge, Problem, tested_how
from experiments.runner.settings import (
  OneOf,
  Positive,
  Whole,
  setting,
  settings,
)
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.row import Algorithm
from metajax.base import MetaLearner, Model, Objective, PyTree
from metajax.learned import OPTIMIZERS, learn_optimizer, save_weights
from metajax.metric import ACCURACY, LOSS
from metajax.objectives import cross_entropy

__all__ = [
  'EXPERIMENT',
  'Settings',
  'make_problem',
  'make_recipe',
  'run',
  'table',
]

# What other experiments have, and this one has no use for.
_UNUSED = (
  'plugin', 'set', 'network', 'train_shots', 'train_queries', 'inner_steps',
  'eval_inner_steps', 'inner_lr', 'chunk_size', 'precision', 'seeds',
  'load_seed', 'other_data', 'mesh', 'shard', 'distributed', 'num_processes',
  'process_id', 'distributed_timeout', 'heartbeat_seconds',
)  # fmt: skip
_NAME = 'learned_optimizer'
# What perturbs, and what it has of its own.
_OF_ESTIMATORS = {'scale': ('es', 'pes'), 'num_pairs': ('es',)}


@settings
class Settings(Common):
  """What this experiment has beyond the shared settings."""

  algorithm: str = algorithm(_NAME, [_NAME])
  shots: int | None = worded(
    'shots', 'examples of a class that a network is trained on'
  )
  queries: int | None = worded(
    'queries', 'other examples of a class, to judge the trained network by'
  )
  inner_batch: int | None = worded(
    'inner_batch', 'examples of a step of the optimiser that is learned'
  )
  width: int | None = worded(
    'width', 'units of a layer of the networks that it is learned on, which are'
    ' also of a quarter and of three times as many'
  )  # fmt: skip
  depth: int | None = worded('depth', 'layers of these networks')
  optimizer: str = setting(
    'adam', OneOf(sorted(OPTIMIZERS)), 'kind of learned optimiser: Adam with'
    ' learned parts, or a network for every parameter', of='method',
    resume=False,
  )  # fmt: skip
  estimator: str = setting(
    'unrolled', OneOf(list(recipes.RECIPES['adam'])), 'of the meta-gradient:'
    ' backpropagation through whole unrolls or through parts of them, evolution'
    ' strategies on whole unrolls, or persistent ones on parts',
    of='method', resume=False,
  )  # fmt: skip
  horizon: int = setting(
    50, Whole(), 'inner steps in training, and at test', of='tasks',
    resume=False,
  )  # fmt: skip
  truncation: int | None = setting(
    None, Whole(), 'inner steps of a part, of truncated and pes; it divides'
    ' --horizon [default: a tenth of it]', of='method', resume=False,
  )  # fmt: skip
  scale: float = setting(
    0.01, Positive(), 'standard deviation of perturbations, of es and pes',
    of='method', resume=False,
  )  # fmt: skip
  num_pairs: int = setting(
    4, Whole(), 'perturbed pairs per task, of es', of='method', resume=False
  )
  places: str = setting(
    'all', OneOf(['all', 'unseen']), 'where optimisers are compared: on unseen'
    ' networks alone, or also where the learned one may break',
    of='test', resume=True,
  )  # fmt: skip
  eval_tasks: int = setting(
    24, Whole(2), 'test tasks of each kind of network', of='test', resume=True
  )
  validation_tasks: int = setting(
    12, Whole(2), 'validation tasks at every checkpoint', of='test',
    resume=True,
  )  # fmt: skip


class _Problem(Problem):
  """A problem whose method is in no table, as it is for no few-shot tasks."""

  @property
  def algorithm(self) -> Algorithm:
    """The row of the method."""
    return Algorithm(
      partial(_make, self.settings, self.train),
      recipes.outer,
      weights=None,
      adapts_at_random=True,
    )


def _make(
  given: Any, sample: Any, model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  del model  # there are several
  return learn_optimizer(
    recipes.training_networks(recipe, recipe.ways),
    objective,
    given.optimizer,
    recipe.inner_steps,
    estimator=given.estimator,
    batch_size=recipe.inner_batch,
    # What a network comes to counts more than how it began.
    step_weights=tuple(
      ((step + 1) / recipe.inner_steps) ** 2
      for step in range(recipe.inner_steps)
    ),
    length=given.truncation,
    num_pairs=given.num_pairs,
    scale=given.scale,
    num_tasks=recipe.tasks_per_step,
    task=jax.eval_shape(sample, jax.random.key(0)),
  )


def make_recipe(settings: Settings) -> Recipe:
  """The recipe of the estimator, as the settings change it."""
  usual = Settings()
  for name in _UNUSED:
    if getattr(settings, name) != getattr(usual, name):
      raise UsageError(
        name,
        f'is {getattr(settings, name)}, but has no meaning for'
        f' experiments.{_NAME}; leave it out',
      )
  recipe = recipes.RECIPES[settings.optimizer][settings.estimator]
  own = {
    name: value
    for name, value in settings.given().items()
    if name in Recipe._fields and value is not None
  }
  recipe = recipe._replace(
    **own, inner_steps=settings.horizon, eval_inner_steps=settings.horizon
  )
  if recipe.tasks_per_step % 3:
    raise UsageError(
      'tasks_per_step',
      f'is {recipe.tasks_per_step}, which networks of three widths cannot'
      ' share; take a multiple of 3',
    )
  _check_estimator(settings)
  return recipe._replace(chunk_size=recipe.tasks_per_step)


def _check_estimator(settings: Settings) -> None:
  """Refuses what is of other estimators than the one that is asked for."""
  estimator, usual = settings.estimator, Settings()
  for name, able in _OF_ESTIMATORS.items():
    given = getattr(settings, name)
    if given != getattr(usual, name) and estimator not in able:
      takers = ' or '.join(f'--estimator={each}' for each in able)
      is_other = estimator in _OF_ESTIMATORS['scale']
      why = 'has one pair per task' if is_other else 'perturbs nothing'
      raise UsageError(
        name,
        f'is {given}, but {estimator} {why}; leave it out, or take {takers}',
      )
  part = settings.truncation
  if part is not None and settings.estimator not in ('truncated', 'pes'):
    raise UsageError(
      'truncation', f'is {part}, but {settings.estimator} takes whole unrolls;'
      ' leave it out, or take --estimator=pes'
    )  # fmt: skip
  if part is not None and settings.horizon % part:
    raise UsageError(
      'truncation', f'is {part}, which does not divide --horizon='
      f'{settings.horizon}; take one that does'
    )  # fmt: skip


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Small networks to be trained, on digits."""
  try:
    data = digits(recipe)
  except ValueError as error:
    raise UsageError('shots', f'{error}; lower --shots or --queries') from error
  return _Problem(
    name=f'{_NAME}-{settings.optimizer}-{settings.estimator}'
    f'-{settings.horizon}steps-{settings.seed_name}',
    settings=settings,
    recipe=recipe,
    objective=cross_entropy,
    model=recipes.training_networks(recipe, recipe.ways)[0],
    train=data.train,
    validation=data.train,
    test=data.test,
    metric=LOSS,
    protocol={
      'dataset': 'digits',
      'optimizer': settings.optimizer,
      'estimator': settings.estimator,
      'horizon': settings.horizon,
      **data.protocol,
      **tested_how(settings),
    },
    baseline=lambda problem: {},
    draw=draw,
    report=partial(report, show=image_classes, are_classes=True),
    metrics=(ACCURACY,),
    at_once=True,  # networks share the tasks of a step
    more=partial(_compared, data=data),
    not_kept='the optimiser is optimizer.safetensors, for'
    ' metajax.learned.load_weights',
  )


def _compared(
  problem: Problem, judge: Judge, meta_params: PyTree, data: Digits
) -> dict[str, Any]:
  """What `result.json` has of opponents."""
  del judge
  recipe, given = problem.recipe, problem.settings
  assert isinstance(given, Settings)
  places = recipes.unseen_networks(recipe, recipe.ways)
  unseen = list(places)
  if given.places == 'all':
    places |= recipes.far_places(recipe, recipe.ways)
  found = compare(
    meta_params.weights,
    given.optimizer,
    places,
    objective=problem.objective,
    batch_size=recipe.inner_batch,
    tuning=with_training_examples(data.train),
    test=with_training_examples(data.test),
    queries=recipe.ways * recipe.queries,
    num_tasks=given.eval_tasks,
    num_tuning=given.validation_tasks,
  )
  weights = sum(leaf.size for leaf in jax.tree.leaves(meta_params.weights))
  title = f'final losses on validation, of {given.eval_tasks} tasks each'
  return {
    'comparison': found,
    'unseen': unseen,
    'parameters': weights,
    'tables': {title: table(found)},
  }


def draw(run: Finished) -> None:
  """Draws curves, and writes the weights."""
  draw_curves(run)
  outcome = run.outcome
  given = run.problem.settings
  assert isinstance(given, Settings)
  save_weights(
    run.workdir / 'optimizer.safetensors',
    run.meta_params.weights,
    given.optimizer,
  )
  found, unseen = outcome['comparison'], outcome['unseen']
  title = (
    f'{given.optimizer}, {given.estimator}; {given.eval_tasks} unseen tasks'
    f' each, rates of opponents the best of ten'
  )
  near = {name: each for name, each in found.items() if name in unseen}
  loss_curves(run.workdir / 'unseen.png', near, title)
  if far := {name: each for name, each in found.items() if name not in unseen}:
    loss_curves(run.workdir / 'farther.png', far, title)


def table(comparison: Mapping[str, Any]) -> list[list[str]]:
  """The header, and a line for each place: final losses on validation."""
  lines = [[
    'network', 'steps', 'learned', 'Adam (rate)', 'learned - Adam',
    'learned - Adam, training loss', 'learned - Adam with cosine',
    'learned - SGD', 'learned - best of ten Adams for each task',
  ]]  # fmt: skip
  for name, place in comparison.items():
    adam = place['adam']
    lines.append(
      [
        name,
        str(place['steps']),
        _shown(place['learned']['validation']),
        f'{_shown(adam["validation"])} ({adam["rate"]:.2g})',
        _shown(adam['difference']['validation']),
        _shown(adam['difference']['training']),
        _shown(place['adam_cosine']['difference']['validation']),
        _shown(place['sgd_momentum']['difference']['validation']),
        _shown(place['adam_best_for_each_task']['difference'])
        if 'adam_best_for_each_task' in place
        else '',
      ]
    )
  return lines


def _shown(found: Mapping[str, Any]) -> str:
  if found['mean'] is None:
    return 'not finite'
  bad = f', {found["not_finite"]} not finite' if found['not_finite'] else ''
  half = '' if found['ci95'] is None else LOSS.format(found['ci95'])
  return f'{LOSS.format(found["mean"])} \N{PLUS-MINUS SIGN} {half}{bad}'


EXPERIMENT = Experiment(
  Settings, make_recipe, make_problem, small_operations=True
)


run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(flags.main(Settings, EXPERIMENT.start, hidden=_UNUSED))
