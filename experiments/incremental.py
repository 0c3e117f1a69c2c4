"""Intents that arrive a few at a time, to be told apart from all before them.

  python -m experiments.incremental

meta-trains a ProtoNet with a small transformer on a generated language
(`experiments.text`), and then lets 25 intents that it has never seen arrive,
five at a time with five examples each. After every arrival all that have come
are to be told apart. Strategies differ in what they do with the adapters:

  means            as they were meta-trained; the mean of each class is kept
  kept             learned at the first arrival, then left as they are
  averaged         learned at every arrival alone, and averaged over arrivals
  relearnt         learned on at every arrival, on the new examples alone
  relearnt_on_all  learned anew on the examples of all that have come, which no
                   other strategy keeps: the upper bound

Of real texts and a pretrained transformer, or a run that there is:

  python -m experiments.incremental --dataset=banking77 --data_dir=DIR
      --model_dir=DIR
  python -m experiments.incremental --run=runs/banking77-protonet-...

The workdir receives `result.json`, `incremental.md` and `incremental.png`, and
the run in `trained`; the same command goes on where it was stopped. See
docs/results.md for what forgetting is.
"""

import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import text
from experiments.data import text as data_sets
from experiments.data.samplers import Wanted
from experiments.data.text import TextData
from experiments.figures.arrivals import by_classes
from experiments.reports import of_texts
from experiments.runner import flags, runs, tables
from experiments.runner.arrivals import (
  STRATEGIES,
  accuracies,
  forgetting,
  sort_by_class,
)
from experiments.runner.cache import use_compilation_cache
from experiments.runner.differences import check_one_seed, settings_kept
from experiments.runner.errors import UsageError, printable
from experiments.runner.intervals import of_few
from experiments.runner.judging import weights_of
from experiments.runner.loading import load_meta_params
from experiments.runner.paths import Place
from experiments.runner.problem import TEST_SEED, Problem
from experiments.runner.progress import shown
from experiments.runner.records import RECORD, RESULT, read_record
from experiments.runner.settings import Positive, Whole, said, setting, settings
from experiments.runner.transformers import (
  Transformer,
  load_pretrained,
  uses_features,
)
from experiments.runner.workdir import write_json, write_text
from metajax import tasks
from metajax.base import Model, PyTree
from metajax.equality import Frozen
from metajax.metric import ACCURACY
from metajax.models.frozen import on_weights
from metajax.models.tuning import lora
from metajax.runs.training import make_train_step

__all__ = ['Settings', 'run', 'table']

METHOD = 'protonet'  # its features are such that means tell classes apart


def _count(default: int, text: str, of: Any = 'test', least: int = 1) -> Any:
  return setting(
    default, Whole(least), text, of=of, resume=False, forwarded=False
  )


