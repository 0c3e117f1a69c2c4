"""Runs of experiments as processes of their own, by those that need many."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

_RESULT = 'result.json'


class FailedError(Exception):
  """A run that ended badly; says how."""


def run(
  workdir: Path, module: str, arguments: Sequence[str], resume: bool
) -> None:
  """Runs `python -m module`, which goes on if its workdir holds a beginning.

  What it prints goes into a file beside the workdir.

  Raises:
    FailedError: if its exit code is not 0.
  """
  command = [
    sys.executable, '-m', module, *arguments, f'--workdir={workdir}',
  ]  # fmt: skip
  if resume and (workdir / 'config.json').exists():
    command.append('--resume')
  workdir.parent.mkdir(parents=True, exist_ok=True)
  with open(f'{workdir}.log', 'a') as log:
    process = subprocess.Popen(
      command, stdout=log, stderr=subprocess.PIPE, text=True
    )
    try:
      _, complaint = process.communicate()
    except BaseException:
      # It saves what it has, so that the next start goes on from there.
      with contextlib.suppress(KeyboardInterrupt):
        process.terminate()
        process.wait()
      raise
  if process.returncode:
    last = complaint.strip().splitlines() or ['no message']
    raise FailedError(
      f'exit code {process.returncode}: {last[-1]} (see {workdir}.log)'
    )


def is_done(workdir: Path) -> bool:
  """Whether a run has come to its end."""
  return (workdir / _RESULT).exists()


def read(workdir: Path) -> dict[str, Any]:
  """What a run that is done has found."""
  outcome: dict[str, Any] = json.loads((workdir / _RESULT).read_text())
  return outcome


def leave_on_sigterm() -> None:
  """Makes SIGTERM an exception, so that it ends the run that goes on, too."""

  def leave(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)

  signal.signal(signal.SIGTERM, leave)
