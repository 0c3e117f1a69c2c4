"""What a run prints: on a terminal of 80 columns, and into a file."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from processes import REPOSITORY, TINY_IMAGES

COLUMNS = 80
FLAGS = (*TINY_IMAGES, '--network=mlp', '--depth=1', '--steps=4')


def on_a_terminal(*command):
  """The exit code, and what a terminal of 80 columns receives."""
  here, there = pty.openpty()
  size = struct.pack('HHHH', 24, COLUMNS, 0, 0)
  fcntl.ioctl(there, termios.TIOCSWINSZ, size)
  environment = os.environ | {'TERM': 'xterm-256color', 'JAX_PLATFORMS': 'cpu'}
  for name in ('COLUMNS', 'NO_COLOR', 'FORCE_COLOR', 'TTY_COMPATIBLE'):
    environment.pop(name, None)
  process = subprocess.Popen(
    [sys.executable, *map(str, command)],
    cwd=REPOSITORY, env=environment, stdin=there, stdout=there, stderr=there,
  )  # fmt: skip
  os.close(there)
  received = b''
  with contextlib.suppress(OSError):  # so Linux says that the end is closed
    while part := os.read(here, 65536):
      received += part
  os.close(here)
  return process.wait(), received.decode()


def without_codes(text):
  """Lines as they were written, without colours and movements."""
  plain = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
  return re.split(r'[\r\n]+', plain)


def check_last_words(text, workdir):
  """The table, the protocol and the files, none of them cut."""
  words = text.split()
  for word in ('transductive;', 'accuracy_by_inner_step.png,', 'precision'):
    assert word in words
  assert '\N{HORIZONTAL ELLIPSIS}' not in text
  assert str(workdir) in ''.join(words)


@pytest.mark.in_ci
def test_a_run_on_a_terminal_has_bars_within_80_columns(npz, cache, tmp_path):
  workdir = tmp_path / ('long' * 20) / 'run'
  code, received = on_a_terminal(
    '-m', 'experiments.images', *FLAGS, *npz, cache, f'--workdir={workdir}'
  )
  assert code == 0, received
  lines = without_codes(received)
  assert max(map(len, lines)) <= COLUMNS
  text = '\n'.join(lines)
  for stage in (
    'reading images', 'checking that method and tasks fit',
    'drawing the first parameters', 'compiling the first step', 'validating',
    'testing', 'fitting the temperature', 'testing the baseline',
    'drawing pictures',
  ):  # fmt: skip
    assert stage in text, stage
  assert '4/4' in text
  check_last_words(text, workdir)


@pytest.mark.in_ci
def test_a_run_into_a_file_has_plain_lines_within_80_columns(
  npz, cache, tmp_path, launcher
):
  workdir = tmp_path / 'run'
  ended = launcher.run('images', *FLAGS, *npz, cache, f'--workdir={workdir}')
  assert (ended.code, ended.stderr) == (0, '')
  assert '\x1b' not in ended.stdout
  assert '\r' not in ended.stdout
  lines = ended.stdout.splitlines()
  assert max(map(len, lines)) <= COLUMNS
  assert lines[0] == 'compiling the first step'
  steps = [line for line in lines if line.startswith('step ')]
  assert [line.split()[1] for line in steps] == [
    '1/4', '2/4', '3/4', '4/4', '4/4',
  ]  # fmt: skip
  check_last_words(ended.stdout, workdir)


@pytest.mark.in_ci
def test_what_was_set_otherwise_in_a_loaded_run_is_one_line(
  npz, cache, tmp_path, launcher
):
  first, second = tmp_path / 'first', tmp_path / 'second'
  ended = launcher.run('images', *FLAGS, *npz, cache, f'--workdir={first}')
  assert ended.code == 0, ended
  load = (f'--load={first}', '--test_only', f'--workdir={second}', cache)
  for given, setting in (
    (('--ways=3', *npz), 'ways'),
    (('--dataset=npz',), 'data_file'),
  ):
    ended = launcher.run('images', *load, *given)
    assert ended.code == 2
    (line,) = ended.stderr.splitlines()
    assert re.match(rf'--{setting}(=\S+)?: ', line)
    assert f'; {first} had ' in line
    assert '--width=4 (here 64)' in line
    assert '--network=mlp (here conv4)' in line
    assert '--ways=2 (here ' in line
    assert not second.exists()
  assert f'--data_file={npz[1].partition("=")[2]} (here none)' in line
  # What fits is tested, and it says what is new.
  ended = launcher.run(
    'images', *load, *FLAGS, *npz, '--inner_lr=0.1', '--eval_inner_steps=2'
  )
  assert (ended.code, ended.stderr) == (0, '')
  said = ' '.join(ended.stdout.split())
  assert f'note: {first} had ' in said
  assert '--inner_lr=0.4 (here 0.1)' in said
  assert '--ways' not in said
