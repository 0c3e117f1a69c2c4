"""The terminal: a run as the person who started it sees it."""

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from metajax.runs.writers import VALIDATION

if TYPE_CHECKING:
  from rich.console import Console, RenderableType

__all__ = ['Stage', 'Terminal', 'is_live']

# Rates are measured over this many seconds, so that they follow the machine.
_RATE_SECONDS = 30.0
_WIDTH = 80  # of a plain line, for which less important parts are left out


class Stage:
  """What a program is at for long, and how far it has come.

  Args:
    what: such as `testing`.
    clock: seconds, from any origin.

  Example:
    >>> stage = Stage('testing', clock=lambda: 0.0)
    >>> stage(400, 1000)
    >>> stage.describe()
    'testing: 400 of 1,000, 0:00:00'
  """

  def __init__(self, what: str, clock: Callable[[], float] = time.monotonic):
    self.what = what
    self._clock = clock
    self._begun = clock()
    # Another thread reads it: it is replaced as a whole.
    self._reached: tuple[int, int] | None = None
    # What is done first may take compilation with it.
    self._first: tuple[int, float] | None = None

  def __call__(self, done: int, number: int) -> None:
    """Notes how many are done, and of how many."""
    self._reached = int(done), int(number)
    if self._first is None or done < self._first[0]:
      self._first = int(done), self._clock()

  def describe(self) -> str:
    """Says all that in a line."""
    counts = ''
    if self._reached is not None:
      done, number = self._reached
      counts = f' {done:,} of {number:,},'
    return f'{self.what}:{counts} {_format_seconds(self.seconds)}'

  @property
  def seconds(self) -> float:
    """How long it has taken so far."""
    return self._clock() - self._begun

  @property
  def seconds_left(self) -> float | None:
    """How long it will take, by the time since the first were done."""
    if self._reached is None or self._first is None:
      return None
    (done, number), (before, then) = self._reached, self._first
    if done <= before:
      return None
    return (self._clock() - then) * (number - done) / (done - before)

  def row(self, spinner: 'RenderableType') -> 'RenderableType':
    """A line of a terminal: a bar, where it is known how far it is."""
    from rich.text import Text

    left = self.seconds_left
    times = f'{_format_seconds(self.seconds)} elapsed'
    if left is not None:
      times = f'{_format_seconds(left)} left'
    text = Text(self.what, no_wrap=True, overflow='ellipsis')
    if self._reached is None or not self._reached[1]:
      return _row(spinner, text, Text(times, 'cyan'))
    from rich.progress_bar import ProgressBar

    done, number = self._reached
    bar = ProgressBar(number, done)
    return _row(spinner, text, bar, f'{done}/{number}', Text(times, 'cyan'))


def is_live(console: 'Console') -> bool:
  """Whether a bar can move on a console."""
  return console.is_terminal and console.is_interactive


