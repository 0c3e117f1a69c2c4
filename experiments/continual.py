"""Classes that come one after another, each example once, in one stream.

  python -m experiments.continual

generates handwriting and lets 100 signs come that were not trained on: 15
examples of one, one at a time, then of the next. After 10, 50 and 100 classes
all that have come are to be told apart, by other examples of them. Methods:

  oml         a head learned online on features that OML has learned for it
  anml        the same, with a network that gates features
  la_maml     everything learns, by rates that are learned as it comes
  ftml        follow the meta-leader: meta-training on all that has come
  replay      everything learns, with ten kept examples beside each new one
  means       the mean of each class, of features that were pretrained
  linear      a head learned online on these features
  everything  a step of everything at every example
  pixels      the mean of each class of the inputs themselves

Of Omniglot, with 600 classes in sequence, and of texts:

  python -m experiments.continual --protocol=omniglot --data_dir=DIR
  python -m experiments.continual --protocol=text --dataset=clinc150
      --data_dir=DIR

The workdir receives `result.json`, `continual.md`, `continual.png` and
`report.html`, and what was learned before the stream in `learned`; the same
command goes on where it was stopped. docs/guides/continual.md has the protocol.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.continual import (
  Examples,
  Part,
  StreamData,
  load,
  names_of,
  order_of,
)
from experiments.figures.continual import by_number
from experiments.reports import of_texts
from experiments.runner import flags, runs, tables
from experiments.runner.cache import use_compilation_cache
from experiments.runner.errors import UsageError
from experiments.runner.intervals import of_few
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.records import RESULT
from experiments.runner.settings import (
  Listed,
  OneOf,
  Positive,
  Text,
  Whole,
  setting,
  settings,
)
from experiments.runner.stream_drift import drift, lines
from experiments.runner.stream_learners import METHODS
from experiments.runner.stream_records import read_found, write_found
from experiments.runner.stream_training import (
  before_stream,
  check,
  check_moves,
  wanted,
)
from experiments.runner.streams import (
  Course,
  Found,
  Known,
  embedding,
)
from experiments.runner.workdir import write_json, write_text
from metajax.base import Model
from metajax.metric import ACCURACY

__all__ = ['Settings', 'run', 'table']

NUMBERS = (10, 50, 75, 100, 150, 200, 400, 600)
# What a user of the public OML code measured of its released model.
PUBLIC = {10: 0.847, 50: 0.668, 75: 0.586, 100: 0.525, 150: 0.444, 200: 0.364}
_VALIDATION_SEED = 1_000_000


class _Methods(Listed):
  member = OneOf(list(METHODS))
  allowed = f'a list of {", ".join(METHODS)}'


def _count(
  default: int, text: str, of: Any = 'training', least: int = 1
) -> Any:
  return setting(
    default, Whole(least), text, of=of, resume=False, forwarded=False
  )


@settings
class Settings(StreamData):
  """What comes, what was learned before, and which methods meet it."""

  methods: tuple[str, ...] = setting(
    tuple(METHODS), _Methods(), 'that meet the stream',
    of='test', resume=True, forwarded=False,
  )  # fmt: skip
  shots: int = _count(15, 'examples of a class in the stream', 'test')
  queries: int = _count(5, 'of a class, to judge by', 'test')
  repetitions: int = _count(
    10, 'streams, each in another order', 'test', least=2
  )
  memory: int = _count(500, 'examples that replay and la_maml keep', 'test')
  steps: int = _count(400, 'outer steps of oml and of anml')
  pretraining_steps: int = _count(
    300, 'steps of the features of the others, as a ProtoNet'
  )
  start: str = setting(
    'random', OneOf(['random', 'pretrained']),
    'where oml and anml start, before their steps',
    of='training', resume=False, forwarded=False,
  )  # fmt: skip
  stream_classes: int = _count(5, 'classes of a stream of oml and anml')
  stream_shots: int = _count(10, 'examples of each')
  remembered: int = _count(64, 'of all classes among their queries')
  inner_lr: float = setting(
    0.03, Positive(), 'rate of the inner steps of oml and anml',
    of='training', resume=False, forwarded=False,
  )  # fmt: skip
  outer_lr: float = setting(
    1e-3, Positive(), 'of Adam; it falls to 0 by a cosine',
    of='training', resume=False, forwarded=False,
  )  # fmt: skip
  moves: str = setting(
    '.', Text(), 'regular expression of the parameters that the outer step of'
    ' oml and anml moves; ^params/ leaves out the start of the head',
    of='training', resume=False, forwarded=False,
  )  # fmt: skip
  width: int = _count(32, 'of the network', 'method')
  seed: int = _count(0, 'of what is learned before', 'training', 0)
  cache_dir: str | None = setting(
    None, Place(), "compiled programs [default: the user's cache directory]",
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/continual', Place(), 'where the results go',
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Learns what comes before, lets classes come, and shows what is told."""
  if not settings.methods:
    raise UsageError('methods', f'is empty; name some of {", ".join(METHODS)}')
  twice = [x for x in METHODS if settings.methods.count(x) > 1]
  if twice:
    raise UsageError('methods', f'names {twice[0]} twice; name it once')
  check_moves(settings)  # before what takes long
  names = names_of(settings)
  examples = load(settings, settings.shots, settings.queries)
  order = order_of(settings, names, examples.test)
  number = _number(settings, examples, order)
  model = embedding(_shape(examples.train.inputs), settings.width)
  check(model, examples.train.inputs, settings, wanted(settings))
  workdir = Path(settings.workdir)
  runs.claim(workdir, settings, 'stream')
  use_compilation_cache(settings.cache_dir)
  numbers = [each for each in NUMBERS if each < number] + [number]
  with runs.alone(workdir):
    return _come(settings, model, examples, order, numbers, workdir)


