"""A transformer that is hard to adapt to a blocked task (MLAC).

  python -m experiments.self_destruct

trains a small transformer on the intents of a generated language, then trains
it on to keep the wanted intents and to be a bad start for an adversary that
adapts it to the blocked ones. At the end adversaries of their own search for
the best way to adapt the unprotected model, the protected one, and one that is
drawn at random, from a few examples. It needs no file. With other texts, and a
pretrained transformer:

  python -m experiments.self_destruct --dataset=clinc150 --data_dir=DIR
      --model_dir=DIR --wanted='banking/' --blocked='travel/'

The workdir receives `result.json` and `adversaries.png`.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments.data import contests
from experiments.data.samplers import Wanted
from experiments.data.text import TextData
from experiments.figures import charts
from experiments.reports import of_texts
from experiments.runner import flags, tables
from experiments.runner.cache import use_compilation_cache
from experiments.runner.common import Common, algorithm, count
from experiments.runner.data_digest import DIGEST
from experiments.runner.encoders import small_config
from experiments.runner.errors import UsageError
from experiments.runner.guarding import (
  Bench,
  accuracy,
  attack_from,
  classifier,
  of_classes,
  pretrain,
  protect,
  read_attacks,
  summary,
)
from experiments.runner.interrupts import Interrupted, StallWatch
from experiments.runner.report import versions
from experiments.runner.settings import (
  Finite,
  Listed,
  OneOf,
  Positive,
  Text,
  Whole,
  setting,
  settings,
)
from experiments.runner.training import DivergenceError
from experiments.runner.transformers import (
  Transformer,
  load_pretrained,
  tokenizer_of,
)
from experiments.runner.weights_digest import WEIGHTS
from experiments.runner.workdir import open_workdir, write_json
from metajax.algorithms.recipe import Recipe
from metajax.metric import ACCURACY
from metajax.wrappers.self_destruct import AGAINST, Guarded

__all__ = ['Settings', 'run', 'table']


# What other experiments have, and this one has no use for.
_UNUSED = (
  'plugin', 'set', 'network', 'shots', 'queries', 'train_shots',
  'chunk_size', 'inner_lr', 'outer_schedule', 'precision', 'seeds',
  'load', 'load_seed', 'load_share', 'other_data', 'test_only', 'eval_tasks',
  'test_checkpoint', 'dry_run', 'track', 'track_uri',
  'mesh', 'shard', 'distributed', 'num_processes', 'process_id',
  'distributed_timeout', 'heartbeat_seconds',
  'split_shares', 'split_dir', 'within_groups',
  # An adversary has all weights: none are kept, and nothing stands beside them.
  'model_dtype', 'rank', 'prompt_length',
)  # fmt: skip


class _Rising(Listed):
  """Numbers of examples."""

  allowed = (
    'whole numbers above 0 with commas between them, from small to large'
  )

  def check(self, value: Any) -> Any:
    """Returns a tuple of texts, or raises ValueError."""
    texts = super().check(value)
    try:
      numbers = [int(text) for text in texts]
    except ValueError:
      numbers = []
    if not numbers or numbers != sorted({*numbers}) or numbers[0] < 1:
      raise ValueError(f'must be {self.allowed}')
    return tuple(map(str, numbers))


class _NotNegative(Finite):
  allowed = 'a finite number from 0'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return number >= 0


@settings
class Settings(Common, TextData, Transformer):
  """What this experiment has beyond the shared settings."""

  algorithm: str = algorithm('self_destruct', ['self_destruct'])
  wanted: str | None = setting(
    None, Text(),
    'pattern of the names of the classes that the model is to keep [default: of'
    ' phrases and clinc150, two halves that share no domain]',
    of='tasks', resume=False,
  )  # fmt: skip
  blocked: str | None = setting(
    None, Text(), 'pattern of the names of those that are blocked',
    of='tasks', resume=False,
  )  # fmt: skip
  blocked_classes: int = setting(
    20, Whole(2), 'how many of them are taken, by --split_seed',
    of='tasks', resume=False,
  )  # fmt: skip
  pretraining_steps: int | None = count(
    'steps of training on all classes, before', of='training', default='1500'
  )
  against: str = setting(
    'calibrated', OneOf(sorted(AGAINST)),
    'what the adversary is made to fail by', of='method', resume=False,
  )  # fmt: skip
  blocked_weight: float = setting(
    0.5, Positive(), 'what the blocked task counts beside the wanted one',
    of='method', resume=False,
  )  # fmt: skip
  min_inner_steps: int = setting(
    1, Whole(0), 'the steps of the adversary in training are drawn from so many'
    ' to --inner_steps', of='method', resume=False,
  )  # fmt: skip
  rate_spread: float = setting(
    1.0, _NotNegative(), 'how widely its rate is drawn around the one that it'
    ' learns; 1: uniformly at first; 0: not at all', of='method', resume=False,
  )  # fmt: skip
  train_queries: int | None = count(
    'examples of each task that a step of training judges by', of='training',
    default='64',
  )  # fmt: skip
  support: int = setting(
    50, Whole(), 'examples of the adversary in training',
    of='training', resume=False,
  )  # fmt: skip
  examples: tuple[str, ...] = setting(
    ('20', '50', '100', '200'), _Rising(),
    'numbers of examples of adversaries at test', of='test', resume=True,
  )  # fmt: skip
  attack_draws: int = setting(
    2, Whole(), 'adversaries of each number of examples, with heads and batches'
    ' of their own', of='test', resume=True,
  )  # fmt: skip


def _recipe(given: Settings, steps: int) -> Recipe:
  every = given.checkpoint_every or 250
  return Recipe(
    width=given.width or 32, depth=given.depth or 2, steps=steps,
    tasks_per_step=given.tasks_per_step or 1, checkpoint_every=every,
    log_every=min(given.log_every or 25, every),
    inner_steps=given.inner_steps or 16, inner_batch=given.inner_batch or 16,
    eval_inner_steps=given.eval_inner_steps or 500,
    outer_lr=given.outer_lr or 1e-3,
    train_queries=given.train_queries or 64,
    # What `phrases` makes of each class.
    shots=40, queries=60, train_shots=1,
  )  # fmt: skip


def run(settings: Settings) -> dict[str, Any]:
  """Trains both models, attacks them, and reports.

  Args:
    settings: with a `workdir` all that the binary writes is there.

  Returns:
    What `result.json` holds.

  Raises:
    UsageError: if something is wrong with the settings or the data.
  """
  if settings.workdir is None:
    if settings.resume:
      raise UsageError('resume', 'needs --workdir, the directory of the run')
    with tempfile.TemporaryDirectory(prefix='metajax-') as folder:
      return _run(settings, Path(folder) / 'run')
  return _run(settings, Path(settings.workdir))


def _run(given: Settings, path: Path) -> dict[str, Any]:
  _check(given)
  began = time.perf_counter()
  found = load_pretrained(given.replace(adapt='all'))
  recipe = _recipe(given, given.steps or 1000)
  tokenize = None if found is None else tokenizer_of(given, found)
  divided = contests.load(Wanted(given, recipe), tokenize)
  there = len(divided.blocked.train.targets)
  queries = recipe.train_queries or 0
  if given.support + queries > there:
    raise UsageError(
      'support',
      f'is {given.support}, and {queries} others are to judge by; there are'
      f' {there} texts of blocked classes for training: ask for fewer, or block'
      ' more classes',
    )
  config = (
    small_config(given, recipe, divided.vocabulary)
    if found is None
    else found.config
  )
  classifier(given, config, 2)  # which may not be, before a place is taken
  record = given.given()
  if divided.digests:
    record |= {DIGEST: divided.digests}
  if found is not None:
    record |= {WEIGHTS: found.digests}
  opened = open_workdir(path, given, record)
  try:
    with StallWatch(given.stall_seconds) as watch:
      bench = Bench(
        given, divided, contests.pairs,
        partial(contests.contests, divided), config, found, opened, watch,
        began,
      )  # fmt: skip
      return _outcome(bench, recipe, record)
  except Interrupted as stop:
    if stop.preempted:
      opened.mark_preempted()
    raise
  finally:
    opened.release()


def _check(given: Settings) -> None:
  usual = Settings()
  for name in _UNUSED:
    if getattr(given, name) != getattr(usual, name):
      raise UsageError(
        name,
        f'is {getattr(given, name)}, but has no meaning for'
        ' experiments.self_destruct; leave it out',
      )
  if given.adapt not in (None, 'all'):
    raise UsageError(
      'adapt',
      f'is {given.adapt}, but an adversary has all weights; leave it out',
    )
  most = given.inner_steps or 16
  if given.min_inner_steps > most:
    raise UsageError(
      'min_inner_steps',
      f'is {given.min_inner_steps}, above --inner_steps={most}; lower it',
    )


def _outcome(
  bench: Bench, recipe: Recipe, record: dict[str, Any]
) -> dict[str, Any]:
  divided, path = bench.divided, bench.workdir.path
  before = pretrain(bench, recipe).meta_params
  ours = of_classes(before, divided.places)
  attacks = read_attacks(bench.workdir, recipe)
  attack_from(bench, recipe, 'unprotected', ours, attacks)
  attack_from(bench, recipe, 'random', bench.drawn(2), attacks)
  trained = protect(bench, recipe, ours)
  guarded: Guarded = trained.meta_params
  if attacks.get('of_step') != trained.step:
    attacks = {
      name: value
      for name, value in attacks.items()
      if not name.startswith('protected')
    } | {'of_step': trained.step}
  attack_from(bench, recipe, 'protected', guarded.params, attacks)
  outcome = summary(bench.settings, attacks)
  outcome['wanted'] = {
    'before': accuracy(bench, ours),
    'after': accuracy(bench, guarded.params),
  }
  outcome |= {
    'algorithm': 'self_destruct',
    'dataset': bench.settings.dataset,
    'protocol': divided.protocol,
    'steps': trained.step,
    'skipped_steps': trained.skipped,
    'training_seconds': trained.training_seconds,
    'seconds': time.perf_counter() - bench.began,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(ours)),
    'config': record,
    'not_kept': 'it protects a network, which is in its checkpoints',
    'versions': versions(),
  }
  outcome = write_json(path / 'result.json', outcome)
  draw(outcome, path)
  of_texts.adversaries(
    path, bench.settings, _title(outcome), outcome, table(outcome)
  )
  return outcome


def draw(outcome: dict[str, Any], path: Path) -> None:
  """What adversaries reach, by the number of their examples."""
  charts.by_shots(
    path / 'adversaries.png',
    {
      start: [
        (row['examples'], row['accuracy'], row['ci95'] or 0.0) for row in rows
      ]
      for start, rows in outcome['adversaries'].items()
    },
    ACCURACY,
    f'{_title(outcome)}; wanted'
    f' {ACCURACY.format(outcome["wanted"]["before"])}% before,'
    f' {ACCURACY.format(outcome["wanted"]["after"])}% after',
    shots='blocked examples of the adversary',
  )


def _title(outcome: dict[str, Any]) -> str:
  return f'{outcome["dataset"]}, {outcome["protocol"]["blocked"]} blocked'


def table(outcome: dict[str, Any]) -> list[list[str]]:
  """The header, and a line for every start."""
  numbers = [str(row['examples']) for row in outcome['adversaries']['random']]
  return [
    ['adversary from', *(f'{number} examples %' for number in numbers)],
    *(
      [
        start,
        *(
          ACCURACY.format_interval(row['accuracy'], row['ci95'])
          if row['ci95'] is not None
          else ACCURACY.format(row['accuracy'])
          for row in rows
        ),
      ]
      for start, rows in outcome['adversaries'].items()
    ),
  ]


def start(settings: Settings) -> int:
  """Runs in a process of its own; returns the exit code."""
  use_compilation_cache(settings.cache_dir)
  name = f'{settings.dataset}-self_destruct-{settings.against}'
  workdir = settings.workdir or f'runs/{name}-seed{settings.seed}'
  try:
    outcome = run(settings.replace(workdir=workdir))
  except Interrupted as stop:
    print(stop, flush=True)
    return stop.exit_code
  except DivergenceError as stop:
    print(stop, file=sys.stderr, flush=True)
    return 1
  tables.show(table(outcome))
  before, after = outcome['wanted']['before'], outcome['wanted']['after']
  print(
    f'wanted task: {ACCURACY.format(before)}% before,'
    f' {ACCURACY.format(after)}% after'
  )
  tables.say(f'{workdir}: result.json, adversaries.png, report.html')
  return 0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, start, hidden=(*_UNUSED, 'adapt')))
