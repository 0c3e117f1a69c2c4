"""Runs on several devices and of several processes, and what befalls them."""

import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from faults import final_state, last_step
from processes import TINY, result

from experiments.runner.interrupts import PREEMPTED
from metajax.runs.checkpoint import Checkpointer

EVERY = 50
STEPS = 300
HEARTBEAT = 4  # seconds
FLAGS = (
  *TINY, f'--checkpoint_every={EVERY}', f'--steps={STEPS}',
  '--tasks_per_step=8', f'--heartbeat_seconds={HEARTBEAT}',
)  # fmt: skip
# A run that is still under way when something happens to it.
ENDLESS = (*FLAGS, '--steps=100000')


def assert_same_bits(workdir, other):
  """The last checkpoints of two runs are equal."""
  states = final_state(workdir), final_state(other)
  jax.tree.map(np.testing.assert_array_equal, *states)


def succeed_together(launcher, *flags):
  runs = launcher.start_together('sinusoid', *flags)
  ended = [run.wait() for run in runs]
  assert [each.code for each in ended] == [0, 0], ended
  return ended


@pytest.fixture(scope='module')
def together(launcher, cache, tmp_path_factory):
  """A run of two processes that nothing happened to."""
  workdir = tmp_path_factory.mktemp('together') / 'run'
  first, second = succeed_together(
    launcher, *FLAGS, cache, f'--workdir={workdir}'
  )
  assert f'step {STEPS}/{STEPS}' in first.stdout
  assert 'step' not in second.stdout  # one process speaks for all
  return workdir


@pytest.mark.long
def test_any_number_of_devices_and_processes_is_the_same_run(
  launcher, cache, together, tmp_path
):
  tested = result((f'--workdir={together}',))['test']
  for name, devices, *flags in (
    ('one', 1),
    ('two_axes', 8, '--mesh=task:4,model:2', '--shard=Dense.*kernel=-,model'),
  ):
    arguments = (*FLAGS, *flags, cache, f'--workdir={tmp_path / name}')
    ended = launcher.run('sinusoid', *arguments, devices=devices)
    assert ended.code == 0, ended
    other = result(arguments)['test']
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), other, tested
    )


@pytest.mark.in_ci
def test_a_preemption_notice_to_one_process_saves_and_ends_all(
  launcher, cache, together, tmp_path
):
  workdir = tmp_path / 'run'
  flags = (*FLAGS, cache, f'--workdir={workdir}')
  runs = launcher.start_together('sinusoid', *flags)
  runs[0].until(lambda: last_step(workdir) >= 70)
  runs[1].kill(signal.SIGTERM)
  first, second = (run.wait() for run in runs)
  assert [first.code, second.code] == [PREEMPTED, PREEMPTED], (first, second)
  said = re.search(
    r'SIGTERM: saved step (\d+); the same command goes on\n', first.stdout
  )
  assert said
  first, _ = succeed_together(launcher, *flags)
  assert f'resumed from step {said[1]}\n' in first.stdout
  assert_same_bits(workdir, together)


@pytest.mark.in_ci
def test_ctrl_c_to_one_process_ends_all(launcher, cache, tmp_path):
  workdir = tmp_path / 'run'
  runs = launcher.start_together(
    'sinusoid', *ENDLESS, cache, f'--workdir={workdir}'
  )
  runs[0].until(lambda: last_step(workdir) >= 10)
  runs[1].kill(signal.SIGINT)
  first, second = (run.wait() for run in runs)
  assert [first.code, second.code] == [PREEMPTED, PREEMPTED], (first, second)
  assert re.search(r'SIGTERM: saved step \d+;', first.stdout)


@pytest.mark.long
def test_a_process_that_fails_says_why_and_ends_all(launcher, cache, tmp_path):
  workdir = tmp_path / 'run'
  runs = launcher.start_together(
    'sinusoid', *ENDLESS, cache, f'--workdir={workdir}'
  )
  runs[0].until(lambda: last_step(workdir) >= EVERY + 10)
  shutil.rmtree(workdir / 'checkpoints')
  (workdir / 'checkpoints').write_text('no directory')
  begun = time.monotonic()
  first, second = (run.wait() for run in runs)
  assert time.monotonic() - begun < 60
  assert first.code == 2, (first, second)
  assert first.stderr.startswith('--workdir: ')
  assert second.code not in (0, PREEMPTED)


