"""Runs that are killed, stopped or damaged, and resumed."""

import re
import shutil
import signal

import pytest
from faults import (
  EVERY,
  OTHERS,
  assert_same_run,
  flip_a_bit,
  last_step,
  trial,
)
from processes import TINY

from experiments.runner.interrupts import PREEMPTED
from metajax.runs.checkpoint import Checkpointer
from metajax.runs.writers import read_json_lines

STEPS = 60
FLAGS = (*TINY, f'--checkpoint_every={EVERY}', f'--steps={STEPS}')


@pytest.fixture(scope='module')
def undisturbed(launcher, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  launcher.succeed('sinusoid', *FLAGS, cache, f'--workdir={workdir}')
  records = read_json_lines(workdir / 'metrics.jsonl')
  assert len(records) == STEPS + STEPS // EVERY
  return workdir


@pytest.mark.in_ci
def test_what_machines_do_to_runs(launcher, own_cache, tmp_path):
  """The short form of `python tests/experiments/faults.py`."""
  outcome = trial(launcher, own_cache(), tmp_path, kills=2, seed=0)
  assert outcome.torn_saves
  assert {'disk full', *outcome.faults} >= OTHERS.keys()


@pytest.mark.long
def test_asked_to_stop(launcher, own_cache, undisturbed, tmp_path):
  """SIGTERM and Ctrl-C save first; after a SIGTERM the next start goes on."""
  workdir = tmp_path / 'run'
  flags = (*FLAGS, own_cache(), f'--workdir={workdir}')
  saved, resume = None, ()
  for number, step, code, then in (
    (signal.SIGTERM, 12, PREEMPTED, ()),
    (signal.SIGTERM, 22, PREEMPTED, ()),
    (signal.SIGINT, 33, 130, ('--resume',)),
  ):
    run = launcher.start('sinusoid', *flags, *resume)
    run.until(lambda step=step: last_step(workdir) >= step)
    run.kill(number)
    ended = run.wait()
    assert ended.code == code
    assert ended.stderr == ''
    lines = ended.stdout.splitlines()
    assert not saved or lines[0] == f'resumed from step {saved}'
    resume = then
    with_resume = ' with --resume' if resume else ''
    said = re.fullmatch(
      rf'{number.name}: saved step (\d+); the same command{with_resume} goes'
      ' on',
      lines[-1],
    )
    assert said, lines[-1]
    saved = int(said[1])
    assert saved >= step
    assert not (workdir / 'result.json').exists()
  ended = launcher.run('sinusoid', *flags)
  assert ended.code == 2  # Ctrl-C leaves the next step to whoever pressed it
  ended = launcher.run('sinusoid', *flags, '--resume')
  assert ended.code == 0, ended
  assert ended.stdout.startswith(f'resumed from step {saved}\n')
  assert_same_run(workdir, undisturbed, STEPS)


@pytest.fixture
def finished(undisturbed, tmp_path):
  """A copy of the run that was not disturbed."""
  shutil.copytree(undisturbed, tmp_path / 'run')
  return tmp_path / 'run'


@pytest.mark.in_ci
def test_damaged_checkpoint(launcher, cache, undisturbed, finished):
  flags = (*FLAGS, cache, f'--workdir={finished}', '--resume')
  before = (finished / 'metrics.jsonl').read_bytes()
  steps = Checkpointer(finished / 'checkpoints').steps()
  for step in steps:
    flip_a_bit(finished, step)
  ended = launcher.run('sinusoid', *flags)
  assert ended.code == 2
  assert ended.stdout == ''
  assert re.fullmatch(r'--resume: no good checkpoint in .*\n', ended.stderr)
  assert (finished / 'metrics.jsonl').read_bytes() == before
  # One of them is whole again.
  for name in ('checkpoints', 'result.json'):
    path = finished / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  shutil.copytree(undisturbed / 'checkpoints', finished / 'checkpoints')
  flip_a_bit(finished, STEPS)
  ended = launcher.run('sinusoid', *flags)
  assert ended.code == 0, ended
  passed_over, resumed, *_ = ended.stdout.splitlines()
  assert re.match(
    rf'passed over a bad checkpoint: step {STEPS}: .', passed_over
  )
  assert resumed == f'resumed from step {STEPS - EVERY}'
  assert_same_run(finished, undisturbed, STEPS)


@pytest.mark.in_ci
def test_stopped_after_the_last_step(launcher, cache, finished):
  run = launcher.start(
    'sinusoid', *FLAGS, cache, f'--workdir={finished}', '--resume',
    '--eval_tasks=1000000',
  )  # fmt: skip
  run.until(lambda: 'resumed from' in run.printed())
  run.kill(signal.SIGTERM)
  ended = run.wait()
  assert ended.code == 128 + signal.SIGTERM, ended
  assert ended.stderr == ''
  assert re.fullmatch(
    rf'resumed from step {STEPS}\nSIGTERM: (saved step {STEPS}|stopped at once)'
    '; the same command with --resume goes on\n',
    ended.stdout,
  )
