"""How far that has come which takes long, for whoever waits for it.

On a terminal a bar, as training has one. Elsewhere plain lines: one every half
minute for what takes so long. Of several processes the first one shows it.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Protocol, Self

import rich.console
import rich.live
import rich.spinner

from metajax.runs.terminal import Stage, Terminal, is_live

__all__ = ['on', 'shown']

_SECONDS = 30.0  # between two plain lines


class _Screen(Protocol):
  """Where stages are shown."""

  def begin(self, stage: Stage) -> None:
    """Shows a stage, too."""

  def end(self, stage: Stage) -> None:
    """Shows it no longer."""


class _Stages:
  """Those that go on now."""

  def __init__(self) -> None:
    self._stages: tuple[Stage, ...] = ()  # replaced: another thread reads them

  def begin(self, stage: Stage) -> None:
    """Shows a stage, too."""
    self._stages = (*self._stages, stage)

  def end(self, stage: Stage) -> None:
    """Shows it no longer."""
    self._stages = tuple(each for each in self._stages if each is not stage)


class _Bars(_Stages):
  """Bars on a terminal, which are gone at their end."""

  def __init__(self, console: rich.console.Console) -> None:
    super().__init__()
    ascii_only = console.options.ascii_only
    self._spinner = rich.spinner.Spinner('line' if ascii_only else 'dots')
    self._live = rich.live.Live(
      console=console, get_renderable=self._drawn, transient=True
    )

  def _drawn(self) -> rich.console.Group:
    return rich.console.Group(
      *(each.row(self._spinner) for each in self._stages)
    )

  def __enter__(self) -> Self:
    self._live.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._live.stop()

  def begin(self, stage: Stage) -> None:
    """Draws a stage at once."""
    super().begin(stage)
    self._live.refresh()


class _Lines(_Stages):
  """Plain lines, of the innermost stage."""

  def __init__(self) -> None:
    super().__init__()
    self._said = set[Stage]()
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._speak, name='metajax-progress', daemon=True
    )

  def __enter__(self) -> Self:
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._ended.set()

  def end(self, stage: Stage) -> None:
    """Speaks of the one around it again."""
    super().end(stage)
    if stage in self._said:
      _say(f'{stage.describe()}, done')

  def _speak(self) -> None:
    while not self._ended.wait(_SECONDS):
      if self._stages:
        stage = self._stages[-1]
        self._said.add(stage)
        _say(stage.describe())


# Where stages are shown now: a terminal belongs to the process.
_screens = list[_Screen]()


@contextlib.contextmanager
def on(terminal: Terminal | None) -> Iterator[None]:
  """Shows stages below the bar of a training, where it has one."""
  console = rich.console.Console()
  if terminal is None or not is_live(console) or _screens:
    yield
    return
  _screens.append(terminal)
  try:
    yield
  finally:
    _screens.remove(terminal)


@contextlib.contextmanager
def shown(what: str, *, at_once: bool = False) -> Iterator[Stage]:
  """Shows that something goes on, and how far it is.

  Args:
    what: goes on, such as `testing`.
    at_once: whether a plain line says so at its beginning, too.

  Yields:
    What is told how many are done, and of how many.
  """
  stage = Stage(what)
  with _screen() as screen:
    if screen is None:
      yield stage
      return
    screen.begin(stage)
    if at_once and not is_live(rich.console.Console()):
      _say(what)
    try:
      yield stage
    finally:
      screen.end(stage)


@contextlib.contextmanager
def _screen() -> Iterator[_Screen | None]:
  """The one that there is, or another."""
  if _is_silent():
    yield None
    return
  if _screens:
    yield _screens[-1]
    return
  # The file by name: what keeps a library quiet takes `sys.stdout` away.
  console = rich.console.Console(file=sys.stdout)
  with _Bars(console) if is_live(console) else _Lines() as screen:
    _screens.append(screen)
    try:
      yield screen
    finally:
      _screens.remove(screen)


def _is_silent() -> bool:
  """Whether another process speaks for this one."""
  jax = sys.modules.get('jax')
  # To ask which process this is would begin to use its devices.
  if jax is None or not jax.distributed.is_initialized():
    return False
  return bool(jax.process_index() != 0)


def _say(line: str) -> None:
  print(line, flush=True)
