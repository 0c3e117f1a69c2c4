"""Phrases: a small generated language of requests, for texts without a file.

A class is an intent: something to do (`raise`) and what to do it to (`heater`).
An example is somebody's way to say so: one of several words for each, in one of
several forms, with courtesies and times around it, and with a clause about
something else that is not asked for. So the words alone say little of the
class, and what means the same, and what is beside the point, can be learned
from other classes: those of test are made of the same words, put together
otherwise.

Texts are a pure function of their seed, by Python's `random.Random.random`,
which gives the same numbers in every version.
"""

import random
from functools import cache
from typing import NamedTuple

import numpy as np

from metajax.tasks.splits import rank
from metajax.tasks.strokes import SPLITS
from metajax.tasks.text import Texts
from metajax.tasks.words import WordTokenizer, word_tokenizer

__all__ = ['LENGTH', 'Phrases', 'phrase_classes', 'phrase_tokenizer', 'phrases']

LENGTH = 32  # of all tokens; no phrase is longer

# What can be done: ways to say it, of which the first is its name.
_ACTIONS = tuple(
  tuple(ways.split(', '))
  for ways in (
    'raise, increase, boost, push up',
    'lower, reduce, shrink, bring down',
    'start, launch, begin, fire up',
    'stop, halt, end, shut down',
    'find, locate, search for, track down',
    'buy, purchase, order, get me',
    'sell, trade in, auction, get rid of',
    'repair, fix, mend, patch',
    'clean, wash, scrub, wipe',
    'move, shift, carry over, transfer',
    'lend, loan, share, hand out',
    'check, inspect, examine, look over',
    'cancel, revoke, drop, call off',
    'rename, relabel, retitle, call differently',
    'lock, secure, seal, bolt',
    'open, unlock, unseal, let me into',
    'copy, duplicate, clone, reproduce',
    'delete, erase, remove, throw away',
    'describe, explain, outline, tell me about',
    'compare, rate, judge, weigh up',
  )
)
# What it can be done to, by domain, in the same way.
_OBJECTS = {
  domain: tuple(tuple(names.split(', ')) for names in objects.split('; '))
  for domain, objects in (
    (
      'home',
      'heater, radiator, stove; lamp, light, lantern; curtain, blind, shade;'
      ' door, gate, entrance; carpet, rug, mat',
    ),
    (
      'bank',
      'account, deposit, balance; card, plastic, visa; loan, credit, mortgage;'
      ' bill, invoice, receipt; fee, charge, fine',
    ),
    (
      'travel',
      'flight, plane, airline; hotel, hostel, inn; ticket, pass, voucher;'
      ' luggage, baggage, suitcase; map, route, itinerary',
    ),
    (
      'work',
      'meeting, conference, call; report, summary, memo; task, chore, job;'
      ' team, crew, staff; contract, agreement, deal',
    ),
    (
      'media',
      'song, tune, melody; film, movie, picture; photo, snapshot, image; book,'
      ' novel, volume; message, mail, note',
    ),
    (
      'road',
      'car, vehicle, sedan; bicycle, bike, cycle; engine, motor, turbine; tyre,'
      ' wheel, rim; garage, carport, shed',
    ),
  )
}
_FORMS = (
  '{action} the {object}', '{action} my {object}', 'please {action} the'
  ' {object}', 'can you {action} my {object}', 'the {object} : {action} it',
  'i want to {action} the {object}', '{action} {object}', 'do {action} {object}'
  ' now', 'could anybody {action} the {object}',
)  # fmt: skip
# Clauses about what is not asked for, before or behind the request.
_BEFORE = (
  'i did {action} the {object} already , so', 'never {action} the {object} but',
  'once they {action} the {object} ,', 'instead of a plan to {action} the'
  ' {object} ,', '{person} can {action} a {object} later , but for now',
)  # fmt: skip
_BEHIND = (
  'and do not {action} the {object}', ', while {person} will {action} the'
  ' {object}', 'before others {action} my {object}', 'rather than {action} a'
  ' {object}', ', although i could {action} the {object}',
)  # fmt: skip
_OPENINGS = (
  'please', 'hello ,', 'hey', 'okay , now', 'would you kindly', 'listen ,',
  'good morning ,', 'one thing :', 'sorry ,', 'well ,', 'quick question :',
)  # fmt: skip
_CLOSINGS = (
  'for {person}', '{time}', '{time} for {person}', 'if possible', 'thanks',
  'as soon as you can', '{time} , thanks', '!', '?',
)  # fmt: skip
_PERSONS = (
  'anna', 'my brother', 'the neighbour', 'grandma', 'omar', 'my boss', 'lucy',
  'the guests', 'wei', 'my friend', 'the children', 'ravi',
)  # fmt: skip
_TIMES = (
  'today', 'tonight', 'on monday', 'next week', 'at noon', 'in an hour',
  'after lunch', 'this summer', 'on friday evening', 'right away', 'by sunday',
)  # fmt: skip

# Shares of phrases: those that speak of something else, and those without a
# courtesy, at each end.
_ASIDE, _PLAIN = 0.2, 0.8


class Phrases(NamedTuple):
  """Texts of the generated language, and their tokens."""

  texts: Texts
  tokens: np.ndarray  # int32 [examples, 32], -1 for padding


