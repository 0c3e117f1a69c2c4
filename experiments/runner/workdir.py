"""The directory of a run: whose it is, and files that are never half there."""

import errno
import fcntl
import json
import math
import os
import socket
import stat
import warnings
from pathlib import Path
from typing import Any

from experiments.runner.common import Common
from experiments.runner.data_digest import DIGEST, DIGEST_ENTRY, check_same_data
from experiments.runner.errors import UsageError, shown, unwritable
from experiments.runner.records import RECORD, check_record, read_record
from experiments.runner.settings import said
from experiments.runner.teacher_digest import (
  TEACHER,
  TEACHER_ENTRY,
  check_same_teacher,
)
from experiments.runner.weights_digest import (
  WEIGHTS,
  WEIGHTS_ENTRY,
  check_same_weights,
)
from metajax.algorithms.recipe import ANNEALED
from metajax.devices.distributed import agree, is_primary

__all__ = [
  'Workdir',
  'as_json',
  'make_directory',
  'open_file',
  'open_workdir',
  'refuse_what_is_no_run',
  'wait_until_free',
  'warn_of_others',
  'write_json',
  'write_text',
]


_LOCK = '.lock'
# Left by a run that was asked to stop, for the next start to go on by itself.
_PREEMPTED = '.preempted'


class Workdir:
  """A directory that this run has to itself until it ends."""

  def __init__(self, path: Path, resume: bool) -> None:
    self.path = path
    self.resume = resume  # whether it holds the beginning of this run
    self._lock: int | None = None

  def take(self) -> None:
    """Locks it against other runs; the lock ends with the process."""
    lock = open_file(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
      _lock_at_once(self.path, lock)
    except UsageError:
      os.close(lock)
      raise
    os.ftruncate(lock, 0)
    os.write(lock, f'process {os.getpid()} on {socket.gethostname()}'.encode())
    self._lock = lock

  def release(self) -> None:
    """Lets other runs have it."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def mark_preempted(self) -> None:
    """Lets the next start go on without being asked to."""
    if is_primary():
      mark = self.path / _PREEMPTED
      os.close(open_file(mark, os.O_WRONLY | os.O_CREAT))


def wait_until_free(path: Path) -> None:
  """Waits for the end of the run that has this workdir, if one has.

  A process that is killed cannot stop the run that it waits for, which goes on
  to its end. Beside a second run neither would be measured rightly.
  """
  try:
    lock = open_file(path / _LOCK, os.O_RDWR)
  except FileNotFoundError:
    return
  except OSError as error:
    raise unwritable('workdir', path, error) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    print(f'waiting for another run in {path} ({_owner(lock)})', flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
  finally:
    os.close(lock)


def _lock_at_once(path: Path, lock: int) -> None:
  """Locks a workdir, or says who has it."""
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise UsageError(
      'workdir',
      f'{path} is in use by another run ({_owner(lock)}); wait for it, stop'
      ' it, or name another',
    ) from error


def _refuse_if_in_use(path: Path) -> None:
  try:
    lock = open_file(path / _LOCK, os.O_RDWR)
  except OSError:  # there is none, or it is what `take` will refuse
    return
  try:
    _lock_at_once(path, lock)
  finally:
    os.close(lock)


def _owner(lock: int) -> str:
  return os.read(lock, 200).decode(errors='replace').strip()


def open_workdir(
  path: Path, settings: Common, record: dict[str, Any]
) -> Workdir:
  """Claims a workdir for these settings, or refuses without touching it.

  Process 0 does it for all.

  Args:
    path: of the directory.
    settings: of the run.
    record: the settings by name, with the defaults of the recipe; what the
      directory remembers.
  """
  opened, refusal = None, None
  if is_primary():
    try:
      opened = _open(path, settings, record)
    except UsageError as error:
      refusal = [error.setting, error.message]
  if refusal := agree(refusal):
    raise UsageError(*refusal)
  resume = agree(opened.resume if opened else None)
  return opened or Workdir(path, resume)


def _open(path: Path, settings: Common, record: dict[str, Any]) -> Workdir:
  file = path / RECORD
  try:
    if file.exists():
      return _reopen(path, settings, record)
  except OSError as error:
    raise unwritable('workdir', path, error) from error
  if settings.resume:
    raise UsageError(
      'resume',
      f'{path} holds no run; check --workdir, or leave --resume out to begin'
      ' one',
    )
  workdir = Workdir(path, resume=False)
  try:
    path.mkdir(parents=True, exist_ok=True)
    warn_of_others('workdir', path)
    refuse_what_is_no_run(path)
    workdir.take()
    write_json(file, record)
  except OSError as error:
    raise unwritable('workdir', path, error) from error
  return workdir


def make_directory(path: Path) -> None:
  """Makes the directory of results, which may be there already.

  Raises:
    UsageError: if nothing can be written there.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    raise unwritable('workdir', path, error) from error


def refuse_what_is_no_run(path: Path) -> None:
  """Refuses a directory without a record that holds something else.

  Raises:
    UsageError: if there is more in it than a process that was killed at its
      start leaves, or a dry run.
    OSError: if it cannot be read.
  """
  found = {each.name for each in path.iterdir()}
  if found - {_partial(path / RECORD).name, _LOCK, 'dry_run.json'}:
    raise UsageError(
      'workdir', f'{path} is not empty and holds no run; name another'
    )


def _reopen(path: Path, settings: Common, record: dict[str, Any]) -> Workdir:
  _refuse_if_in_use(path)
  before = read_record(path / RECORD, 'workdir')
  entries = {**DIGEST_ENTRY, **WEIGHTS_ENTRY, **TEACHER_ENTRY}
  wanted = {'algorithm': (str,), **entries}
  check_record(before, wanted, path / RECORD, 'workdir')
  _check_same(path, settings, before, record)
  mark = path / _PREEMPTED
  if not (settings.resume or mark.exists() or settings.is_distributed):
    raise UsageError(
      'workdir',
      f'{path} already holds this run; add --resume to go on with it, or'
      ' name another',
    )
  workdir = Workdir(path, resume=True)
  try:
    warn_of_others('workdir', path)
    workdir.take()
    mark.unlink(missing_ok=True)
  except OSError as error:
    raise unwritable('workdir', path, error) from error
  return workdir


def _check_same(
  path: Path, settings: Common, before: dict[str, Any], now: dict[str, Any]
) -> None:
  """Refuses settings that differ from those that have shaped the run."""
  known = said(type(settings))
  fixed = {name for name, each in known.items() if not each.resume}
  if 'network' not in before and now['network'] is None:
    fixed -= {'width'}  # older runs have one of a network that there is not
  if now['outer_schedule'] in ANNEALED:  # then they have shaped every step
    fixed.add('steps')
  # A setting that all experiments have, and a record has not, is newer than
  # the record; the run was then as it is by default.
  newer = {name for name in said(Common) if name not in before}
  given, usual = settings.given(), type(settings)().given()
  differing = [
    f'--{name} was {shown(before.get(name))} and is {shown(now.get(name))}'
    for name in sorted(
      fixed | (before.keys() - known.keys() - {DIGEST, WEIGHTS, TEACHER})
    )
    if (
      given[name] != usual[name]
      if name in newer
      else before.get(name) != now.get(name)
    )
  ]
  if differing:
    raise UsageError(
      'workdir',
      f'{path} holds a run with other settings: {"; ".join(differing)};'
      ' name another directory, or set these as they were',
    )
  owner = f'the run in {path}'
  check_same_weights(settings, before, now.get(WEIGHTS), owner)
  check_same_teacher(settings, before, now.get(TEACHER), owner)
  check_same_data(
    settings,
    before,
    now.get(DIGEST),
    f'those that the run in {path} has learned from',
    'bring these back, or begin another run in another --workdir',
  )


def write_json(path: Path, value: Any) -> Any:
  """Writes a file all at once or not at all; returns what it then holds."""
  text = json.dumps(as_json(value), indent=2)
  write_text(path, text + '\n')
  return json.loads(text)


def as_json(value: Any) -> Any:
  """What is read again of what is written as JSON."""
  return json.loads(json.dumps(_null_for_nan(value), allow_nan=False))


def write_text(path: Path, text: str) -> None:
  """Writes a file all at once or not at all, and through no link."""
  partial = _partial(path)
  flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
  with open(open_file(partial, flags, 0o666), 'w', encoding='utf-8') as file:
    try:
      file.write(text)
      file.close()
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
  """Opens a file that is no symbolic link to another.

  Raises:
    OSError: if it cannot be opened, or is a link.
  """
  try:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
  except OSError as error:
    if error.errno == errno.ELOOP:
      text = f'{path.name} is a symbolic link, remove it'
      raise OSError(errno.ELOOP, text) from error
    raise


def warn_of_others(setting: str, path: Path) -> None:
  """Warns of a directory in which other people can put their files.

  Whose own group may write lets nobody else in.
  """
  status = path.stat()
  by_group = status.st_mode & stat.S_IWGRP and status.st_gid != os.getgid()
  if by_group or status.st_mode & stat.S_IWOTH:
    warnings.warn(
      f'--{setting}: others may write into {path}, and what is in it, compiled'
      ' programs too, is trusted; chmod go-w would keep them out',
      stacklevel=2,
    )


def _null_for_nan(value: Any) -> Any:
  """JSON has neither NaN nor infinity."""
  if isinstance(value, dict):
    return {name: _null_for_nan(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_null_for_nan(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _partial(path: Path) -> Path:
  return path.with_name(path.name + '.partial')
