"""Texts of a wanted and of a blocked task: whose they are, and for what.

The texts of every class are divided: some for whoever trains the model, some
for an adversary, and some to choose by and to test on.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import text
from experiments.data.samplers import Wanted
from experiments.runner.data_digest import Digests, digests
from experiments.runner.errors import UsageError, shown
from metajax import tasks
from metajax.base import Batch, Task
from metajax.equality import EqualPartial
from metajax.tasks.names import normal_name
from metajax.tasks.splits import rank
from metajax.wrappers.self_destruct import Contest

__all__ = ['SHARES', 'Divided', 'Parts', 'contests', 'load', 'pairs']

# Of the texts of a class: for training, the adversary, validation and test.
SHARES = (0.4, 0.2, 0.2, 0.2)
_FEWEST = 5  # of a class, so that each part has one

# What is wanted and what is blocked, unless settings say it.
_USUAL = {
  # Neither what is to be done nor to what is the same in both.
  'phrases': (
    '(home|bank|travel)/(raise|lower|start|stop|find|buy|sell|repair|clean'
    '|move)-',
    '(work|media|road)/(lend|check|cancel|rename|lock|open|copy|delete'
    '|describe|compare)-',
  ),
  'clinc150': ('(banking|credit_cards)/', '(travel|auto_and_commute)/'),
}


class Parts(NamedTuple):
  """Examples of some classes, which are numbered from 0."""

  train: Batch  # inputs int32 [examples, length], targets int32 [examples]
  adversary: Batch  # the first n of these have classes as equal as can be
  validation: Batch
  test: Batch


class Divided(NamedTuple):
  """All that there is, by what it is for."""

  everything: Parts
  wanted: Parts
  blocked: Parts
  names: tuple[str, ...]  # of all classes
  places: np.ndarray  # those of the wanted classes among all
  vocabulary: int
  protocol: dict[str, Any]
  digests: Digests | None


def load(wanted: Wanted, tokenize: text.Tokenize | None) -> Divided:
  """Loads texts, and divides them; misuse is a UsageError."""
  given = wanted.settings
  loaded = text.read(wanted)
  names = tuple(name for part in loaded.splits for name in part.names)
  chosen = _chosen(given, names)
  texts = np.concatenate([part.texts for part in loaded.splits])
  starts = np.cumsum([0, *(len(part.names) for part in loaded.splits)])
  labels = np.concatenate(
    [part.labels + at for part, at in zip(loaded.splits, starts, strict=False)]
  )
  held = _divide(texts, labels, names)
  trained = texts[np.concatenate([pieces[0] for pieces in held])]
  if tokenize is None:
    drawn = tasks.phrase_tokenizer
    tokenize = drawn() if loaded.drawn else tasks.word_tokenizer(trained)
  tokens, truncated = text.make_tokens(given, tokenize, texts, trained)
  everything, ours, theirs = (
    _parts(tokens, held, classes)
    for classes in (np.arange(len(names)), *chosen)
  )
  most = max(map(int, given.examples))
  there = len(theirs.adversary.targets)
  if most > there:
    raise UsageError(
      'examples',
      f'of {most} are more than the {there} texts of the blocked classes that'
      ' an adversary has; ask for fewer, or block more classes',
    )
  return Divided(
    everything,
    ours,
    theirs,
    names=names,
    places=chosen[0],
    vocabulary=getattr(tokenize, 'vocabulary', 0),
    protocol={
      'wanted': f'{len(chosen[0])} classes',
      'blocked': f'{len(chosen[1])} classes',
      'texts_of_a_class': 'for training, adversary, validation, test: '
      + ', '.join(f'{share:.0%}' for share in SHARES),
      'tokens': f'{tokens.shape[1]} a text, {truncated} of {len(texts)} texts'
      ' cut off',
      **text.duplicates(loaded.splits),
    },
    digests=None if loaded.drawn else digests(loaded.splits),
  )


def _chosen(
  given: Any, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """The places of wanted and of blocked classes."""
  usual = _USUAL.get(given.dataset, (None, None))
  found = {}
  for flag, default in zip(('wanted', 'blocked'), usual, strict=True):
    pattern = getattr(given, flag) or default
    if pattern is None:
      raise UsageError(
        flag,
        f'--dataset={given.dataset} needs a pattern of class names, such as'
        f' {re.escape(names[0])}; the classes are {", ".join(names[:4])}, ...',
      )
    try:
      at = [
        place for place, name in enumerate(names) if re.search(pattern, name)
      ]
    except re.error as error:
      raise UsageError(flag, f'is no regular expression ({error})') from error
    found[flag] = at
    if len(at) < 2:
      raise UsageError(
        flag,
        f'{shown(pattern)} matches {len(at)} classes, and a task needs 2; the'
        f' classes are {", ".join(names[:4])}, ...',
      )
  if both := set(found['wanted']) & set(found['blocked']):
    raise UsageError(
      'blocked', f'matches {names[min(both)]}, which is wanted; choose others'
    )
  number = given.blocked_classes
  if number > len(found['blocked']):
    raise UsageError(
      'blocked_classes',
      f'is {number}, and --blocked matches {len(found["blocked"])}; ask for'
      ' fewer',
    )
  ordered = sorted(
    found['blocked'], key=lambda at: rank(given.split_seed, names[at])
  )
  return np.array(found['wanted']), np.array(sorted(ordered[:number]))


def _divide(
  texts: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> list[Any]:
  """The places of the texts of each class, by what they are for.

  A text that a class has more than once is there once, for one purpose.
  """
  luck = np.random.default_rng(0)
  held = []
  for each, name in enumerate(names):
    places = np.flatnonzero(labels == each)
    plain = [normal_name(text) for text in texts[places]]
    _, first = np.unique(plain, return_index=True)
    own = luck.permutation(places[np.sort(first)])
    if len(own) < _FEWEST:
      raise UsageError(
        'dataset',
        f'class {name} has {len(own)} different texts, and needs {_FEWEST};'
        ' leave it out, or add some',
      )
    bounds = np.round(np.cumsum(SHARES)[:-1] * len(own)).astype(int)
    held.append(np.split(own, bounds))
  return held


def _parts(tokens: np.ndarray, held: list[Any], classes: np.ndarray) -> Parts:
  """The examples of some classes."""

  def batch(part: int) -> Batch:
    pieces = [held[each][part] for each in classes]
    # One of each class, then another one of each, and so on.
    turns = [
      (piece[turn], number)
      for turn in range(max(map(len, pieces)))
      for number, piece in enumerate(pieces)
      if turn < len(piece)
    ]
    at, numbers = np.array(turns).T
    return Batch(jnp.asarray(tokens[at]), jnp.asarray(numbers, jnp.int32))

  return Parts(*map(batch, range(len(SHARES))))


def pairs(batch: Batch, size: int) -> jax.tree_util.Partial:
  """Draws batches of examples, as a task without anything to adapt to."""
  return jax.tree_util.Partial(EqualPartial(_pairs, size), batch)


def _pairs(size: int, batch: Batch, key: jax.Array) -> Task:
  at = jax.random.randint(key, (size,), 0, len(batch.targets))
  drawn = jax.tree.map(lambda leaf: leaf[at], batch)
  return Task(drawn, drawn)


def contests(
  divided: Divided, support: int, queries: int
) -> jax.tree_util.Partial:
  """Draws tasks of `self_destruct`, from what is for training.

  Args:
    divided: the texts.
    support: examples of an adversary.
    queries: others of the blocked task, on which it is judged, and as many of
      the wanted one.
  """
  return jax.tree_util.Partial(
    EqualPartial(_contest, support, queries),
    divided.blocked.train,
    divided.wanted.train,
  )


def _contest(
  support: int,
  queries: int,
  blocked_pool: Batch,
  wanted_pool: Batch,
  key: jax.Array,
) -> Task:
  one, other = jax.random.split(key)
  places = jax.random.permutation(one, len(blocked_pool.targets))
  held, judged = jnp.split(places[: support + queries], [support])
  at = jax.random.randint(other, (queries,), 0, len(wanted_pool.targets))
  theirs = jax.tree.map(lambda leaf: leaf[held], blocked_pool)
  blocked = jax.tree.map(lambda leaf: leaf[judged], blocked_pool)
  ours = jax.tree.map(lambda leaf: leaf[at], wanted_pool)
  return Task(
    theirs,
    Batch(
      Contest(blocked.inputs, ours.inputs),
      Contest(blocked.targets, ours.targets),
    ),
  )
