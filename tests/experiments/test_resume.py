"""Runs that are killed, stopped or damaged, and resumed."""

import json
import random
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from processes import TINY, result

from experiments.interrupts import PREEMPTED
from metajax.algorithms.table import ALGORITHMS
from metajax.checkpoint import Checkpointer
from metajax.metrics import read_json_lines
from metajax.objectives import mean_squared_error
from metajax.tasks import sinusoid
from metajax.training import make_train_step

EVERY = 5
STEPS = 60
FLAGS = (*TINY, f'--checkpoint_every={EVERY}', f'--steps={STEPS}')


def final_state(workdir):
  """The newest checkpoint of a run on sinusoids."""
  row = ALGORITHMS['maml']
  train_step = make_train_step(
    row.make(row.sinusoid.network(1), mean_squared_error, row.sinusoid),
    row.optimizer(row.sinusoid),
    sinusoid(10, 10),
    tasks_per_step=2,
  )
  template = jax.eval_shape(train_step.init, jax.random.key(0))
  restored = Checkpointer(workdir / 'checkpoints').restore(template)
  assert not restored.rejected
  return restored.state._replace(key=jax.random.key_data(restored.state.key))


def assert_same_run(workdir, undisturbed):
  """All that a run leaves behind equals what another one left."""
  a, b = final_state(workdir), final_state(undisturbed)
  assert a.step == b.step == STEPS
  for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(left, right)
  (a, b) = (
    result((f'--workdir={directory}',)) for directory in (workdir, undisturbed)
  )
  assert a['test'] == b['test']
  assert a['steps'] == b['steps'] == STEPS
  # With one step a line, the records do not depend on where a run stopped.
  a, b = ([
    {name: value for name, value in record.items() if name != 'time'}
    for record in read_json_lines(directory / 'metrics.jsonl')
  ] for directory in (workdir, undisturbed))  # fmt: skip
  assert a == b
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    json.loads(line)
  times = [
    record['time'] for record in read_json_lines(workdir / 'metrics.jsonl')
  ]
  assert times == sorted(times)


@pytest.fixture(scope='module')
def undisturbed(launcher, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  launcher.succeed('sinusoid', *FLAGS, cache, f'--workdir={workdir}')
  records = read_json_lines(workdir / 'metrics.jsonl')
  assert len(records) == STEPS + STEPS // EVERY
  return workdir


def last_step(workdir):
  """The step of the last whole line of the metrics."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  return json.loads(lines[-1])['step'] if lines else 0


def being_saved(workdir):
  return any(workdir.glob('checkpoints/*.orbax-checkpoint-tmp*'))


def test_killed_at_any_moment(launcher, own_cache, undisturbed, tmp_path):
  """SIGKILL at random moments, and while a checkpoint is being written."""
  moments = random.Random(0)
  workdir = tmp_path / 'run'
  flags = (*FLAGS, own_cache(), f'--workdir={workdir}')

  def kill(run):
    run.kill()
    assert run.wait().code == -signal.SIGKILL

  run = launcher.start('sinusoid', *flags)
  run.until((workdir / 'config.json').exists)
  kill(run)  # before anything is saved
  torn = 0
  for begin, end in ((6, 15), (20, 30), (35, 50)):
    run = launcher.start('sinusoid', *flags, '--resume')
    step = moments.randrange(begin, end)
    run.until(lambda step=step: last_step(workdir) >= step)
    if begin != 20:
      run.until(lambda: being_saved(workdir))
    kill(run)
    torn += being_saved(workdir)
  assert torn
  ended = launcher.run('sinusoid', *flags, '--resume')
  assert ended.code == 0, ended
  assert ended.stderr == ''
  assert re.match(r'resumed from step \d+\n', ended.stdout)
  assert not being_saved(workdir)
  assert_same_run(workdir, undisturbed)


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
  assert_same_run(workdir, undisturbed)


@pytest.fixture
def finished(undisturbed, tmp_path):
  """A copy of the run that was not disturbed."""
  shutil.copytree(undisturbed, tmp_path / 'run')
  return tmp_path / 'run'


def damage(workdir, step):
  """Flips one bit of the largest file of a checkpoint."""
  files = (workdir / 'checkpoints' / str(step)).rglob('*')
  path = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_damaged_checkpoint(launcher, cache, undisturbed, finished):
  flags = (*FLAGS, cache, f'--workdir={finished}', '--resume')
  before = (finished / 'metrics.jsonl').read_bytes()
  steps = Checkpointer(finished / 'checkpoints').steps()
  for step in steps:
    damage(finished, step)
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
  damage(finished, STEPS)
  ended = launcher.run('sinusoid', *flags)
  assert ended.code == 0, ended
  passed_over, resumed, *_ = ended.stdout.splitlines()
  assert re.match(
    rf'passed over a bad checkpoint: step {STEPS}: .', passed_over
  )
  assert resumed == f'resumed from step {STEPS - EVERY}'
  assert_same_run(finished, undisturbed)


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
