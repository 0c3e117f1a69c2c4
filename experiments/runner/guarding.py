"""Phases of a model that is to be hard to adapt: learning, and protection.

Each is a training as that of any experiment, in a folder of its own within the
workdir: with checkpoints, validation, and lines of metrics.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.runner.adversary import attack
from experiments.runner.errors import UsageError
from experiments.runner.interrupts import StallWatch
from experiments.runner.intervals import of_few
from experiments.runner.problem import Judge, Problem, Trained
from experiments.runner.progress import shown
from experiments.runner.records import read_record
from experiments.runner.training import MAX_SKIPPED_IN_A_ROW, train
from experiments.runner.workdir import Workdir, write_json
from metajax.algorithms.maml import maml
from metajax.algorithms.recipe import Recipe
from metajax.base import MetaLearner, Model, PyTree
from metajax.metric import ACCURACY
from metajax.models import pretrained
from metajax.objectives import cross_entropy
from metajax.runs.training import make_train_step
from metajax.wrappers.self_destruct import Guarded, self_destruct

__all__ = [
  'Bench',
  'accuracy',
  'attack_from',
  'classifier',
  'of_classes',
  'pretrain',
  'protect',
  'read_attacks',
  'summary',
]

_BATCH = 64  # of pretraining and validation
_PRETRAINING_STEPS = 1500
_PRETRAINING_RATE = 3e-3  # from random parameters
_FINE_TUNING_RATE = 3e-5  # from pretrained ones
# Where the adversary's rate is in training.
_RATES = (3e-4, 3e-2)

# Adversaries start from these.
_STARTS = ('unprotected', 'random', 'protected')
_ATTACKS = 'attacks.json'
_OF = 'eval_inner_steps'  # what attacks there are of, beside their names


class Bench(NamedTuple):
  """What the phases of a run share."""

  settings: Any
  divided: Any  # `experiments.data.contests.Divided`
  pairs: Any  # draws batches of examples
  contests: Any  # draws tasks of `self_destruct`
  config: pretrained.TransformerConfig
  found: pretrained.Pretrained | None
  workdir: Workdir
  watch: StallWatch
  began: float  # as `time.perf_counter` counts

  def model(self, num_classes: int) -> Model:
    """The transformer, with a head."""
    return classifier(self.settings, self.config, num_classes)

  def drawn(self, num_classes: int) -> PyTree:
    """Its parameters at random."""
    tokens = self.divided.everything.test.inputs[:1]
    key = jax.random.key(self.settings.seed + 1)
    params: PyTree = jax.jit(self.model(num_classes).init)(key, tokens)
    return params


def classifier(
  given: Any, config: pretrained.TransformerConfig, num_classes: int
) -> Model:
  """The transformer that settings ask for, with a head.

  Raises:
    UsageError: if it cannot have features as they say.
  """
  try:
    return pretrained.text_encoder(
      config, num_classes, pool=given.pool, rematerialise=given.rematerialise
    )
  except ValueError as error:
    raise UsageError('pool', f'is {given.pool}: {error}') from error


def of_classes(params: PyTree, places: Any) -> PyTree:
  """The same network, with the part of its head that is for some classes."""
  head = jax.tree.map(lambda leaf: leaf[..., places], params['head'])
  return {**params, 'head': head}


def accuracy(bench: Bench, params: PyTree) -> float:
  """Of the wanted task, on test examples."""
  test = bench.divided.wanted.test
  apply = jax.jit(bench.model(len(bench.divided.places)).apply)
  _, metrics = cross_entropy(apply(params, test.inputs), test.targets)
  return float(metrics['accuracy'])


def pretrain(bench: Bench, recipe: Recipe) -> Trained:
  """Trains on all classes."""
  parts, number = bench.divided.everything, len(bench.divided.names)
  model = bench.model(number)
  start, rate = None, _PRETRAINING_RATE
  if bench.found is not None:
    drawn, rate = bench.drawn(number), _FINE_TUNING_RATE
    start = {name: bench.found.params.get(name, drawn[name]) for name in drawn}
  steps = bench.settings.pretraining_steps or _PRETRAINING_STEPS
  learner = _as_it_is(model)
  return _trained(
    bench, 'unprotected', recipe._replace(steps=steps, tasks_per_step=1),
    learner, Judge(learner, 'transductive', lambda params: params),
    (bench.pairs(parts.train, _BATCH), bench.pairs(parts.validation, _BATCH)),
    optax.adam(rate), start,
  )  # fmt: skip


def protect(bench: Bench, recipe: Recipe, start: PyTree) -> Trained:
  """Makes the blocked task hard to learn, and keeps the wanted one."""
  given = bench.settings
  model = bench.model(len(bench.divided.places))
  learner = self_destruct(
    model,
    bench.model(given.blocked_classes),
    cross_entropy,
    against=given.against,
    weight=given.blocked_weight,
    num_steps=recipe.inner_steps,
    min_steps=given.min_inner_steps,
    batch_size=recipe.inner_batch,
    rates=_RATES,
    rate_spread=given.rate_spread,
  )
  judge = Judge(
    _as_it_is(model), 'transductive', lambda guarded: guarded.params
  )
  validation = bench.pairs(bench.divided.wanted.validation, _BATCH)
  optimizer = optax.chain(
    optax.clip_by_global_norm(10.0), optax.adam(recipe.outer_lr)
  )
  return _trained(
    bench, 'protected', recipe, learner, judge,
    (bench.contests(given.support, recipe.train_queries), validation),
    optimizer, Guarded(start, jnp.zeros(())),
  )  # fmt: skip


def _as_it_is(model: Model) -> MetaLearner:
  """A network that does not adapt."""
  return maml(model, cross_entropy, num_steps=0)


def _trained(
  bench: Bench,
  phase: str,
  recipe: Recipe,
  learner: MetaLearner,
  judge: Judge,
  samplers: tuple[Any, Any],
  optimizer: optax.GradientTransformation,
  start: PyTree | None,
) -> Trained:
  """Trains as every experiment does."""
  print(f'{phase}: {recipe.steps} steps', flush=True)
  sample, validation = samplers
  problem = Problem(
    name=phase,
    settings=bench.settings,
    recipe=recipe,
    objective=cross_entropy,
    model=bench.model(2),
    train=sample,
    validation=validation,
    test=validation,
    metric=ACCURACY,
    protocol={},
    baseline=lambda problem: {},
    draw=lambda run: None,
  )
  train_step = make_train_step(
    learner,
    optimizer,
    sample,
    tasks_per_step=recipe.tasks_per_step,
    chunk_size=1,
    max_skipped_in_a_row=MAX_SKIPPED_IN_A_ROW,
  )
  folder = bench.workdir.path / phase
  resume = bench.workdir.resume and folder.exists()
  folder.mkdir(exist_ok=True)
  if start is not None:  # what trains gives its arrays away
    start = jax.tree.map(jnp.copy, start)
  return train(
    problem, judge, train_step, start, Workdir(folder, resume), bench.watch,
    bench.began,
  )  # fmt: skip


def read_attacks(workdir: Workdir, recipe: Recipe) -> dict[str, Any]:
  """The attacks that a run has made before it was stopped.

  Those of another number of steps, which a resume may change, are left out.
  What else shapes an attack is in its name, or cannot change.
  """
  path, steps = workdir.path / _ATTACKS, recipe.eval_inner_steps
  if workdir.resume and path.exists():
    found = read_record(path, 'workdir')
    if found.get(_OF) == steps:
      return found
  return {_OF: steps}


def attack_from(
  bench: Bench,
  recipe: Recipe,
  start: str,
  params: PyTree,
  attacks: dict[str, Any],
) -> None:
  """Attacks from a start, with every number of examples."""
  given, blocked = bench.settings, bench.divided.blocked
  body = {name: each for name, each in params.items() if name != 'head'}
  model = bench.model(given.blocked_classes)
  for number in given.examples:
    examples = jax.tree.map(lambda leaf: leaf[: int(number)], blocked.adversary)  # noqa: B023
    for draw in range(given.attack_draws):
      name = _name(start, number, draw)
      if name in attacks:
        continue
      bench.watch.now(f'attacking: {name}')
      with shown(f'attacking: {name}') as progress:
        found = attack(
          model, body, examples, blocked.validation, blocked.test,
          steps=recipe.eval_inner_steps, seed=draw, progress=progress,
        )  # fmt: skip
      attacks[name] = {**found._asdict(), 'trial': found.trial._asdict()}
      write_json(bench.workdir.path / _ATTACKS, attacks)
      print(f'{name}: {ACCURACY.format(found.accuracy)}%', flush=True)


def summary(given: Any, attacks: dict[str, Any]) -> dict[str, Any]:
  """Means and 95% intervals over adversaries, by start and examples."""
  return {
    'adversaries': {
      start: [
        {
          'examples': int(number),
          'accuracy': float(np.mean(found)),
          'ci95': float(of_few(np.array(found))) if len(found) > 1 else None,
        }
        for number in given.examples
        for found in [
          [
            attacks[_name(start, number, draw)]['accuracy']
            for draw in range(given.attack_draws)
          ]
        ]
      ]
      for start in _STARTS
    },
    'attacks': attacks,
  }


def _name(start: str, number: str, draw: int) -> str:
  return f'{start}, {number} examples, adversary {draw}'
