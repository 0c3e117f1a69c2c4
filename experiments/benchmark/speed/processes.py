"""Worker processes, from the side of the parent."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.benchmark.speed.base import Failure

__all__ = ['TimeLimitError', 'Worker', 'WorkerError']


class WorkerError(Exception):
  """A worker did not do what it was asked for; says why, in one line."""


class TimeLimitError(WorkerError):
  """It took too long."""


class Worker:
  """A process that `experiments.benchmark.speed.worker` describes.

  Args:
    cache: directory of compiled programs.
  """

  def __init__(self, cache: Path) -> None:
    self.started = time.perf_counter()
    self._connection, theirs = Pipe()
    self._errors = tempfile.TemporaryFile()  # noqa: SIM115
    with theirs:
      self._process = subprocess.Popen(
        [
          sys.executable,
          '-m',
          'experiments.benchmark.speed.worker',
          str(theirs.fileno()),
        ],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=self._errors,
        env=_environment(cache),
      )

  def ask(
    self, request: str, *arguments: Any, limit: float | None = None
  ) -> Any:
    """Waits for the answer.

    Args:
      request: a method of `worker.Requests`.
      *arguments: of it.
      limit: seconds after which it is given up.

    Returns:
      The answer.

    Raises:
      WorkerError: if there is none.
    """
    try:
      self._connection.send((request, arguments))
      if not self._connection.poll(limit):
        raise TimeLimitError(f'took more than {limit:.0f} s')
      answer = self._connection.recv()
    except (EOFError, OSError) as error:
      raise WorkerError(self._cause_of_death()) from error
    if isinstance(answer, Failure):
      raise WorkerError(answer.reason)
    return answer

  def age(self) -> float:
    """Seconds since the process was started."""
    return time.perf_counter() - self.started

  def _cause_of_death(self) -> str:
    code = self._process.wait()
    self._errors.seek(0)
    lines = self._errors.read().decode(errors='replace').split('\n')
    last = next((line.strip() for line in reversed(lines) if line.strip()), '')
    if code < 0:
      name = signal.Signals(-code).name
      hint = ', out of memory perhaps' if name == 'SIGKILL' else ''
      return f'its process was ended by {name}{hint}'
    return f'its process ended with code {code}' + (f': {last}' if last else '')

  def close(self) -> None:
    """Ends the process."""
    self._connection.close()
    # Nothing of it is worth waiting for: it has said all it had to say.
    self._process.kill()
    self._process.wait()
    self._errors.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def _environment(cache: Path) -> dict[str, str]:
  """The environment of the parent, and what makes neighbours of workers."""
  return os.environ | {
    # What the parent can import, its workers can.
    'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
    # One that took all memory of a GPU would leave none to the others.
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
