"""What a user can put right: one line, exit code 2."""

import difflib
from collections.abc import Sequence
from pathlib import Path

__all__ = ['UsageError', 'suggestion', 'unwritable']


class UsageError(Exception):
  """Says which setting is wrong, what is allowed, and what to do.

  Args:
    setting: its name, which is that of the flag.
    message: the rest of the line.
    value: what was given, where the message does not say it.
  """

  def __init__(self, setting: str, message: str, value: object = None):
    self.setting = setting
    self.message = message
    given = '' if value is None else f'={value}'
    super().__init__(f'--{setting}{given}: {message}')


def unwritable(setting: str, path: Path, error: OSError) -> UsageError:
  """What to raise where something cannot be written."""
  return UsageError(
    setting,
    f'{path} cannot be written ({error.strerror}); name a directory that can',
  )


def suggestion(given: str, names: Sequence[str]) -> str:
  """A question whether a name that is nearly the given one was meant."""
  close = difflib.get_close_matches(given, names, 1, 0.7)
  return f'; did you mean {close[0]}?' if close else ''
