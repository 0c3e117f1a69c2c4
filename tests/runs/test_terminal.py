"""The terminal shows a run, in lines that a file can hold too."""

import io
import math
import sys

import pytest
from rich.console import Console

from metajax.runs.terminal import Stage, Terminal


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
    'step 469/5000  loss 0.412  accuracy 0.861  6.9 steps/s  0:10:57 left',
    'step 469/5000  validation: accuracy 0.840  6.9 steps/s  0:10:57 left',
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


def test_what_else_goes_on_is_shown_below_the_bar(monkeypatch):
  console = make_console(monkeypatch, terminal=True)
  clock = Clock()
  terminal = Terminal(50, tasks_per_step=1, console=console, clock=clock)
  terminal.close()

  def last():
    with console.capture() as capture:
      console.print(terminal._bar())
    return ''.join(_without_colors(capture.get())).splitlines()[-1]

  assert last() == '  waiting for the first steps, compiling'
  stage = Stage('validating', clock)
  terminal.begin(stage)
  stage(20, 200)  # with its compilation
  clock.now += 10
  stage(40, 200)
  assert last().split()[0] == 'validating'
  assert last().endswith('40/200 0:01:20 left')
  assert len(last()) == 80
  terminal.end(stage)
  assert last() == '  waiting for the first steps'


def test_a_stage_says_what_how_far_and_for_how_long():
  clock = Clock()
  stage = Stage('tokenising', clock)
  clock.now += 75
  assert stage.describe() == 'tokenising: 0:01:15'
  assert stage.seconds_left is None
  stage(1, 4)
  clock.now += 5
  stage(2, 4)
  assert stage.describe() == 'tokenising: 2 of 4, 0:01:20'
  assert stage.seconds_left == 10
