"""Tests of the writers: what a reader finds, also after a crash."""

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from metajax.runs.writers import (
  JsonLines,
  TensorBoard,
  Terminal,
  Writers,
  read_json_lines,
)

ROOT = Path(__file__).resolve().parents[2]


class Clock:
  """Seconds that pass when told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def make_console(monkeypatch, *, terminal, width=80):
  for name in ('TTY_COMPATIBLE', 'TTY_INTERACTIVE', 'FORCE_COLOR', 'NO_COLOR'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TERM', 'xterm-256color')
  return Console(file=io.StringIO(), force_terminal=terminal, width=width)


# JSON lines


def test_json_lines_are_read_back_as_they_were_written(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with JsonLines(path) as writer:
    writer.write(10, {'loss': 0.5, 'accuracy': 0.25})
    writer.write(10, {'validation/accuracy': 0.125})
  first, second = read_json_lines(path)
  assert first.pop('time') <= second.pop('time')
  assert first == {'step': 10, 'loss': 0.5, 'accuracy': 0.25}
  assert second == {'step': 10, 'validation/accuracy': 0.125}


def test_each_json_line_is_on_disk_when_write_returns(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  script = (
    'import os, signal\n'
    'from metajax.runs.writers import JsonLines\n'
    f'writer = JsonLines({str(path)!r})\n'
    'writer.write(1, {"loss": 2.0})\n'
    'os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  killed = subprocess.run(
    [sys.executable, '-c', script], cwd=ROOT, env=os.environ, check=False
  )
  assert killed.returncode == -signal.SIGKILL
  assert [record['loss'] for record in read_json_lines(path)] == [2.0]


def test_non_finite_numbers_are_valid_json_and_come_back(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with JsonLines(path) as writer:
    writer.write(1, {'a': math.nan, 'b': math.inf, 'c': -math.inf})

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  strict = json.loads(path.read_text(), parse_constant=refuse)
  assert (strict['a'], strict['b'], strict['c']) == (
    'NaN',
    'Infinity',
    '-Infinity',
  )
  (record,) = read_json_lines(path)
  assert math.isnan(record['a'])
  assert (record['b'], record['c']) == (math.inf, -math.inf)


def test_resume_drops_later_lines_and_a_torn_one(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with JsonLines(path) as writer:
    for step in (10, 20, 30, 40):
      writer.write(step, {'loss': float(step)})
  kept = path.read_bytes().splitlines(keepends=True)[:2]
  with path.open('ab') as file:
    file.write(b'{"step": 50, "time": 3.1, "lo')
  with JsonLines(path, resume_at=20) as writer:
    assert path.read_bytes() == b''.join(kept)
    writer.write(30, {'loss': -1.0})
  assert [(r['step'], r['loss']) for r in read_json_lines(path)] == [
    (10, 10.0),
    (20, 20.0),
    (30, -1.0),
  ]
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('cut', range(1, 30, 4))
def test_a_line_cut_anywhere_is_neither_read_nor_kept(tmp_path, cut):
  path = tmp_path / 'metrics.jsonl'
  with JsonLines(path) as writer:
    writer.write(1, {'loss': 1.0})
    writer.write(2, {'loss': 2.0})
  # Cutting 1 byte leaves a whole record without its end of line.
  path.write_bytes(path.read_bytes()[:-cut])
  steps = [1, 2] if cut == 1 else [1]
  assert [record['step'] for record in read_json_lines(path)] == steps
  with JsonLines(path, resume_at=2) as writer:
    writer.write(3, {'loss': 3.0})
  assert [record['step'] for record in read_json_lines(path)] == [*steps, 3]


def test_time_goes_on_from_the_last_line_that_was_kept(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "time": 500.0}\n{"step": 2, "time": 900.0}\n')
  with JsonLines(path, resume_at=1) as writer:
    writer.write(2, {})
  assert 500 <= read_json_lines(path)[-1]['time'] < 800


def test_resume_begins_a_file_that_is_missing(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with JsonLines(path, resume_at=5) as writer:
    writer.write(6, {'loss': 1.0})
  assert [record['step'] for record in read_json_lines(path)] == [6]


def test_metrics_of_another_run_are_not_overwritten(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n')
  with pytest.raises(FileExistsError, match=r'holds metrics.*resume_at'):
    JsonLines(path)
  assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize('line', ['{"step": 2', '[1]', '{"loss": 1}', '\x00'])
def test_a_corrupt_line_in_the_middle_is_named_and_kept(tmp_path, line):
  path = tmp_path / 'metrics.jsonl'
  content = f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'
  path.write_text(content)
  with pytest.raises(ValueError, match=r'line 2 of .*metrics\.jsonl'):
    read_json_lines(path)
  with pytest.raises(ValueError, match=r'line 2 of .*metrics\.jsonl'):
    JsonLines(path, resume_at=3)
  assert path.read_text() == content


def test_wrong_arguments_of_json_lines_are_refused(tmp_path):
  with pytest.raises(ValueError, match='0 or more, got -1'):
    JsonLines(tmp_path / 'a', resume_at=-1)
  with (
    JsonLines(tmp_path / 'b') as writer,
    pytest.raises(ValueError, match=r"named step or time, got \['time'\]"),
  ):
    writer.write(1, {'time': 1.0})
  assert read_json_lines(tmp_path / 'b') == []


# TensorBoard


def read_events(directory):
  """The events of a directory, in the order in which TensorBoard reads them."""
  from tensorboardX.proto.event_pb2 import Event

  events = []
  for path in sorted(directory.glob('events.out.tfevents.*')):
    content = path.read_bytes()
    while content:
      (length,) = struct.unpack('<Q', content[:8])
      events.append(Event.FromString(content[12 : 12 + length]))
      content = content[16 + length :]
  return events


def read_scalars(directory):
  return [
    (event.step, value.tag, value.simple_value)
    for event in read_events(directory)
    for value in event.summary.value
  ]


def test_tensorboard_scalars_are_on_disk_when_write_returns(tmp_path):
  with TensorBoard(tmp_path / 'a' / 'b') as writer:
    writer.write(3, {'loss': 0.5, 'validation/loss': 0.25})
    assert read_scalars(tmp_path / 'a' / 'b') == [
      (3, 'loss', 0.5),
      (3, 'validation/loss', 0.25),
    ]


def test_a_resumed_tensorboard_purges_later_steps_and_keeps_the_files(tmp_path):
  from tensorboardX.proto.event_pb2 import SessionLog

  for resume_at in (None, 1, 1):  # within one second: names must not clash
    with TensorBoard(tmp_path, resume_at=resume_at) as writer:
      writer.write(1 if resume_at is None else 2, {'loss': 1.0})
  assert [step for step, _, _ in read_scalars(tmp_path)] == [1, 2, 2]
  starts = [
    event.step
    for event in read_events(tmp_path)
    if event.session_log.status == SessionLog.START
  ]
  assert starts == [2, 2]


def test_tensorboard_refuses_another_run_and_writes_after_close(tmp_path):
  with TensorBoard(tmp_path) as writer:
    pass
  writer.close()
  with pytest.raises(ValueError, match='closed'):
    writer.write(1, {'loss': 1.0})
  with pytest.raises(FileExistsError, match='already holds event files'):
    TensorBoard(tmp_path)
  with pytest.raises(ValueError, match='0 or more, got -2'):
    TensorBoard(tmp_path, resume_at=-2)
  assert len(list(tmp_path.iterdir())) == 1


# Terminal


def test_plain_lines_are_whole_and_hold_no_control_characters(monkeypatch):
  console = make_console(monkeypatch, terminal=False, width=20)
  clock = Clock()
  with Terminal(
    5000, tasks_per_step=32, console=console, clock=clock
  ) as terminal:
    terminal.write(400, {'loss': 0.5, 'accuracy': 0.8})
    clock.now += 10
    terminal.write(469, {'loss': 0.4123, 'accuracy': 0.861, 'norm': 3.0})
    terminal.write(469, {'validation/accuracy': 0.84})
    terminal.note('saved [step] :star: 469')
  assert console.file.getvalue().splitlines() == [
    'step 400/5000  loss 0.500  accuracy 0.800',
    'step 469/5000  loss 0.412  accuracy 0.861  6.9 steps/s  221 tasks/s'
    '  0:10:57 left',
    'step 469/5000  validation: accuracy 0.840  6.9 steps/s  221 tasks/s'
    '  0:10:57 left',
    'saved [step] :star: 469',
  ]


def last_line(console):
  return console.file.getvalue().splitlines()[-1]


def test_rates_leave_out_compilation_and_validation(monkeypatch):
  console = make_console(monkeypatch, terminal=False)
  clock = Clock()
  terminal = Terminal(
    1000, tasks_per_step=4, start_step=100, console=console, clock=clock
  )
  terminal.write(100, {'validation/loss': 2.0})
  clock.now += 60  # the first dispatch, with its compilation
  terminal.write(110, {'loss': 1.0})
  assert 'steps/s' not in last_line(console)
  clock.now += 5
  terminal.write(120, {'loss': 1.0})
  clock.now += 300  # a validation, with its compilation
  terminal.write(120, {'validation/loss': 1.0})
  clock.now += 5
  terminal.write(130, {'loss': 1.0})
  assert '2.0 steps/s  8.0 tasks/s  0:07:15 left' in last_line(console)


def test_rates_follow_a_machine_that_slows_down(monkeypatch):
  console = make_console(monkeypatch, terminal=False)
  clock = Clock()
  terminal = Terminal(10**6, tasks_per_step=1, console=console, clock=clock)
  for step in range(1, 101):
    clock.now += 1 if step < 50 else 10
    terminal.write(step, {'loss': 1.0})
  assert '0.100 steps/s' in last_line(console)
  clock.now += 1000  # longer than the window: still measured
  terminal.write(101, {'loss': 1.0})
  assert ' steps/s' in last_line(console)


def test_bar_shows_progress_rates_metrics_and_notes(monkeypatch):
  console = make_console(monkeypatch, terminal=True)
  clock = Clock()
  with Terminal(
    5000, tasks_per_step=32, console=console, clock=clock
  ) as terminal:
    assert 'compiling' in console.file.getvalue()
    terminal.write(431, {'loss': 0.5})
    clock.now += 10
    terminal.write(500, {'loss': 0.412, 'validation/mse': 0.25})
    terminal.note('saved [step] 500')
  shown = console.file.getvalue()
  for part in (
    '500/5000',
    '0:00:10 elapsed, 0:10:52 left',
    '6.9 steps/s  221 tasks/s  loss 0.412',
    'validation: mse 0.250',
    'saved [step] 500',
  ):
    assert part in shown


@pytest.mark.parametrize('width', [20, 40, 80, 200])
def test_bar_never_overflows_its_terminal(monkeypatch, width):
  console = make_console(monkeypatch, terminal=True, width=width)
  clock = Clock()
  terminal = Terminal(10**7, tasks_per_step=32, console=console, clock=clock)
  for step in (10**6, 2 * 10**6):
    clock.now += 1e4
    terminal.write(step, {'loss': 1e-12, 'accuracy': math.nan, 'mse': 1e30})
  terminal.close()
  with console.capture() as capture:
    console.print(terminal._bar())
  lines = capture.get().splitlines()
  plain = [''.join(_without_colors(line)) for line in lines]
  assert all(len(line) <= width for line in plain)


def _without_colors(line):
  escaped = False
  for character in line:
    escaped = escaped or character == '\x1b'
    if not escaped:
      yield character
    escaped = escaped and character != 'm'


def test_an_interrupt_gives_the_terminal_back(monkeypatch):
  console = make_console(monkeypatch, terminal=True)
  streams = sys.stdout, sys.stderr
  terminal = Terminal(10, tasks_per_step=1, console=console)
  terminal.write(1, {'loss': 1.0})
  with pytest.raises(KeyboardInterrupt), terminal:
    raise KeyboardInterrupt
  shown = console.file.getvalue()
  assert shown.rindex('\x1b[?25h') > shown.rindex('\x1b[?25l')  # the cursor
  assert (sys.stdout, sys.stderr) == streams
  terminal.close()
  terminal.note('how to go on')
  assert 'how to go on' in last_line(console)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'total_steps': 0, 'tasks_per_step': 1}, '1 or more, got 0 and 1'),
    ({'total_steps': 9, 'tasks_per_step': 0}, '1 or more, got 9 and 0'),
    (
      {'total_steps': 9, 'tasks_per_step': 1, 'start_step': 10},
      r'in \[0, 9\], got 10',
    ),
  ],
)
def test_wrong_arguments_of_the_terminal_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    Terminal(**arguments)


# Together


def test_writers_write_to_all_and_close_all_even_if_one_fails(tmp_path):
  class Broken:
    def write(self, step, metrics):
      pass

    def close(self):
      raise OSError('disk full')

  first = JsonLines(tmp_path / 'first')
  last = JsonLines(tmp_path / 'last')
  with (
    pytest.raises(OSError, match='disk full'),
    Writers(first, Broken(), last) as writer,
  ):
    writer.write(1, {'loss': 1.0})
  for name, closed in (('first', first), ('last', last)):
    assert len(read_json_lines(tmp_path / name)) == 1
    with pytest.raises(ValueError, match='closed'):
      closed.write(2, {'loss': 1.0})


def test_importing_metrics_is_light_and_silent():
  script = (
    'import sys, metajax.runs.writers\n'
    'heavy = {"tensorboardX", "matplotlib"} & set(sys.modules)\n'
    'sys.exit(f"imported {heavy}" if heavy else 0)\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (result.returncode, result.stdout, result.stderr) == (0, '', '')
