"""What takes long is shown: by bars on a terminal, else by a line at times."""

import io
import sys
import time

import pytest
import rich.console

from experiments.runner import progress
from metajax.runs.terminal import Terminal


@pytest.fixture
def lines(monkeypatch):
  """The plain lines, which come without waiting for half a minute."""
  monkeypatch.setattr(progress, '_SECONDS', 0.01)
  said = list[str]()
  monkeypatch.setattr(progress, '_say', said.append)
  return said


def wait_for(holds):
  end = time.monotonic() + 20
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.005)


def test_what_is_quick_says_nothing_in_a_file(capsys):
  with progress.shown('testing') as stage:
    stage(1, 2)
  assert capsys.readouterr().out == ''


def test_what_compiles_says_so_at_once(capsys):
  with progress.shown('compiling the first step', at_once=True):
    assert capsys.readouterr().out == 'compiling the first step\n'


def test_a_file_gets_lines_of_the_innermost_stage(lines):
  with progress.shown('rows') as rows:
    rows(0, 2)
    with progress.shown('testing') as stage:
      stage(10, 2000)
      wait_for(lambda: lines)
    assert lines[0] == 'testing: 10 of 2,000, 0:00:00'
    assert lines[-1] == 'testing: 10 of 2,000, 0:00:00, done'
    wait_for(lambda: 'rows: 0 of 2, 0:00:00' in lines)
  assert not progress._screens


def test_a_stage_that_fails_is_no_longer_shown(lines):
  with pytest.raises(ValueError, match='broken'), progress.shown('testing'):
    raise ValueError('broken')
  assert not progress._screens


def test_another_process_speaks_for_this_one(monkeypatch, capsys):
  monkeypatch.setattr(progress, '_is_silent', lambda: True)
  with progress.shown('compiling', at_once=True) as stage:
    stage(1, 2)
  assert capsys.readouterr().out == ''


class Screen(io.StringIO):
  """A file that says that it is a terminal."""

  def isatty(self):
    return True


def a_screen(monkeypatch):
  """Has `sys.stdout` be a terminal; pytest sets it before each test."""
  for name in ('TTY_COMPATIBLE', 'TTY_INTERACTIVE', 'FORCE_COLOR', 'NO_COLOR'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TERM', 'xterm-256color')
  monkeypatch.setattr(sys, 'stdout', Screen())
  return sys.stdout


def test_a_terminal_gets_bars_that_are_gone_at_the_end(monkeypatch):
  screen = a_screen(monkeypatch)
  with progress.shown('decoding images') as stage:
    stage(3, 12)
    print('a warning')
    with progress.shown('testing'):
      pass
  shown = screen.getvalue()
  for part in ('decoding images', '3/12', 'a warning\n', 'testing', '━'):
    assert part in shown
  assert '\x1b[2K' in shown[shown.rindex('testing') :]  # lines are cleared
  assert shown.count('\x1b[?25h') == 1  # the cursor is back


def test_bars_of_a_training_are_in_its_terminal(monkeypatch):
  a_screen(monkeypatch)
  terminal = Terminal(5, tasks_per_step=1, console=rich.console.Console())
  with terminal, progress.on(terminal), progress.shown('validating'):
    assert progress._screens == [terminal]
    assert [each.what for each in terminal._stages] == ['validating']
  assert not progress._screens