@pytest.mark.in_ci
@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_dies_ends_the_others_and_is_named(
  launcher, cache, together, tmp_path, victim
):
  workdir = tmp_path / 'run'
  flags = (*FLAGS, cache, f'--workdir={workdir}')
  runs = launcher.start_together('sinusoid', *flags)
  runs[0].until(lambda: last_step(workdir) >= 120)
  runs[victim].kill()
  begun = time.monotonic()
  survivor = runs[1 - victim].wait()
  assert time.monotonic() - begun < HEARTBEAT + 20
  assert survivor.code not in (0, PREEMPTED)
  if victim:
    assert re.search(
      r'unhealthy \(stopped sending heartbeats\):\n1\n', survivor.stderr
    ), survivor.stderr
  else:
    assert 'leader task was preempted/died' in survivor.stderr
  runs[victim].wait()
  (*_, newest) = Checkpointer(workdir / 'checkpoints').steps()
  first, _ = succeed_together(launcher, *flags)
  assert f'resumed from step {newest}\n' in first.stdout
  assert_same_bits(workdir, together)


@pytest.mark.in_ci
def test_two_processes_saved_it_and_one_goes_on(
  launcher, cache, together, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(together, workdir)
  ended = launcher.run(
    'sinusoid', *FLAGS, cache, f'--workdir={workdir}', '--resume',
    f'--steps={STEPS + 10}',
  )  # fmt: skip
  assert ended.code == 0, ended
  assert f'resumed from step {STEPS}\n' in ended.stdout


def test_processes_that_disagree_do_not_start(launcher, cache, tmp_path):
  runs = launcher.start_together(
    'sinusoid', *FLAGS, cache, f'--workdir={tmp_path}/run',
    own=((), ('--inner_lr=0.5',)),
  )  # fmt: skip
  for run in runs:
    ended = run.wait()
    assert ended.code == 2, ended
    assert re.search(
      r'--distributed: processes disagree: --inner_lr is [\d.]+ on process 0'
      r' \(\S+\) and 0.5 on process 1 \(\S+\); start all with the same\n',
      ended.stderr,
    ), ended.stderr
  assert not (tmp_path / 'run').exists()


def test_a_coordinator_that_does_not_answer(launcher, cache, tmp_path):
  ended = launcher.run(
    'sinusoid', *FLAGS, cache, f'--workdir={tmp_path}/run',
    '--distributed=localhost:9', '--num_processes=2', '--process_id=1',
    '--distributed_timeout=1',
  )  # fmt: skip
  assert ended.code == 2, ended
  assert ended.stderr.startswith(
    '--distributed: the coordinator localhost:9 did not answer within 1 s'
  )


@pytest.mark.in_ci
def test_a_stalled_step_is_reported_with_stacks(launcher, cache, tmp_path):
  workdir = tmp_path / 'run'
  runs = launcher.start_together(
    'sinusoid', *ENDLESS, cache, f'--workdir={workdir}', '--stall_seconds=1',
    '--heartbeat_seconds=60',
  )  # fmt: skip
  runs[0].until(lambda: last_step(workdir) >= 3)
  runs[1].kill(signal.SIGSTOP)
  compiling = runs[0].complained().count('all threads')  # may take a second too
  runs[0].until(lambda: runs[0].complained().count('all threads') > compiling)
  runs[1].kill(signal.SIGCONT)
  step = last_step(workdir)
  runs[0].until(lambda: last_step(workdir) > step)  # it goes on
  for run in runs:
    run.kill()
  ended, _ = (run.wait() for run in runs)
  assert re.search(
    r'nothing has gone on for \d+ s \(--stall_seconds\), while taking 1 steps'
    r' from step \d+; the stacks of all threads:',
    ended.stderr,
  )
  stacks = ended.stderr.rpartition('all threads:\n')[2]
  assert stacks.startswith('Thread '), ended
  assert re.search(
    r'Thread MainThread .*\n(  File .*\n)*  File .*loop.py', stacks
  )
