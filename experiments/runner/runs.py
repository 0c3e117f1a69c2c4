"""Runs of experiments as processes of their own, by those that need many."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

from experiments.runner import progress
from experiments.runner.common import Common
from experiments.runner.data_digest import DIGEST
from experiments.runner.errors import UsageError, printable, shown, unwritable
from experiments.runner.records import (
  RECORD,
  RESULT,
  Missing,
  check_record,
  read_record,
)
from experiments.runner.report import metric_of
from experiments.runner.settings import Base, is_identity, said
from experiments.runner.workdir import (
  Workdir,
  open_file,
  refuse_what_is_no_run,
  write_json,
)
from metajax.runs.terminal import Stage

__all__ = [
  'FailedError',
  'alone',
  'claim',
  'is_done',
  'leave_on_sigterm',
  'noted',
  'read',
  'start',
]


def claim(workdir: Path, settings: Base, what: str = 'comparison') -> None:
  """Makes the workdir, or checks that it holds this very comparison.

  Args:
    workdir: of the comparison.
    settings: of the comparison; those that are its identity must be the same
      from one start to the next.
    what: what it is called.

  Raises:
    UsageError: if it holds another comparison or something else, or cannot be
      written.
  """
  given = settings.given()
  identity = {
    name: given[name]
    for name, each in said(type(settings)).items()
    if each.of == 'data' or is_identity(each.of)
  }
  record = workdir / RECORD
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not record.exists():
      refuse_what_is_no_run(workdir)
      write_json(record, given)
  except OSError as error:
    raise unwritable('workdir', workdir, error) from error
  before = read_record(record, 'workdir')
  usual = type(settings)().given()
  differing = [
    f'--{name} was {shown(before.get(name))} and is {shown(value)}'
    for name, value in sorted(identity.items())
    if before.get(name, usual[name]) != value
  ]
  foreign = sorted(before.keys() - given.keys())
  if foreign:  # such as the record of a single run
    raise UsageError(
      'workdir',
      f'{workdir} holds something else, with --{foreign[0]}, of which there is'
      ' none here; name another directory',
    )
  if differing:
    raise UsageError(
      'workdir',
      f'{workdir} holds another {what}: {"; ".join(differing)}; name'
      ' another directory, or set these as they were',
    )


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
  """Keeps other processes out of a workdir, which has been claimed.

  Raises:
    UsageError: if one is at work there.
  """
  own = Workdir(workdir, resume=True)
  try:
    own.take()
  except OSError as error:
    raise unwritable('workdir', workdir, error) from error
  try:
    yield
  finally:
    own.release()


# What a run prints of how far it is: `step 5/100`, `testing: 5 of 1,000`.
_COUNTED = re.compile(r'^(?:step|(.*):) ([\d,]+)(?:/| of )([\d,]+)', re.M)
_TAIL = 4096  # bytes of it that are looked at
_SECONDS = 0.5  # between two looks


class FailedError(Exception):
  """A run that ended badly; says how."""


@contextlib.contextmanager
def noted(failed: dict[str, str], name: str) -> Iterator[None]:
  """Notes and says how a run has failed, if it does; the others go on."""
  try:
    yield
  except FailedError as error:
    failed[name] = str(error)
    line = printable(f'{name}: {error}')
    print(line, file=sys.stderr, flush=True)


def start(
  experiment: str, settings: Common, workdir: Path, resume: bool
) -> None:
  """Runs an experiment in a process of its own, to its end.

  The process receives the settings as a value. What it prints goes into a file
  beside the workdir.

  Args:
    experiment: its module.
    settings: of the experiment.
    workdir: of the run.
    resume: whether it goes on if its workdir holds a beginning.

  Raises:
    FailedError: if its exit code is not 0.
  """
  begun = resume and (workdir / RECORD).exists()
  settings = settings.replace(workdir=str(workdir), resume=begun)
  command = [sys.executable, '-m', 'experiments.runner.child', experiment]
  with open(_open_log(workdir), 'a', encoding='utf-8') as log:
    process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=log,
      stderr=subprocess.PIPE,
      text=True,
    )
    try:
      with progress.shown(workdir.name) as stage:
        given = json.dumps(settings.given())
        complaint = _ended(process, given, stage, _log_of(workdir))
    except BaseException:
      # It saves what it has, so that the next start goes on from there.
      with contextlib.suppress(KeyboardInterrupt):
        process.terminate()
        process.wait()
      raise
  if process.returncode:
    last = complaint.strip().splitlines() or ['no message']
    raise FailedError(
      f'exit code {process.returncode}: {last[-1]} (see {_log_of(workdir)})'
    )


def _ended(
  process: subprocess.Popen[str], given: str, stage: Stage, log: Path
) -> str:
  """What a process has complained of; it is shown how far it is until then."""
  what, begun = stage.what, log.stat().st_size
  text: str | None = given
  while True:
    try:
      _, complaint = process.communicate(text, timeout=_SECONDS)
      return complaint
    except subprocess.TimeoutExpired:
      text = None  # it has been given
    with log.open('rb') as lines:
      lines.seek(max(begun, log.stat().st_size - _TAIL))
      found = _COUNTED.findall(lines.read().decode(errors='replace'))
    if found:
      doing, done, number = found[-1]
      stage.what = f'{what}: {doing or "training"}'
      stage(int(done.replace(',', '')), int(number.replace(',', '')))


def _log_of(workdir: Path) -> Path:
  return workdir.with_name(f'{workdir.name}.log')


def _open_log(workdir: Path) -> int:
  path = _log_of(workdir)
  try:
    workdir.parent.mkdir(parents=True, exist_ok=True)
    return open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
  except OSError as error:
    raise unwritable('workdir', path, error) from error


def is_done(workdir: Path) -> bool:
  """Whether a run has come to its end."""
  return (workdir / RESULT).exists()


def read(workdir: Path, setting: str = 'workdir') -> dict[str, Any]:
  """What a run that is done has found.

  Args:
    workdir: of the run.
    setting: the one that names it, or what it lies in.

  Raises:
    UsageError: if the file is damaged.
  """
  path = workdir / RESULT
  outcome = read_record(path, setting)
  check_record(outcome, _ENTRIES, path, setting)
  if 'metric' in outcome:  # older ones do not name it
    check_record(outcome, _METRIC, path, setting)
  try:
    metric = metric_of(outcome).name
  except (TypeError, StopIteration) as error:
    raise UsageError(
      setting, f'{path} is damaged: it names no metric; restore it'
    ) from error
  check_record(
    outcome,
    {f'test.{name}': _NUMBER for name in (metric, f'{metric}_before', 'ci95')},
    path,
    setting,
  )
  return outcome


_NUMBER = (float, NoneType)
# What others read of it.
_ENTRIES: dict[str, tuple[type, ...]] = {
  'config.tasks_per_step': (int,), 'parameters': (int,), 'steps': (int,),
  'protocol.shots': (int,), 'protocol.ways': (int, NoneType, Missing),
  'protocol.evaluation': (str, NoneType, Missing),
  'tasks_per_second': _NUMBER,
  'test': (dict,), 'training_seconds': (float,),
  f'config.{DIGEST}': (dict, NoneType, Missing),
}  # fmt: skip
_METRIC: dict[str, tuple[type, ...]] = {
  'metric.name': (str,), 'metric.unit': (str,), 'metric.label': (str,),
  'metric.higher_is_better': (bool,),
}  # fmt: skip


@contextlib.contextmanager
def leave_on_sigterm() -> Iterator[None]:
  """Makes SIGTERM an exception, so that it ends the run that goes on, too.

  Another thread than the first one cannot be told of signals.
  """

  def leave(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)

  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
