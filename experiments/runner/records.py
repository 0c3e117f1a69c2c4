"""What workdirs remember as JSON, whatever has happened to the files since."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from experiments.runner.errors import UsageError, shown

__all__ = [
  'DATA',
  'PLAN',
  'RECORD',
  'RESULT',
  'Missing',
  'check_record',
  'read_record',
]

# Nothing that is measured or counted comes near it; charts of more fail.
_LARGEST = 2**63
# Names of files in a workdir.
RECORD = 'config.json'
RESULT = 'result.json'
PLAN = 'plan.json'
DATA = 'report.json'  # what `experiments.reports.gathered` finds


def read_record(path: Path, setting: str) -> dict[str, Any]:
  """Reads a file that holds a JSON object.

  Args:
    path: the file.
    setting: the one by which it was found.

  Raises:
    UsageError: if there is no such file, or if it holds anything else.
  """
  try:
    if path.exists() and not path.is_file():
      raise ValueError('no file')
    value = json.loads(
      path.read_text(encoding='utf-8'), parse_constant=_refuse_constant
    )
    if not isinstance(value, dict):
      raise ValueError(f'no JSON object, but {shown(value)}')
  except OSError as error:
    raise _unreadable(setting, path, error.strerror) from error
  except RecursionError as error:
    raise _unreadable(setting, path, 'nested too deeply') from error
  except ValueError as error:  # of JSON, of UTF-8, of endless digits
    raise _unreadable(setting, path, str(error)) from error
  return value


def _unreadable(setting: str, path: Path, reason: str | None) -> UsageError:
  return UsageError(
    setting, f'{path} is not readable ({reason}); name another, or restore it'
  )


def _refuse_constant(name: str) -> NoReturn:
  raise ValueError(f'{name} is no JSON')


class Missing:
  """What stands for a value that a record lacks."""

  def __repr__(self) -> str:
    return 'nothing'


def check_record(
  record: Mapping[str, Any],
  wanted: Mapping[str, tuple[type, ...]],
  path: Path,
  setting: str,
) -> None:
  """Refuses a record that lacks what is wanted of it.

  Args:
    record: what `read_record` has read.
    wanted: the types that a value may be of, by its names with dots between
      them; `float` means any finite number, `Missing` that there may be none.
    path: of the file.
    setting: the one by which it was found.

  Raises:
    UsageError: if a value is missing or of another type.
  """
  for names, types in wanted.items():
    value: Any = record
    for name in names.split('.'):
      value = value.get(name, Missing()) if isinstance(value, dict) else None
    if not any(_is_a(value, each) for each in types):
      kinds = ' or '.join(_KINDS[each] for each in types)
      raise UsageError(
        setting,
        f'{path} is damaged: {names} must be {kinds}, got {shown(value)};'
        ' name another, or restore it',
      )


_KINDS = {
  int: 'a whole number', float: 'a finite number', str: 'a text',
  bool: 'true or false', dict: 'an object', list: 'a list', type(None): 'null',
  Missing: 'nothing',
}  # fmt: skip


def _is_a(value: Any, kind: type) -> bool:
  if kind is float:
    try:
      number = isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
      return False
    return number and not isinstance(value, bool) and abs(value) < _LARGEST
  if kind is int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and abs(value) < _LARGEST
  return isinstance(value, kind)
