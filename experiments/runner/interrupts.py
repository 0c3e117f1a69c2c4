"""What stops a run or holds it up: signals, preemption, a step that hangs."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from experiments.runner.common import Common, Machine

__all__ = [
  'PREEMPTED',
  'Interrupted',
  'StallWatch',
  'Stops',
  'on_signals',
  'stop_at_once',
]


# Of sysexits.h, "try again": all is saved, and the next start goes on.
PREEMPTED = 75


class Interrupted(KeyboardInterrupt):
  """A signal asked the run to stop.

  Args:
    number: of the signal.
    step: the one that was saved, if one was.
    kept: whether what was saved stays there, in a workdir.
  """

  def __init__(self, number: int, step: int | None = None, kept: bool = True):
    name = signal.Signals(number).name
    self.preempted = step is not None and number == signal.SIGTERM
    if not kept:
      text = 'stopped; nothing is kept of a run without a workdir'
    elif step is None:
      text = 'stopped at once; the same command with --resume goes on'
    elif self.preempted:
      text = f'saved step {step}; the same command goes on'
    else:
      text = f'saved step {step}; the same command with --resume goes on'
    super().__init__(f'{name}: {text}')
    self.exit_code = PREEMPTED if self.preempted else 128 + number


Handler = Callable[[int, FrameType | None], None]


def stop_at_once(kept: bool) -> Handler:
  """A handler for when there is nothing to save.

  Args:
    kept: whether there is a workdir, which holds what was saved before.
  """

  def stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Interrupted(number, kept=kept)

  return stop


@contextlib.contextmanager
def on_signals(handle: Handler, settings: Machine) -> Iterator[None]:
  """Handles SIGTERM and Ctrl-C for the length of a block.

  Of several processes JAX's runtime receives the SIGTERM, to spread the word.
  Another thread than the first one cannot be told of signals.
  """
  numbers = [signal.SIGINT]
  if not settings.is_distributed:
    numbers.append(signal.SIGTERM)
  if threading.current_thread() is not threading.main_thread():
    numbers = []
  previous = {number: signal.signal(number, handle) for number in numbers}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


class Stops:
  """Requests to stop, between steps; a second one is obeyed at once."""

  def __init__(self, settings: Common) -> None:
    self._received: list[int] = []
    self._at_once = stop_at_once(settings.workdir is not None)
    self._is_distributed = settings.is_distributed

  def remember(self, number: int, frame: FrameType | None) -> None:
    """A handler that lets the step end."""
    if self._received:
      self._at_once(number, frame)
    self._received.append(number)
    if self._is_distributed:
      os.kill(os.getpid(), signal.SIGTERM)  # JAX's runtime tells the others

  def requested(self, dispatch: int) -> int | None:
    """The signal to stop for after a dispatch, the same on all processes.

    JAX's runtime spreads the word between them, and counts dispatches to find
    one that no process has passed yet: it wants consecutive numbers.
    """
    if self._is_distributed:
      reached = multihost_utils.reached_preemption_sync_point(dispatch)
      return signal.SIGTERM if reached else None
    return self._received[0] if self._received else None


class StallWatch:
  """Reports, with the stacks of all threads, when nothing goes on.

  Args:
    seconds: of silence before the report; None never reports.
  """

  def __init__(self, seconds: float | None) -> None:
    self._seconds = seconds
    self._doing = 'starting'
    self._since = time.monotonic()
    self._reported = False
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name='metajax-stall', daemon=True
    )

  def __enter__(self) -> Self:
    if self._seconds is not None:
      self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._ended.set()

  def now(self, doing: str) -> None:
    """Something goes on; says what."""
    self._doing, self._since = doing, time.monotonic()
    self._reported = False

  def _watch(self) -> None:
    assert self._seconds is not None
    while not self._ended.wait(min(1.0, self._seconds / 4)):
      silent = time.monotonic() - self._since
      if silent >= self._seconds and not self._reported:
        self._reported = True
        print(
          f'nothing has gone on for {silent:.0f} s (--stall_seconds), while'
          f' {self._doing}; the stacks of all threads:',
          file=sys.stderr,
          flush=True,
        )
        print(_stacks(), file=sys.stderr, flush=True)


def _stacks() -> str:
  """The stacks of all threads, whole: `faulthandler` ends after 100 frames.

  No lines of the sources, since the disk may be what has stalled.
  """
  names = {thread.ident: thread.name for thread in threading.enumerate()}
  lines = []
  for identity, frame in sys._current_frames().items():
    name = names.get(identity, identity)
    lines.append(f'Thread {name} (most recent call last):')
    frames = reversed(list(traceback.walk_stack(frame)))
    lines += [
      f'  File "{inner.f_code.co_filename}", line {line}, in'
      f' {inner.f_code.co_name}'
      for inner, line in frames
    ]
  return '\n'.join(lines)
