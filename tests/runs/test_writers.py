"""Tests of the writers: what a reader finds, also after a crash."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from metajax.runs.writers import (
  JsonLines,
  TensorBoard,
  Writers,
  read_json_lines,
)

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.in_ci
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
    'import sys, metajax.runs.terminal, metajax.runs.writers\n'
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
