"""Scales of charts: where a value lies, and which values have a tick."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
  'Scale',
  'count',
  'finite',
  'fitting',
  'is_wide',
  'plain_number',
  'shortened',
]

_MARGIN = 0.04  # of the length of a scale, at its ends
_LARGE = 50  # a scale of which the ends differ by more is logarithmic


class Scale(NamedTuple):
  """From values to places in an image."""

  low: float
  high: float
  start: float  # the place of `low`
  end: float  # of `high`
  is_log: bool = False
  ticks: tuple[float, ...] = ()

  def __call__(self, value: float) -> float:
    """The place of a value; what lies outside stands at an end."""
    low, high, at = self.low, self.high, min(max(value, self.low), self.high)
    if self.is_log:
      low, high, at = (math.log(each) for each in (low, high, at))
    share = (at - low) / (high - low)
    return round(self.start + share * (self.end - self.start), 2)


def is_wide(values: Sequence[float]) -> bool:
  """Whether values differ by so much that a logarithmic scale shows more."""
  return bool(values) and 0 < _LARGE * min(values) < max(values)


def finite(values: Iterable[float | None]) -> list[float]:
  """Those that are numbers."""
  return [each for each in values if each is not None and math.isfinite(each)]


def fitting(
  values: Sequence[float],
  start: float,
  end: float,
  *,
  may_be_log: bool = False,
  is_log: bool = False,
  whole: bool = False,
  limits: tuple[float, float] | None = None,
  most: int = 7,
  at: Sequence[float] = (),
) -> Scale:
  """A scale on which values fill the room.

  Args:
    values: finite ones.
    start: place of the least value.
    end: place of the largest.
    may_be_log: whether it is logarithmic where values differ by much, or where
      its ticks are known.
    is_log: whether it is logarithmic where all values are above 0.
    whole: whether ticks are whole numbers.
    limits: what the scale does not go beyond.
    most: ticks, about.
    at: where the ticks are, if they are known.
  """
  low, high = (min(values), max(values)) if values else (0.0, 1.0)
  is_log = is_log or (may_be_log and (is_wide(values) or bool(at)))
  if is_log and low > 0:
    # A little room, and a tick at 1, 2 and 5 of a power, or at powers.
    low, high = low / 1.15, high * 1.15
    marks = at or _log_ticks(low, high, most)
    if len(marks) < 2:  # of a range within 1, 2 and 5 of a power
      marks = _ticks(low, high, most, whole)
    return Scale(low, high, start, end, True, tuple(marks))
  room = _MARGIN * (high - low) or abs(low) * 0.1 or 0.5
  low, high = low - room, high + room
  if limits is not None:
    low, high = max(low, limits[0]), min(high, limits[1])
  marks = at or _ticks(low, high, most, whole)
  return Scale(low, high, start, end, False, tuple(marks))


def plain_number(value: float) -> str:
  """A number as a tick has it: 0.05, 2.5, 1,000."""
  if value == int(value) and abs(value) < 1e15:
    return f'{int(value):,}'
  return f'{value:.4g}'


def count(number: int, one: str, several: str = '') -> str:
  """A number and what is counted: `1 step`, `2 steps`."""
  return f'{number:,} {one if number == 1 else several or one + "s"}'


def shortened(name: str, most: float) -> str:
  """A name, without its middle where it is wider than there is room.

  Args:
    name: what names that begin alike differ by is often at the end of it.
    most: how wide it may be, in sizes of the letters.
  """
  if sum(map(_width, name)) <= most:
    return name
  first, last = '', ''
  while True:
    # One more at the start, then one at the end, as long as there is room.
    longer = name[: len(first) + 1], name[len(name) - len(last) :]
    if len(first) > len(last):
      longer = first, name[len(name) - len(last) - 1 :]
    if sum(map(_width, f'{longer[0]}…{longer[1]}')) > most:
      return f'{first}…{last}'
    first, last = longer


def _width(letter: str) -> float:
  """How wide a letter is in wide fonts, such as Verdana, in its size."""
  if unicodedata.east_asian_width(letter) in 'WF' or letter in 'mwMW%@…':
    return 1.0
  if letter in "iljftI.,:;|!'()[] ":
    return 0.42
  return 0.75 if letter.isupper() else 0.65


def _ticks(low: float, high: float, most: int, whole: bool) -> list[float]:
  step = _step((high - low) / most)
  if whole:
    step = max(1.0, step)
    step = float(round(step)) if step < 5 else step
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  # Written with the digits that the step has, or 0.30000000000000004.
  digits = max(0, 1 - math.floor(math.log10(step)))
  return [round(number * step, digits) for number in range(first, last + 1)]


def _step(least: float) -> float:
  power = 10 ** math.floor(math.log10(least))
  factors = (1, 2, 2.5, 5, 10)
  return next(f * power for f in factors if f * power >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for factors in ((1, 2, 5), (1,)):
    found = [
      factor * 10.0**power
      for power in powers
      for factor in factors
      if low <= factor * 10.0**power <= high
    ]
    if len(found) <= most + 3:
      return found
  return found[:: -(-len(found) // most)]
