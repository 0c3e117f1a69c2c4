"""What a sweep searches: `name=log:a:b`, `name=a:b` and `name=x|y|z`."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.recipes.overrides import assigned_kinds
from experiments.runner.common import Common
from experiments.runner.errors import UsageError, shown
from experiments.runner.settings import Finite, Kind, OneOf, Whole, YesNo, said
from metajax.algorithms.table import ALGORITHMS

__all__ = ['FIXED', 'Searched', 'as_settings', 'parse']

# Settings of method and training that a search cannot change: what a run is
# made of beside its numbers, how long it is, and what it is judged on.
FIXED = frozenset({
  'plugin', 'set', 'seed', 'seeds', 'load', 'load_seed', 'load_share',
  'other_data', 'test_only', 'steps', 'teacher', 'checkpoint_every',
  'distil_weight', 'distil_temperature', 'evaluation', 'min_ways', 'min_shots',
})  # fmt: skip
# Those of them that a sweep has a use for, as a flag.
_AS_FLAGS = frozenset({
  'plugin', 'set', 'seed', 'steps', 'evaluation', 'min_ways', 'min_shots'
})  # fmt: skip


class Searched(NamedTuple):
  """One setting that is searched."""

  name: str
  low: float | int | None = None
  high: float | int | None = None
  log: bool = False
  choices: tuple[Any, ...] = ()

  @property
  def is_continuous(self) -> bool:
    """Whether it is a number that has no steps between."""
    return isinstance(self.low, float)

  @property
  def first(self) -> Any:
    """One of its values."""
    return self.choices[0] if self.choices else self.low


class _Part(NamedTuple):
  """A piece of the expression, and where it begins, from 1."""

  text: str
  column: int

  def refuse(self, message: str) -> UsageError:
    """What to raise of it."""
    return UsageError(
      'search', f'at column {self.column}, {shown(self.text)}: {message}'
    )

  def split(self, separator: str) -> list['_Part']:
    """The pieces between separators."""
    pieces, column = [], self.column
    for text in self.text.split(separator):
      stripped = text.strip()
      pieces.append(_Part(stripped, column + text.find(stripped)))
      column += len(text) + len(separator)
    return pieces


def parse(text: str, cls: type[Common], given: Common) -> tuple[Searched, ...]:
  """Reads a search.

  Args:
    text: settings and what they may be, with commas between them.
    cls: the settings of the experiment.
    given: what it is given beside the search.

  Raises:
    UsageError: if it cannot be read, or names what cannot be searched; it says
      at which column.
  """
  parts = _Part(text, 1).split(',')
  pairs = []
  for part in parts:
    before, equals, after = part.text.partition('=')
    if not (before.strip() and equals and after.strip()):
      raise part.refuse('must be NAME=RANGE, such as inner_lr=log:0.01:1')
    offset = len(before) + 1 + len(after) - len(after.lstrip())
    pairs.append((
      _Part(before.strip(), part.column),
      _Part(after.strip(), part.column + offset),
    ))  # fmt: skip
  algorithms = [given.algorithm]
  for name, value in pairs:
    if name.text == 'algorithm':
      algorithms = [each.text for each in value.split('|')]
  kinds = _kinds(cls, algorithms)
  searched = dict[str, Searched]()
  for name, value in pairs:
    if name.text in searched:
      raise name.refuse('is searched twice')
    kind = _kind_of(name, cls, kinds)
    usual = cls.__dataclass_fields__.get(name.text)  # type: ignore[attr-defined]
    if usual and getattr(given, name.text) != usual.default:
      raise name.refuse(f'is searched, and given by --{name.text}; leave one')
    searched[name.text] = _range(name.text, value, kind)
  return tuple(searched.values())


def _kinds(cls: type[Common], algorithms: list[str]) -> dict[str, Kind]:
  """What may be searched: settings, and what `set` assigns."""
  kinds = {
    name: each.kind
    for name, each in said(cls).items()
    if each.of in ('method', 'training') and name not in FIXED
  }
  rows = [ALGORITHMS[each] for each in algorithms if each in ALGORITHMS]
  of_rows = [assigned_kinds(cls, row) for row in rows]
  for name in set.intersection(*map(set, of_rows)) if of_rows else ():
    if name not in said(cls):
      kinds[name] = of_rows[0][name]
  return kinds


def _kind_of(name: _Part, cls: type, kinds: Mapping[str, Kind]) -> Kind:
  if name.text in kinds:
    return kinds[name.text]
  known = said(cls)
  if name.text in FIXED and name.text in known:
    if name.text in _AS_FLAGS:
      raise name.refuse('is the same for all trials; give it as a flag')
    raise name.refuse('has no meaning for a sweep')
  if name.text in known:
    of = known[name.text].of
    raise name.refuse(
      f'is a setting of the {of}, and a search is of settings of the method and'
      ' of training'
    )
  close = difflib.get_close_matches(name.text, list(kinds), 1, 0.6)
  guess = f'; did you mean {close[0]}?' if close else '; --help lists all'
  raise name.refuse(f'there is no such setting{guess}')


def _range(name: str, value: _Part, kind: Kind) -> Searched:
  if '|' in value.text or isinstance(kind, OneOf | YesNo):
    choices = tuple(_value(each, kind) for each in value.split('|'))
    if len(set(choices)) < len(choices):
      raise value.refuse('names a choice twice')
    return Searched(name, choices=choices)
  ends = value.split(':')
  log = ends[0].text == 'log'
  ends = ends[1:] if log else ends
  if len(ends) != 2:
    raise value.refuse('must be log:LOW:HIGH, LOW:HIGH or A|B|C')
  if not isinstance(kind, Whole | Finite):
    raise value.refuse('is no number; give choices as A|B|C')
  if log:
    # Before the kind of the setting says so of all its values.
    for each in ends:
      if _is_zero_or_less(each.text):
        raise each.refuse('a logarithmic range is above 0')
  low, high = (_value(each, kind) for each in ends)
  if isinstance(low, str) or isinstance(high, str):
    raise value.refuse('is no number; give choices as A|B|C')
  if not low < high:
    raise value.refuse('the range is empty; give the lower end first')
  return Searched(name, low, high, log)


def _is_zero_or_less(text: str) -> bool:
  try:
    return float(text) <= 0
  except ValueError:
    return False


def _value(part: _Part, kind: Kind) -> Any:
  try:
    return kind.check(kind.parse(part.text))
  except ValueError as error:
    raise part.refuse(str(error)) from None


def as_settings(given: Common, values: Mapping[str, Any]) -> Common:
  """The settings of a trial: those that are given, and what it tries.

  What is no setting of its own is assigned by `set`.
  """
  known = said(type(given))
  own = {name: value for name, value in values.items() if name in known}
  assigned = [
    f'{name}={str(value).lower() if isinstance(value, bool) else value}'
    for name, value in values.items()
    if name not in known
  ]
  if assigned:
    own['set'] = ','.join(filter(None, [given.set, *assigned]))
  return given.replace(**own)