@settings
class Settings(TextData, Transformer):
  """Which run, what arrives, and how adapters learn from it."""

  run: str | None = setting(
    None, Place(), f'workdir of a run of experiments.text with {METHOD}'
    ' [default: one that is trained first]',
    of='data', resume=True, forwarded=False,
  )  # fmt: skip
  steps: int = _count(1000, 'outer steps of the run to train', 'training')
  seed: int = _count(0, 'of the run that is trained', 'training', 0)
  classes: int = _count(25, 'test classes that arrive in all', least=2)
  classes_each: int = _count(5, 'of them at an arrival')
  shots: int = _count(5, 'examples of a class')
  queries: int = _count(10, 'queries of a class')
  sequences: int = _count(
    20, 'times that it is done, each with others', least=2
  )
  learning_steps: int = _count(20, 'of Adam at an arrival')
  learning_rate: float = setting(
    1e-3, Positive(), 'of Adam at an arrival',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  cache_dir: str | None = setting(
    None, Place(), "compiled programs [default: the user's cache directory]",
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/incremental', Place(), 'where the results go',
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Trains if there is no run, lets classes arrive, and shows what is told."""
  if settings.classes % settings.classes_each:
    raise UsageError(
      'classes',
      f'is {settings.classes}, which arrivals of {settings.classes_each} do not'
      ' make; take a multiple of --classes_each',
    )
  workdir = Path(settings.workdir)
  path = _given(settings) if settings.run else workdir / 'trained'
  trained = _settings_of(path) if settings.run else _to_train(settings)
  _check_network('run' if settings.run else 'adapt', trained)
  _check_counts(settings, trained)  # before a run is trained, and a place taken
  runs.claim(workdir, settings)
  if not settings.run and not runs.is_done(path):
    tables.say(f'training in {path}')
    try:
      runs.start('experiments.text', trained, path, resume=True)
    except runs.FailedError as error:
      print(printable(str(error)), file=sys.stderr)
      return 1
  use_compilation_cache(settings.cache_dir)
  given = _settings_of(path)
  problem = text.make_problem(given, text.make_recipe(given))
  encoder, adapters = _network(settings, problem, path)
  sample = _sampler(settings, problem)
  begun = time.perf_counter()
  found = _measured(settings, encoder, adapters, sample)
  outcome = {
    'protocol': _protocol(settings, problem),
    'strategies': {name: _summary(own) for name, own in found.items()},
    'seconds': time.perf_counter() - begun,
    'not_kept': 'it compares strategies; the run that they start from has one',
  }
  write_json(workdir / RESULT, outcome)
  write_text(
    workdir / 'incremental.md', tables.markdown(table(settings, outcome))
  )
  _draw(settings, workdir, outcome)
  tables.show(table(settings, outcome))
  names = f'{RESULT}, incremental.md, incremental.png, report.html'
  tables.say(f'{workdir}: {names}')
  return 0


def _given(settings: Settings) -> Path:
  """The run that is named, by which texts and transformer are, too."""
  usual = Settings().given()
  for name, value in settings.given().items():
    shared = name in said(TextData) or name in said(Transformer)
    if (shared or name in ('steps', 'seed')) and value != usual[name]:
      raise UsageError(
        name, f'is {value}, but --run says what it was; leave one of them out'
      )
  path = Path(str(settings.run))
  if not (path / RECORD).exists() or not runs.is_done(path):
    raise UsageError(
      'run', f'{path} is no workdir of a run that has come to its end'
    )
  return path


def _to_train(settings: Settings) -> text.Settings:
  names = [*said(TextData), *said(Transformer), 'steps', 'seed', 'cache_dir']
  shared = {name: getattr(settings, name) for name in names}
  return text.Settings(algorithm=METHOD, **shared)


def _settings_of(path: Path) -> text.Settings:
  """What a run has trained on."""
  record = read_record(path / RECORD, 'run')
  if record.get('algorithm') != METHOD or 'max_tokens' not in record:
    raise UsageError(
      'run',
      f'{path} is no run of experiments.text with --algorithm={METHOD}, whose'
      ' features tell classes apart by their means',
    )
  check_one_seed(record, path, 'run')
  kept = settings_kept(record, text.Settings)
  return text.Settings(**kept, load=str(path), test_only=True)


def _check_network(flag: str, trained: text.Settings) -> None:
  """Refuses a transformer that there is not, or without room for adapters."""
  load_pretrained(trained.replace(dry_run='cpu'))  # its outline: no weights yet
  if uses_features(trained):
    raise UsageError(
      flag,
      f'{trained.load} has learned on fixed features (--adapt=head), without a'
      ' network that adapters could be learned in; name another run'
      if flag == 'run'
      else 'is head, which leaves nothing of the network to learn at an'
      ' arrival; take lora, or another',
    )


def _check_counts(settings: Settings, trained: text.Settings) -> None:
  """Refuses more classes, or examples of them, than the texts of test have."""
  read = data_sets.read(Wanted(trained, text.make_recipe(trained)))
  labels = read.splits.test.labels
  _drawn(settings, np.zeros((len(labels), 1), np.int32), labels)


def _network(
  settings: Settings, problem: Problem, path: Path
) -> tuple[Frozen, PyTree]:
  """Features of texts, and the adapters that a run has trained.

  Of a small transformer everything was; it then stays, beside new ones.
  """
  train_step = make_train_step(
    problem.meta_learner(),
    problem.algorithm.optimizer(problem.recipe),
    problem.train,
    tasks_per_step=problem.recipe.tasks_per_step,
  )
  learned = weights_of(problem, load_meta_params(problem, train_step, path))
  if isinstance(problem.model, Frozen):
    return problem.model, learned
  assert isinstance(problem.model, Model)
  encoder = on_weights(problem.model, learned, lora(settings.rank))
  sample: Any = problem.test
  tokens, _ = sample.args
  init = jax.jit(lambda encoder, key, inputs: encoder.made().init(key, inputs))
  return encoder, init(encoder, jax.random.key(0), tokens[:1])


def _sampler(settings: Settings, problem: Problem) -> Any:
  """Draws tasks of all classes that arrive; their numbers say when."""
  drawn: Any = problem.test
  tokens, places = drawn.args
  labels = np.repeat(-1, len(tokens))
  table, counts, _ = places.args
  for number, (row, count) in enumerate(zip(table, counts, strict=True)):
    labels[np.asarray(row)[: int(count)]] = number
  return _drawn(settings, tokens, labels)


def _drawn(settings: Settings, tokens: Any, labels: np.ndarray) -> Any:
  try:
    return tasks.episodes(
      tokens, labels, settings.classes, settings.shots, settings.queries
    )
  except ValueError as error:
    few = f'{settings.classes} ways' in str(error)
    raise UsageError(
      'classes' if few else 'queries', f'{error}; ask for fewer'
    ) from error


def _measured(
  settings: Settings, encoder: Frozen, adapters: PyTree, sample: Any
) -> dict[str, np.ndarray]:
  """Accuracies `[sequences, arrivals, arrivals]` of every strategy."""
  draw = jax.jit(lambda sample, key: sample(key))
  found: dict[str, list[np.ndarray]] = {name: [] for name in STRATEGIES}
  with shown('sequences of arrivals', at_once=True) as progress:
    for number in range(settings.sequences):
      key = jax.random.fold_in(jax.random.key(TEST_SEED), number)
      stream = sort_by_class(draw(sample, key), settings.classes_each)
      for place, (name, each) in enumerate(found.items(), 1):
        each.append(
          accuracies(
            name, encoder, adapters, stream,
            settings.learning_rate, settings.learning_steps,
          )
        )  # fmt: skip
        progress(number * len(found) + place, settings.sequences * len(found))
  return {name: np.stack(each) for name, each in found.items()}


def _summary(found: np.ndarray) -> dict[str, Any]:
  """Means over sequences, and halves of their 95% intervals."""
  seen = np.arange(1, found.shape[1] + 1)
  on_all = found.sum(-1) / seen
  forgotten = forgetting(found) if found.shape[1] > 1 else np.zeros(len(found))
  return {
    'accuracy': on_all.mean(0).tolist(),
    'ci95': of_few(on_all).tolist(),
    'forgetting': float(forgotten.mean()),
    'forgetting_ci95': float(of_few(forgotten)),
    'accuracy_by_arrival': found.mean(0).tolist(),
  }


def _protocol(settings: Settings, problem: Problem) -> dict[str, Any]:
  names = ('classes', 'classes_each', 'shots', 'queries', 'sequences')
  return {
    **{name: problem.protocol[name] for name in ('dataset', 'split', 'tokens')},
    **{name: getattr(settings, name) for name in names},
    'learning_steps': settings.learning_steps,
    'learning_rate': settings.learning_rate,
    'test_seed': TEST_SEED,
  }


def _numbers(settings: Settings) -> range:
  """How many classes have come, after every arrival."""
  each = settings.classes_each
  return range(each, settings.classes + 1, each)


def table(settings: Settings, outcome: dict[str, Any]) -> list[list[str]]:
  """The header, and a line for every strategy."""
  return [
    [
      'strategy',
      *(f'{number} classes %' for number in _numbers(settings)),
      'forgetting %',
    ],
    *(
      [
        name,
        *map(ACCURACY.format_interval, own['accuracy'], own['ci95']),
        ACCURACY.format_interval(own['forgetting'], own['forgetting_ci95']),
      ]
      for name, own in outcome['strategies'].items()
    ),
  ]


def _draw(settings: Settings, workdir: Path, outcome: dict[str, Any]) -> None:
  title = (
    f'{outcome["protocol"]["dataset"]}, {settings.classes_each} classes at a'
    f' time, {settings.shots} examples each, {settings.sequences} sequences'
  )
  by_classes(
    workdir / 'incremental.png',
    list(_numbers(settings)),
    {
      name: list(zip(own['accuracy'], own['ci95'], strict=True))
      for name, own in outcome['strategies'].items()
    },
    title,
  )
  of_texts.arrivals(
    workdir,
    settings,
    title,
    _numbers(settings),
    outcome['strategies'],
    table(settings, outcome),
  )


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
