"""Writers of metrics: JSON lines, TensorBoard, and several as one.

A writer takes the metrics of one step at a time. Use it as a context manager,
or call `close`. The same step may be written more than once, say for training
and then for validation, whose metrics have names such as
`'validation/accuracy'`.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

__all__ = [
  'VALIDATION',
  'JsonLines',
  'TensorBoard',
  'Writer',
  'Writers',
  'read_json_lines',
]

VALIDATION = 'validation/'

# JSON has no such numbers; these strings are what `float` reads back.
_NON_FINITE = ('NaN', 'Infinity', '-Infinity')


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