class _Intent(NamedTuple):
  action: tuple[str, ...]
  object: tuple[str, ...]


@cache
def _intents() -> dict[str, _Intent]:
  """All 600 by name, such as `home/raise-heater`."""
  return {
    f'{domain}/{action[0]}-{names[0]}': _Intent(action, names)
    for domain, objects in _OBJECTS.items()
    for names in objects
    for action in _ACTIONS
  }


def phrase_classes(split: str, seed: int = 0) -> tuple[str, ...]:
  """The classes of a split: 360 of training, and 120 of each of the others.

  Args:
    split: one of 'train', 'validation' and 'test', which share no class.
    seed: of the division.

  Returns:
    Their names, such as `home/raise-heater`, in a random order.

  Raises:
    ValueError: if there is no such split.

  Example:
    >>> len(phrase_classes('train')), len(phrase_classes('test'))
    (360, 120)
  """
  if split not in SPLITS:
    raise ValueError(f'split must be one of {", ".join(SPLITS)}; got {split!r}')
  ordered = sorted(_intents(), key=lambda name: rank(seed, name))
  bounds = (0, 360, 480, 600)
  place = SPLITS.index(split)
  return tuple(ordered[bounds[place] : bounds[place + 1]])


@cache
def phrase_tokenizer() -> WordTokenizer:
  """The tokenizer of the language: all words that there are.

  Example:
    >>> tokenize = phrase_tokenizer()
    >>> tokens, _ = tokenize(['Please raise the heater!'], max_tokens=6)
    >>> tokenize.decode(tokens[0])
    'please raise the heater !'
  """
  ways = [
    way for intent in _intents().values() for part in intent for way in part
  ]
  forms = [*_FORMS, *_BEFORE, *_BEHIND, *_OPENINGS, *_CLOSINGS]
  plain = [
    form.format(action='', object='', person='', time='') for form in forms
  ]
  # Each word once, so that all are in the order of the alphabet.
  return word_tokenizer(
    [' '.join(set(' '.join([*ways, *plain, *_PERSONS, *_TIMES]).split()))]
  )


def phrases(
  split: str = 'train',
  each: int = 40,
  num_classes: int | None = None,
  *,
  seed: int = 0,
) -> Phrases:
  """Phrases of classes of a split, all different within a class.

  Args:
    split: one of 'train', 'validation' and 'test', which share no class.
    each: phrases of a class.
    num_classes: the first so many of the split; all by default.
    seed: of the division of classes, and of their phrases.

  Returns:
    The texts class by class, and their tokens (`phrase_tokenizer`).

  Raises:
    ValueError: if there is no such split, if a count is not positive, if there
      are fewer classes, or for more than 10,000 phrases of a class.

  Example:
    >>> made = phrases('test', each=3, num_classes=2)
    >>> made.tokens.shape, made.texts.labels.tolist()
    ((6, 32), [0, 0, 0, 1, 1, 1])
  """
  names = phrase_classes(split, seed)
  number = len(names) if num_classes is None else num_classes
  if not 1 <= number <= len(names):
    raise ValueError(
      f'num_classes must be from 1 to {len(names)}, which split {split!r} has;'
      f' got {num_classes}'
    )
  if not 1 <= each <= 10_000:
    raise ValueError(f'each must be from 1 to 10000; got {each}')
  texts = [
    text for name in names[:number] for text in _phrases_of(name, each, seed)
  ]
  array = np.empty(len(texts), object)
  array[:] = texts
  tokens, _ = phrase_tokenizer()(texts, LENGTH)
  padding = ((0, 0), (0, LENGTH - tokens.shape[1]))
  return Phrases(
    Texts(array, np.repeat(np.arange(number, dtype=np.int32), each),
          names[:number]),
    np.pad(tokens, padding, constant_values=-1),
  )  # fmt: skip


def _phrases_of(name: str, each: int, seed: int) -> list[str]:
  """Different phrases of a class."""
  luck = random.Random(f'phrases {seed} {name}')
  made: dict[str, None] = {}
  while len(made) < each:
    made[_phrase(luck, _intents()[name])] = None
  return list(made)


def _phrase(luck: random.Random, intent: _Intent) -> str:
  def pick(choices: tuple[str, ...]) -> str:
    # Not `choice`, which may differ between versions of Python.
    return choices[int(luck.random() * len(choices))]

  def usual(ways: tuple[str, ...]) -> str:
    # The first way is the most common one.
    return ways[int(luck.random() ** 5 * len(ways))]

  def filled(form: str, about: _Intent) -> str:
    return form.format(
      action=usual(about.action), object=usual(about.object),
      person=pick(_PERSONS), time=pick(_TIMES),
    )  # fmt: skip

  parts = [filled(pick(_FORMS), intent)]
  if luck.random() < _ASIDE:
    other = _intents()[pick(tuple(_intents()))]
    if luck.random() < 0.5:
      parts.insert(0, filled(pick(_BEFORE), other))
    else:
      parts.insert(1, filled(pick(_BEHIND), other))
  if luck.random() > _PLAIN:
    parts.insert(0, pick(_OPENINGS))
  if luck.random() > _PLAIN:
    parts.append(filled(pick(_CLOSINGS), intent))
  return ' '.join(parts)