def _come(
  settings: Settings,
  model: Model,
  examples: Examples,
  order: np.ndarray | None,
  numbers: list[int],
  workdir: Path,
) -> int:
  """Lets classes come, shows what is told, and returns the exit code."""
  known, seconds = before_stream(
    settings, model, examples.train.inputs, examples.validation.inputs, workdir
  )
  began = time.perf_counter()
  found = {
    name: _measured(settings, name, known, examples, order, numbers, workdir)
    for name in settings.methods
  }
  outcome: dict[str, Any] = {
    'protocol': _protocol(settings, examples, numbers),
    'methods': found,
    'drift': _drift(settings, known, examples),
    'training_seconds': seconds,
    'not_kept': 'it compares methods on one stream, and has no support sets',
    'seconds': time.perf_counter() - began,
  }
  write_json(workdir / RESULT, outcome)
  write_text(workdir / 'continual.md', tables.markdown(table(outcome), names=2))
  _draw(settings, workdir, outcome)
  tables.show(table(outcome), names=2)
  if outcome['drift'] is not None:
    tables.say(lines(outcome['drift']))
  names = f'{RESULT}, continual.md, continual.png, report.html'
  tables.say(f'{workdir}: {names}')
  skipped = sum(each['skipped'] for each in seconds.values())
  if skipped:
    print(
      f'{skipped} outer steps were not finite, and skipped; lower --outer_lr'
      ' or --inner_lr',
      file=sys.stderr,
    )
  return 1 if skipped else 0


def _number(
  settings: Settings, examples: Examples, order: np.ndarray | None
) -> int:
  """How many classes come."""
  if order is not None:
    return len(order)
  usual = 600 if settings.protocol == 'omniglot' else 100
  return settings.classes or min(usual, len(examples.test.names))


def _shape(inputs: np.ndarray) -> tuple[int, ...]:
  return inputs.shape[2:]


def _course(
  settings: Settings,
  part: Part,
  numbers: list[int],
  seed: int,
  order: np.ndarray | None = None,
) -> Course:
  """A stream of some classes, in an order by seed."""
  generator = np.random.default_rng([0x57AE, seed])
  classes = generator.permutation(len(part.names))[: numbers[-1]]
  if order is not None:
    classes = order
  each = np.stack(
    [generator.permutation(part.inputs.shape[1]) for _ in classes]
  )
  taken = each[:, : settings.shots + settings.queries]
  inputs = part.inputs[classes[:, None], taken]
  stream, queries = np.split(inputs, [settings.shots], axis=1)
  room = min(settings.memory, len(classes) * settings.shots)
  return Course(stream, queries, numbers, seed, room)


