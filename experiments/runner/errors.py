"""What a user can put right: one line, exit code 2."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from metajax.tasks.errors import printable

__all__ = [
  'UsageError',
  'check_given',
  'printable',
  'shown',
  'suggestion',
  'unwritable',
]

_LONGEST = 200  # characters of a value that a message quotes


class UsageError(Exception):
  """Says which setting is wrong, what is allowed, and what to do.

  Args:
    setting: its name, which is that of the flag.
    message: the rest of the line.
    value: what was given, where the message does not say it.
  """

  def __init__(self, setting: str, message: str, value: object = None):
    self.setting = setting
    self.message = printable(' '.join(message.split()))
    self.given = '' if value is None else f'={printable(str(value))}'
    super().__init__(f'--{setting}{self.given}: {self.message}')


def check_given(settings: object, *names: str) -> None:
  """Refuses settings without a value for one of these names."""
  for name in names:
    if getattr(settings, name) is None:
      raise UsageError(name, 'is not given; --help says what it is')


def unwritable(setting: str, path: Path, error: OSError) -> UsageError:
  """What to raise where something cannot be written."""
  return UsageError(
    setting,
    f'{path} cannot be written ({error.strerror}); name a directory that can',
  )


def shown(value: object) -> str:
  """A value as messages quote it: printable, and not too long."""
  text = printable(repr(value))
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


def suggestion(given: str, names: Sequence[str]) -> str:
  """A question whether a name that is nearly the given one was meant."""
  # As people write maml++, Meta-SGD and ProtoNet.
  plain = given.lower().replace('+', '_plus').replace('-', '_')
  close = difflib.get_close_matches(plain, names, 1, 0.7)
  return f'; did you mean {close[0]}?' if close else ''
