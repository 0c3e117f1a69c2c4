"""Writers of metrics: JSON lines, TensorBoard, the terminal.

A writer takes the metrics of one step at a time. Use it as a context manager,
or call `close`. The same step may be written more than once, say for training
and then for validation, whose metrics have names such as
`'validation/accuracy'`.
"""

import contextlib
import datetime
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
  from rich.console import Console, RenderableType

VALIDATION = 'validation/'

# JSON has no such numbers; these strings are what `float` reads back.
_NON_FINITE = ('NaN', 'Infinity', '-Infinity')
# Rates are measured over this many seconds, so that they follow the machine.
_RATE_SECONDS = 30.0


class Writer(Protocol):
  """Somewhere that metrics go."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records metrics, scalars by name, measured after `step` outer steps."""

  def close(self) -> None:
    """Flushes and lets go of what the writer holds; a second call is fine."""


class Writers:
  """Several writers as one.

  Args:
    *writers: written to in this order, closed in reverse, each of them even
      when the closing of another fails.

  Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'metrics.jsonl'
    >>> with Writers(JsonLines(path)) as writer:
    ...   writer.write(10, {'loss': 0.5})
    >>> read_json_lines(path)[0]['loss']
    0.5
  """

  def __init__(self, *writers: Writer):
    self._writers = writers

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes to every writer."""
    for writer in self._writers:
      writer.write(step, metrics)

  def close(self) -> None:
    """Closes every writer."""
    with contextlib.ExitStack() as stack:
      for writer in self._writers:
        stack.callback(writer.close)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


class JsonLines:
  """Writes one JSON object a line, on disk as soon as `write` returns.

  A line is `{"step": 10, "time": 3.2, "loss": 0.5}`, with the seconds since
  the run began; a resumed run goes on from the time of the last line it kept.
  Numbers that are not finite become the strings `"NaN"`, `"Infinity"` and
  `"-Infinity"`, since JSON has no others; `read_json_lines` turns them back.

  Args:
    path: the file.
    resume_at: the step that a run is resumed from. Lines of later steps, and
      a last line that was cut off, are dropped, in one atomic replacement; a
      file that is missing is begun. By default the file must be new or empty.

  Raises:
    FileExistsError: if the file holds lines and `resume_at` is not given.
    ValueError: if `resume_at` is negative, or if a line other than the last is
      not a record.
  """

  def __init__(
    self, path: str | os.PathLike[str], *, resume_at: int | None = None
  ):
    path = Path(path)
    seconds = 0.0
    if resume_at is not None:
      seconds = _drop_lines_after(path, _checked_resume(resume_at))
    elif path.exists() and path.stat().st_size:
      raise FileExistsError(
        f'{path} already holds metrics; pass resume_at to go on from a step,'
        ' or choose another path'
      )
    self._start = time.monotonic() - seconds
    self._file = path.open('a', encoding='utf-8')

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends one line.

    Raises:
      ValueError: if a metric is named `step` or `time`.
    """
    if reserved := {'step', 'time'} & metrics.keys():
      raise ValueError(
        f'metrics may not be named step or time, got {sorted(reserved)};'
        ' rename them'
      )
    record: dict[str, Any] = {
      'step': int(step),
      'time': round(time.monotonic() - self._start, 3),
    }
    for name, value in metrics.items():
      record[name] = _to_json(float(value))
    self._file.write(json.dumps(record, allow_nan=False) + '\n')
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads what `JsonLines` wrote.

  A last line that was cut off, as a killed run leaves it, is not returned.

  Args:
    path: the file.

  Returns:
    One dictionary a line: `step`, `time`, and the metrics as floats.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a line other than the last is not a record.
  """
  return [
    {
      name: float(value) if value in _NON_FINITE else value
      for name, value in record.items()
    }
    for _, record in _lines(Path(path))
  ]


def _to_json(value: float) -> float | str:
  if math.isfinite(value):
    return value
  if math.isnan(value):
    return 'NaN'
  return 'Infinity' if value > 0 else '-Infinity'


def _checked_resume(step: int) -> int:
  if step < 0:
    raise ValueError(f'resume_at must be 0 or more, got {step}')
  return step


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
  """The lines of a file and what they hold, without a torn last one."""
  lines = path.read_bytes().splitlines()
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line.decode())
    except ValueError:  # also what wrong JSON and wrong UTF-8 raise
      record = None
    if isinstance(record, dict) and isinstance(record.get('step'), int):
      records.append((line, record))
    elif number < len(lines):
      raise ValueError(
        f'line {number} of {path} is not a JSON object with an integer step;'
        ' mend the line or move the file away'
      )
  return records


def _drop_lines_after(path: Path, step: int) -> float:
  """Drops later and torn lines; returns the time of the last one kept."""
  if not path.exists():
    return 0.0
  kept = [item for item in _lines(path) if item[1]['step'] <= step]
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    with temporary.open('wb') as file:
      file.writelines(line + b'\n' for line, _ in kept)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  return max((float(record.get('time', 0)) for _, record in kept), default=0.0)


class TensorBoard:
  """Writes TensorBoard scalars, on disk as soon as `write` returns.

  The events are written in the caller's thread, so that a disk that is full
  is an `OSError` here and not a queue that blocks for ever.

  Args:
    directory: where the event files go; made where it is missing.
    resume_at: the step that a run is resumed from. TensorBoard is told to
      forget the later steps of the event files that are there already. By
      default the directory may hold none.

  Raises:
    FileExistsError: if there are event files and `resume_at` is not given.
    ValueError: if `resume_at` is negative.
  """

  def __init__(
    self, directory: str | os.PathLike[str], *, resume_at: int | None = None
  ):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2

    if resume_at is not None:
      _checked_resume(resume_at)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    existing = len(list(directory.glob('events.out.tfevents.*')))
    if existing and resume_at is None:
      raise FileExistsError(
        f'{directory} already holds event files; pass resume_at to go on from'
        ' a step, or choose another directory'
      )
    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    # The suffix keeps two files of one second apart, in the right order.
    suffix = f'.{existing}'
    self._file: Any = EventsWriter(str(directory / 'events'), suffix)
    if resume_at is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step=resume_at + 1, session_log=start)
    self._file.flush()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one scalar for each metric.

    Raises:
      ValueError: if the writer is closed.
    """
    if self._file is None:
      raise ValueError('write to a TensorBoard writer that is closed')
    values = [
      self._summary.Value(tag=name, simple_value=float(value))
      for name, value in metrics.items()
    ]
    self._add(step=int(step), summary=self._summary(value=values))
    self._file.flush()

  def _add(self, **fields: Any) -> None:
    self._file.write_event(self._event(wall_time=time.time(), **fields))

  def close(self) -> None:
    """Closes the event file."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


class Terminal:
  """Shows a run to the person who started it.

  On a terminal: a progress bar, rates, the newest metrics and the time left.
  Elsewhere, one plain line for each `write`::

    step 500/5000  loss 0.412  6.9 steps/s  221 tasks/s  0:10:52 left

  Rates cover the last half minute. They begin at the first write after
  `start_step`, so that the compilation of the first dispatch does not count,
  and they leave out the time between two writes of one step, which is what a
  validation takes.

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
    self._console = rich.console.Console() if console is None else console
    self._live: rich.live.Live | None = None
    if self._console.is_terminal and self._console.is_interactive:
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
      parts += self._describe_rate()
      if (left := self._time_left()) is not None:
        parts.append(f'{_format_seconds(left)} left')
      self._print('  '.join(parts))

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
    from rich.table import Table
    from rich.text import Text

    times = f'{_format_seconds(self._clock() - self._start)} elapsed'
    if self._step < self._total:
      left = self._time_left()
      times += f', {"-:--:--" if left is None else _format_seconds(left)} left'
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(width=1)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_row(
      self._spinner if self._step < self._total else '',
      ProgressBar(self._total, self._step),
      f'{self._step}/{self._total}',
      Text(times, 'cyan'),
    )
    training = self._describe_rate() + self._describe(self._shown, '')
    if self._step == self._start_step:
      training.insert(0, 'waiting for the first steps, compiling')
    lines = [training, self._describe(self._shown, VALIDATION)]
    return Group(row, *(_line(parts) for parts in lines if parts))


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
