"""Kinds of settings that few binaries have: lists, each entry read."""

from collections.abc import Sequence
from typing import Any

from experiments.runner.settings import Listed, OneOf, Repeated, Whole

__all__ = ['Counts', 'Names', 'RepeatedNames']


class Names(Listed):
  """One or more of some names, with commas between them.

  Args:
    names: all of them.
  """

  def __init__(self, names: Sequence[str]) -> None:
    self._names = names
    self.allowed = f'one or more of {", ".join(names)}, with commas between'

  def check(self, value: Any) -> Any:
    """Returns a tuple, or raises ValueError."""
    chosen = super().check(value)
    if not chosen or not set(chosen) <= set(self._names):
      raise ValueError(f'must be {self.allowed}')
    return chosen


class RepeatedNames(Repeated):
  """Some of a few names, of a flag that may be given several times.

  Args:
    names: all of them.
  """

  def __init__(self, names: Sequence[str]) -> None:
    self._each = OneOf(names)
    self.allowed = f'{", ".join(names)}; may be given several times'

  def check(self, value: Any) -> Any:
    """Returns a tuple, or raises ValueError."""
    return tuple(self._each.check(name) for name in super().check(value))


class Counts(Listed):
  """Whole numbers from 1, with commas between them."""

  allowed = 'whole numbers from 1, with commas between'

  def check(self, value: Any) -> Any:
    """Returns a tuple, or raises ValueError."""
    if isinstance(value, str):
      value = self.parse(value)
    whole = Whole()
    try:
      counts = tuple(
        whole.parse(each) if isinstance(each, str) else whole.check(each)
        for each in value
      )
    except (TypeError, ValueError):
      counts = ()
    if not counts:
      raise ValueError(f'must be {self.allowed}')
    return counts
