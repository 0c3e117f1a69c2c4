"""Streams of classes: what comes, in which order, and what was learned before.

`StreamData` are the settings; `load` makes arrays of all classes of training,
of validation and of test, with as many examples of one class as of another.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data import text as texts
from experiments.data.samplers import Wanted, blaming
from experiments.runner.cache import cache_dir
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.settings import Base, OneOf, Whole, setting, settings
from metajax import tasks
from metajax.algorithms.recipe import Recipe
from metajax.tasks import omniglot
from metajax.tasks.names import normal_name
from metajax.tasks.strokes import class_key, draw_class, render

__all__ = [
  'PROTOCOLS', 'Examples', 'Part', 'StreamData', 'load', 'names_of', 'order_of',
]  # fmt: skip

_EACH = 20  # examples of a class, as Omniglot has them
_TRAIN, _VALIDATION = 200, 60  # classes of signs that are generated
_OMNIGLOT_VALIDATION = 100  # of the 964 of the background set
_WORDS = 2048  # of a bag of words, the most frequent ones


class Part(NamedTuple):
  """Examples by class."""

  inputs: np.ndarray  # [classes, examples, ...], uint8 images or numbers
  names: tuple[str, ...]


class Examples(NamedTuple):
  """What there is of a protocol."""

  train: Part
  validation: Part
  test: Part
  said: dict[str, Any]  # for the protocol


@settings
class StreamData(Base):
  """What comes, and in which order."""

  protocol: str = setting(
    'stream', OneOf(['stream', 'omniglot', 'text']),
    'stream: generated handwriting; omniglot: trained on the background set,'
    ' tested on the evaluation set of --data_dir; text: bags of words of'
    ' --dataset',
    of='tasks', resume=False, forwarded=False,
  )  # fmt: skip
  dataset: str = setting(
    'phrases', OneOf(['phrases', 'clinc150', 'banking77']),
    'of --protocol=text; phrases are generated',
    of='tasks', resume=False, forwarded=False,
  )  # fmt: skip
  data_dir: str | None = setting(
    None, Place(), 'tensorflow-datasets directory with omniglot, or folder of'
    ' clinc150 or banking77',
    of='data', resume=True, forwarded=False,
  )  # fmt: skip
  classes: int | None = setting(
    None, Whole(2), 'test classes that come in all [default: 100, or all if'
    ' there are fewer; 600 of omniglot]',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  order: str | None = setting(
    None, Place(), 'file with the names of test classes in the order in which'
    ' they come, one a line [default: another order for each repetition]',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip


def load(given: Any, shots: int, queries: int) -> Examples:
  """All examples of a protocol.

  Args:
    given: `StreamData`, and `cache_dir`.
    shots: examples of a class in the stream.
    queries: that are kept apart to judge by.

  Raises:
    UsageError: if the data are missing, or have too few classes or examples.
  """
  if given.protocol != 'text' and given.dataset != 'phrases':
    raise UsageError(
      'dataset',
      f'is {given.dataset}, but has a meaning for --protocol=text alone',
    )
  if given.protocol == 'stream' and given.data_dir is not None:
    raise UsageError(
      'data_dir', 'has no meaning for --protocol=stream, which is generated'
    )
  examples = PROTOCOLS[given.protocol](given, shots + queries)
  there = len(examples.test.names)
  wanted = given.classes or min(_usual(given), there)
  if wanted > there:
    raise UsageError(
      'classes', f'is {wanted}, but there are {there} test classes; ask for'
      ' fewer'
    )  # fmt: skip
  for part in examples[:3]:
    each = part.inputs.shape[1]
    if shots + queries > each:
      raise UsageError(
        'shots', f'is {shots}, with {queries} queries, but there are {each}'
        ' examples of a class; ask for fewer'
      )  # fmt: skip
  return examples


def _usual(given: Any) -> int:
  return 600 if given.protocol == 'omniglot' else 100


def names_of(given: Any) -> list[str] | None:
  """The names in the file of an order; None: there is none.

  Raises:
    UsageError: if it cannot be read, or has fewer than two.
  """
  if given.order is None:
    return None
  path = Path(given.order)
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except FileNotFoundError as error:
    raise UsageError('order', f'{path}: there is no such file') from error
  except OSError as error:
    raise UsageError('order', f'{path}: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UsageError(
      'order', f'{path} is no text in UTF-8; give names, one a line'
    ) from error
  names = [normal_name(line) for line in lines if line.strip()]
  if len(names) < 2:
    raise UsageError(
      'order', f'{path} names {len(names)} classes; a stream has two or more'
    )
  return names


def order_of(
  given: Any, names: list[str] | None, part: Part
) -> np.ndarray | None:
  """Places of the classes in the order that a file has; None: there is none.

  Raises:
    UsageError: if one of its `names_of` is no class of test, or came before, or
      if there are other than as many as are asked for.
  """
  if names is None:
    return None
  path = Path(given.order)
  places = {name: place for place, name in enumerate(part.names)}
  seen = set[str]()
  for name in names:
    if name not in places:
      raise UsageError(
        'order', f'{path}: there is no test class {name!r}; names are such as'
        f' {part.names[0]!r}, one a line'
      )  # fmt: skip
    if name in seen:
      raise UsageError('order', f'{path} has {name!r} twice; name it once')
    seen.add(name)
  if given.classes and given.classes != len(names):
    raise UsageError(
      'classes', f'is {given.classes}, but {path} has {len(names)}; leave one'
      ' of them out'
    )  # fmt: skip
  return np.asarray([places[name] for name in names])


# Protocols.


def _stream(given: Any, each: int) -> Examples:
  """Signs of the three splits of `metajax.tasks.strokes`."""
  each = max(each, _EACH)

  @jax.jit
  def draw(key: jax.Array) -> jax.Array:
    program = draw_class(key)
    hands = jax.random.split(jax.random.fold_in(key, 1), each)
    images = jax.vmap(render, in_axes=(0, None))(hands, program)
    return (255 * images).round().astype('uint8')

  sizes = {
    'train': _TRAIN,
    'validation': _VALIDATION,
    'test': given.classes or 100,
  }
  with shown('drawing signs') as progress:
    parts = list[Part]()
    for split, number in sizes.items():
      found = []
      for index in range(number):
        found.append(np.asarray(draw(class_key(split, index))))
        progress(len(parts) * number + index + 1, 3 * number)
      names = tuple(f'{split}/{index:04d}' for index in range(number))
      parts.append(Part(np.stack(found), names))
  train, validation, test = parts
  said = {'data': 'stroke programs', 'split': 'disjoint by seed'}
  return Examples(train, validation, test, said)


def _omniglot(given: Any, each: int) -> Examples:
  """Trained on the background set, tested on the evaluation set."""
  del each  # there are 20
  if given.data_dir is None:
    raise UsageError(
      'data_dir', 'omniglot needs the tensorflow-datasets directory that holds'
      ' it'
    )  # fmt: skip
  parts = []
  with blaming('data_dir'), shown('reading Omniglot') as progress:
    for split in ('train', 'test'):
      data = omniglot.load(
        given.data_dir,
        cache_dir(given.cache_dir),
        splits=[split],
        progress=progress,
      )
      parts.append(_by_class(data.images, data.labels, data.names, _EACH))
  background, evaluation = parts
  # Ranked by digest, since permutations of NumPy may change.
  rank = np.argsort(
    [
      hashlib.sha256(f'continual/{name}'.encode()).hexdigest()
      for name in background.names
    ]
  )
  validation, train = np.split(rank, [_OMNIGLOT_VALIDATION])
  said = {
    'data': 'Omniglot, 28 x 28 pixels',
    'split': f'background set: {len(train)} classes of training and'
    f' {len(validation)} of validation; evaluation set: test',
  }
  return Examples(
    _some(background, train), _some(background, validation), evaluation, said
  )


def _text(given: Any, each: int) -> Examples:
  """Bags of words, of length 1."""
  data = texts.TextData(dataset=given.dataset, data_dir=given.data_dir)
  splits = texts.read(Wanted(data, Recipe())).splits
  tokenize = tasks.word_tokenizer(splits.train.texts)
  trained, _ = tokenize(splits.train.texts.tolist(), None)
  counts = np.bincount(trained[trained >= 0])
  words = np.argsort(-counts, kind='stable')[:_WORDS]
  place = np.full(counts.size + 1, -1)
  place[words] = np.arange(len(words))
  parts = list[Part]()
  for part in splits:
    tokens, _ = tokenize(part.texts.tolist(), None)
    bags = np.zeros((len(tokens), len(words)), np.float32)
    known = np.where((tokens >= 0) & (tokens < counts.size), tokens, -1)
    columns = place[known]
    rows = np.broadcast_to(np.arange(len(tokens))[:, None], tokens.shape)
    np.add.at(bags, (rows[columns >= 0], columns[columns >= 0]), 1.0)
    norm = np.linalg.norm(bags, axis=1, keepdims=True)
    parts.append(
      _by_class(bags / np.maximum(norm, 1), part.labels, part.names, each)
    )
  said = {
    'data': f'{given.dataset}, bags of the {len(words)} most frequent words of'
    ' training',
    'split': 'intents of training, validation and test',
  }
  train, validation, test = parts
  return Examples(train, validation, test, said)


PROTOCOLS = {'stream': _stream, 'omniglot': _omniglot, 'text': _text}


def _by_class(
  inputs: np.ndarray, labels: np.ndarray, names: tuple[str, ...], each: int
) -> Part:
  """As many of each class as the smallest has, and at most some."""
  if inputs.dtype == np.uint8 and inputs.ndim == 3:
    inputs = inputs[..., None]  # images of one channel
  counts = np.bincount(labels, minlength=len(names))
  number = int(min(counts.min(), max(each, _EACH)))
  rows = [np.flatnonzero(labels == label)[:number]
          for label in range(len(names))]  # fmt: skip
  return Part(inputs[np.stack(rows)], tuple(names))


def _some(part: Part, places: np.ndarray) -> Part:
  return Part(part.inputs[places], tuple(part.names[i] for i in places))
