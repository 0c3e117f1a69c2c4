"""Runs that are killed, stopped or damaged, and resumed."""

import json
import random
import re
import signal

import jax
import numpy as np
import pytest
from conftest import TINY, TINY_IMAGES, result

from metajax.algorithms.table import ALGORITHMS
from metajax.checkpoint import Checkpointer
from metajax.metrics import read_json_lines
from metajax.objectives import mean_squared_error
from metajax.tasks import sinusoid
from metajax.training import make_train_step

EVERY = 5
STEPS = 100
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
  path = workdir / 'metrics.jsonl'
  records = read_json_lines(path) if path.exists() else []
  return records[-1]['step'] if records else 0


def being_saved(workdir):
  return any(workdir.glob('checkpoints/*.orbax-checkpoint-tmp*'))


def test_killed_at_any_moment(launcher, own_cache, undisturbed, tmp_path):
  """SIGKILL at random moments, and while a checkpoint is being written."""
  rng = random.Random(0)
  workdir = tmp_path / 'run'
  flags = (*FLAGS, own_cache(), f'--workdir={workdir}')
  run = launcher.start('sinusoid', *flags)
  # Before anything is saved.
  run.until((workdir / 'config.json').exists)
  run.kill()
  assert run.wait().code == -signal.SIGKILL
  torn = 0
  for goal in (12, 30, 55, 80):
    run = launcher.start('sinusoid', *flags, '--resume')
    run.until(lambda: last_step(workdir) >= goal + rng.randrange(9))
    if goal != 30:
      run.until(lambda: being_saved(workdir))
    run.kill()
    assert run.wait().code == -signal.SIGKILL
    torn += being_saved(workdir)
  assert torn
  ended = launcher.run('sinusoid', *flags, '--resume')
  assert ended.code == 0, ended
  assert ended.stderr == ''
  assert re.match(r'resumed from step \d+\n', ended.stdout)
  assert not being_saved(workdir)
  assert_same_run(workdir, undisturbed)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(launcher, own_cache, undisturbed, tmp_path, number):
  workdir = tmp_path / 'run'
  flags = (*FLAGS, own_cache(), f'--workdir={workdir}')
  run = launcher.start('sinusoid', *flags)
  run.until(lambda: last_step(workdir) >= 42)
  run.kill(number)
  ended = run.wait()
  assert ended.code == 128 + number
  assert ended.stderr == ''
  last = ended.stdout.splitlines()[-1]
  said = re.fullmatch(
    rf'{number.name}: saved step (\d+); the same command with --resume goes on',
    last,
  )
  assert said, last
  assert not (workdir / 'result.json').exists()
  ended = launcher.run('sinusoid', *flags, '--resume')
  assert ended.code == 0, ended
  assert ended.stdout.startswith(f'resumed from step {said[1]}\n')
  assert_same_run(workdir, undisturbed)
