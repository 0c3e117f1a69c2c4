"""What methods have reached on streams, kept for the next start."""

from pathlib import Path
from typing import Any

from experiments.runner.errors import unwritable
from experiments.runner.records import check_record, read_record
from experiments.runner.workdir import write_json

__all__ = ['read_found', 'write_found']


def write_found(path: Path, found: dict[str, Any]) -> dict[str, Any]:
  """Writes what a method was found to reach; returns what the file holds.

  Raises:
    UsageError: if it cannot be written.
  """
  try:
    path.parent.mkdir(exist_ok=True)
    return write_json(path, found)
  except OSError as error:
    raise unwritable('workdir', path, error) from error


def read_found(path: Path, numbers: int) -> dict[str, Any]:
  """What a method was found to reach, by an earlier start.

  Args:
    path: the file.
    numbers: how many numbers of classes it was judged at.

  Raises:
    UsageError: if the file is damaged.
  """
  own = read_record(path, 'workdir')
  number = (float, type(None))
  lists = ('accuracy', 'ci95', 'on_stream')
  wanted = {'rate': number, 'keeps': (str,), 'seconds': (float,)}
  check_record(own, wanted | dict.fromkeys(lists, (list,)), path, 'workdir')
  for name in lists:
    each = {f'{name}[{place}]': own[name][place : place + 1]
            for place in range(numbers)}  # fmt: skip
    values = {key: value[0] for key, value in each.items() if value}
    check_record(values, dict.fromkeys(each, (float,)), path, 'workdir')
  return own