class Terminal:
  """Shows a run to the person who started it.

  On a terminal: a progress bar, rates, the newest metrics and the time left.
  Elsewhere, one plain line for each `write`::

    step 500/5000  loss 0.412  6.9 steps/s  221 tasks/s  0:10:52 left

  A line has no more than 80 columns: rates that do not fit are left out. They
  cover the last half minute. They begin at the first write after `start_step`,
  so that the compilation of the first dispatch does not count, and they leave
  out the time between two writes of one step, which is what a validation takes.

  Args:
    total_steps: how many outer steps the run has in all.
    tasks_per_step: tasks in one outer step.
    start_step: the outer step that the run starts or resumes from.
    console: a rich console; the one of standard output by default.
    show: the metrics to show, with and without `'validation/'`.
    clock: seconds, from any origin.

  Raises:
    ValueError: if `total_steps` or `tasks_per_step` is below 1, or if
      `start_step` is not in [0, total_steps].
  """

  def __init__(
    self,
    total_steps: int,
    *,
    tasks_per_step: int,
    start_step: int = 0,
    console: 'Console | None' = None,
    show: Sequence[str] = ('loss', 'accuracy', 'mse'),
    clock: Callable[[], float] = time.monotonic,
  ):
    import rich.console
    import rich.live
    import rich.spinner

    if total_steps < 1 or tasks_per_step < 1:
      raise ValueError(
        'total_steps and tasks_per_step must be 1 or more, got'
        f' {total_steps} and {tasks_per_step}'
      )
    if not 0 <= start_step <= total_steps:
      raise ValueError(
        f'start_step must be in [0, {total_steps}], got {start_step}'
      )
    self._total = total_steps
    self._tasks_per_step = tasks_per_step
    self._start_step = self._step = start_step
    self._show = tuple(show)
    self._clock = clock
    self._start = self._written = clock()
    # The bar is drawn by another thread: what it reads is replaced, never
    # changed in place.
    self._marks: tuple[tuple[int, float], ...] = ()  # (step, seconds)
    self._shown: dict[str, str] = {}
    self._stages: tuple[Stage, ...] = ()
    self._is_compiled = False  # as far as this knows
    self._console = rich.console.Console() if console is None else console
    self._live: rich.live.Live | None = None
    if is_live(self._console):
      ascii_only = self._console.options.ascii_only
      self._spinner = rich.spinner.Spinner('line' if ascii_only else 'dots')
      self._live = rich.live.Live(
        console=self._console, get_renderable=self._bar
      )
      self._live.start(refresh=True)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Shows the metrics of a step."""
    self._step, self._written = int(step), self._clock()
    self._mark(self._step, self._written)
    new = {
      name: _format_value(float(value))
      for name, value in metrics.items()
      if name.removeprefix(VALIDATION) in self._show
    }
    self._shown = self._shown | new
    if self._live is None:
      parts = [f'step {self._step}/{self._total}']
      parts += self._describe(new, '') + self._describe(new, VALIDATION)
      rates = self._describe_rate()
      left = self._time_left()
      times = [] if left is None else [f'{_format_seconds(left)} left']
      while rates and len('  '.join(parts + rates + times)) > _WIDTH:
        rates.pop()
      self._print('  '.join(parts + rates + times))

  def begin(self, stage: Stage) -> None:
    """Shows what else the run is at, until the `end` of it."""
    self._stages = (*self._stages, stage)

  def end(self, stage: Stage) -> None:
    """Shows no longer what has come to its end."""
    self._stages = tuple(each for each in self._stages if each is not stage)
    self._is_compiled = True

  def note(self, message: str) -> None:
    """Prints a line, above the bar where there is one."""
    self._print(message)

  def close(self) -> None:
    """Leaves the bar as it is and gives the terminal back."""
    if self._live is not None:
      self._live.stop()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _print(self, line: str) -> None:
    # What is written to a file must not wrap at a made-up width.
    soft_wrap = not self._console.is_terminal
    self._console.print(
      line, markup=False, highlight=False, emoji=False, soft_wrap=soft_wrap
    )

  def _mark(self, step: int, now: float) -> None:
    """Notes that `step` was reached, for the rates."""
    if step <= self._start_step:
      return  # what comes next still has to be compiled
    marks = self._marks
    if marks and marks[-1][0] == step:
      pause = now - marks[-1][1]
      self._marks = tuple((step, then + pause) for step, then in marks)
      return
    old = sum(now - then >= _RATE_SECONDS for _, then in marks)
    # The newest of the old ones stays, so that the window is never short.
    self._marks = (*marks[max(0, old - 1) :], (step, now))

  def _rate(self) -> float | None:
    """Steps per second, once two steps have been seen."""
    marks = self._marks
    if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
      return None
    return (marks[-1][0] - marks[0][0]) / (marks[-1][1] - marks[0][1])

  def _describe(self, shown: Mapping[str, str], prefix: str) -> list[str]:
    """The metrics whose names begin with `prefix`, the first one labelled."""
    parts = [
      f'{name} {shown[prefix + name]}'
      for name in self._show
      if prefix + name in shown
    ]
    if parts and prefix:
      parts[0] = f'{prefix.rstrip("/")}: {parts[0]}'
    return parts

  def _describe_rate(self) -> list[str]:
    if (rate := self._rate()) is None:
      return []
    tasks = rate * self._tasks_per_step
    return [f'{_format_rate(rate)} steps/s', f'{_format_rate(tasks)} tasks/s']

  def _time_left(self) -> float | None:
    if (rate := self._rate()) is None or rate <= 0:
      return None
    left = (self._total - self._step) / rate
    return max(0.0, left - (self._clock() - self._written))

  def _bar(self) -> 'RenderableType':
    """The bar and the lines under it, as the refreshing thread draws them."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    times = f'{_format_seconds(self._clock() - self._start)} elapsed'
    if self._step < self._total:
      left = self._time_left()
      to_go = '-:--:--' if left is None else _format_seconds(left)
      times += f', {to_go} left'
    row = _row(
      self._spinner if self._step < self._total else '',
      ProgressBar(self._total, self._step),
      f'{self._step}/{self._total}',
      Text(times, 'cyan'),
    )
    training = self._describe_rate() + self._describe(self._shown, '')
    stages = self._stages
    if self._step == self._start_step and not stages:
      rest = '' if self._is_compiled else ', compiling'
      training.insert(0, f'waiting for the first steps{rest}')
    lines = [training, self._describe(self._shown, VALIDATION)]
    return Group(
      row,
      *(_line(parts) for parts in lines if parts),
      *(stage.row(' ') for stage in stages),
    )


def _row(
  spinner: 'RenderableType', *cells: 'RenderableType'
) -> 'RenderableType':
  """Cells beside each other; a bar, or else the first one, gets the room."""
  from rich.progress_bar import ProgressBar
  from rich.table import Table

  row = Table.grid(padding=(0, 1), expand=True)
  row.add_column(width=1)
  bars = [isinstance(cell, ProgressBar) for cell in cells]
  if not any(bars):
    bars[0] = True
  for wide in bars:
    row.add_column(ratio=1 if wide else None, no_wrap=True)
  row.add_row(spinner, *cells)
  return row


def _line(parts: Sequence[str]) -> 'RenderableType':
  from rich.text import Text

  return Text('  ' + '  '.join(parts), no_wrap=True, overflow='ellipsis')


def _format_value(value: float) -> str:
  if value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value):
    return f'{value:.3f}'
  return f'{value:.2e}'


def _format_rate(rate: float) -> str:
  digits = 0 if rate >= 100 else 1 if rate >= 1 else 3
  return f'{rate:.{digits}f}'


def _format_seconds(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))