def _measured(
  settings: Settings,
  name: str,
  known: Known,
  examples: Examples,
  order: np.ndarray | None,
  numbers: list[int],
  workdir: Path,
) -> dict[str, Any]:
  """Accuracies of a method over all repetitions, by number of classes."""
  path = workdir / 'met' / f'{name}.json'
  if path.exists():
    return read_found(path, len(numbers))
  method = METHODS[name]
  began = time.perf_counter()
  rate = _chosen(settings, name, known, examples.validation, numbers)
  found = list[Found]()
  with shown(f'{name}: streams') as progress:
    for seed in range(settings.repetitions):
      course = _course(settings, examples.test, numbers, seed, order)
      found.append(method.run(known, course, rate))
      progress(seed + 1, settings.repetitions)
  on_queries = np.stack([each.on_queries for each in found])
  on_stream = np.stack([each.on_stream for each in found])
  outcome = {
    'accuracy': on_queries.mean(0).tolist(),
    'ci95': of_few(on_queries).tolist(),
    'on_stream': on_stream.mean(0).tolist(),
    'rate': rate if method.rates else None,
    'keeps': method.keeps,
    'seconds': time.perf_counter() - began,
  }
  return write_found(path, outcome)


def _drift(
  settings: Settings, known: Known, examples: Examples
) -> dict[str, Any] | None:
  """An alarm on the features that were pretrained; None: there are none."""
  if 'pretrained' not in known.params:
    return None

  def course(part: Part, first: int, seed: int) -> Course:
    number = min(len(part.names), 40)
    return _course(settings, part, [number], first + seed)

  return drift(
    known,
    partial(course, examples.validation, _VALIDATION_SEED + 1),
    partial(course, examples.test, 0),
    settings.repetitions,
  )


def _chosen(
  settings: Settings,
  name: str,
  known: Known,
  validation: Part,
  numbers: list[int],
) -> float:
  """The rate that is best on a stream of classes of validation."""
  method = METHODS[name]
  if len(method.rates) < 2:
    return method.rates[0] if method.rates else 0.0
  there = len(validation.names)
  at = [each for each in numbers if each < there] + [min(there, numbers[-1])]
  course = _course(settings, validation, at, _VALIDATION_SEED)
  with shown(f'{name}: choosing a rate') as progress:
    scores = []
    for rate in method.rates:
      scores.append(float(method.run(known, course, rate).on_queries[-1]))
      progress(len(scores), len(method.rates))
  return method.rates[int(np.argmax(scores))]


def _protocol(
  settings: Settings, examples: Examples, numbers: list[int]
) -> dict[str, Any]:
  names = ('protocol', 'shots', 'queries', 'repetitions', 'memory', 'start')
  return {
    **{name: getattr(settings, name) for name in names},
    **examples.said,
    'classes': numbers,
    'train_classes': len(examples.train.names),
    'order': settings.order or 'another in each repetition',
    'steps_per_example': 1,
    'batch_size': 1,
    'head': 'zeros, an output for every class that will come, all of which'
    ' count',
    'rates': 'the best of a grid on a stream of the classes of validation',
    'public': PUBLIC if settings.protocol == 'omniglot' else None,
  }


def table(outcome: dict[str, Any]) -> list[list[str]]:
  """The header, and a line for every method."""
  numbers = outcome['protocol']['classes']
  return [
    [
      'method',
      'keeps',
      *(f'{number} classes %' for number in numbers),
      'on the stream %',
      'rate',
      's',
    ],
    *(
      [
        name,
        own['keeps'],
        *map(ACCURACY.format_interval, own['accuracy'], own['ci95']),
        ACCURACY.format(own['on_stream'][-1]),
        '' if own['rate'] is None else f'{own["rate"]:g}',
        f'{own["seconds"]:.0f}',
      ]
      for name, own in outcome['methods'].items()
    ),
  ]


def _draw(settings: Settings, workdir: Path, outcome: dict[str, Any]) -> None:
  protocol = outcome['protocol']
  numbers = protocol['classes']
  title = (
    f'{protocol["data"]}: classes in sequence, {settings.shots} examples each,'
    f' one at a time, {settings.repetitions} orders'
  )
  by_number(
    workdir / 'continual.png',
    numbers,
    {
      name: list(zip(own['accuracy'], own['ci95'], strict=True))
      for name, own in outcome['methods'].items()
    },
    title,
    protocol['public'],
  )
  of_texts.arrivals(
    workdir, settings, title, numbers, outcome['methods'], table(outcome)
  )


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
