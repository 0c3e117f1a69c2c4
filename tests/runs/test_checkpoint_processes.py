"""Checkpoints survive whatever happens to the process and to its disk."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import assert_equal

from metajax.runs.checkpoint import Checkpointer, CheckpointError

SAVE_FOREVER = """
import sys
import jax.numpy as jnp
from metajax.runs.checkpoint import Checkpointer, CheckpointError
checkpoints = Checkpointer(sys.argv[1], keep_last=2)
blank = {'step': 0, 'weights': jnp.zeros(50_000)}
try:
  step = checkpoints.restore(blank).step
except CheckpointError:
  step = 0
while True:
  step += 1
  weights = jnp.full(50_000, 1.0 * step)
  checkpoints.save(step, {'step': step, 'weights': weights})
  checkpoints.wait()
  print(step, flush=True)
"""


@pytest.mark.in_ci
def test_sigkill_at_any_moment_leaves_the_newest_complete_step(
  tmp_path: Path,
) -> None:
  directory = tmp_path / 'checkpoints'
  draw = random.Random(0)
  last = 0
  for _ in range(3):
    process = subprocess.Popen(
      [sys.executable, '-c', SAVE_FOREVER, str(directory)],
      stdout=subprocess.PIPE,
      text=True,
      cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(draw.uniform(0.0, 0.3))
    process.send_signal(signal.SIGKILL)
    announced = [int(line) for line in [first, *process.stdout] if line.strip()]
    process.wait()
    process.stdout.close()
    blank = {'step': 0, 'weights': jnp.zeros(50_000)}
    found = Checkpointer(directory).restore(blank)
    assert found.rejected == ()
    assert found.step >= announced[-1] > last
    assert found.state['step'] == found.step
    assert set(np.asarray(found.state['weights'])) == {float(found.step)}
    last = found.step


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
  directory = tmp_path / 'disk'
  directory.mkdir()
  try:
    mounted = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(directory)],
      capture_output=True,
      check=False,
    )
  except FileNotFoundError:
    pytest.skip('there is no mount command')
  if mounted.returncode:
    pytest.skip('may not mount a small file system')
  try:
    yield directory
  finally:
    subprocess.run(['umount', str(directory)], check=True)


def test_a_full_disk_leaves_the_previous_checkpoint(small_disk: Path) -> None:
  def state(megabytes: float) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {'a': draw.integers(0, 256, int(megabytes * 1e6), np.uint8)}

  directory = small_disk / 'run'
  checkpoints = Checkpointer(directory)
  checkpoints.save(1, state(0.5))
  checkpoints.save(2, state(5.0))
  with pytest.raises(CheckpointError) as error:
    checkpoints.wait()
  assert str(directory) in str(error.value)
  assert 'No space left on device' in str(error.value)
  assert '\n' not in str(error.value)
  assert os.listdir(directory) == ['1']  # and the room is free again
  # A step that exists is not given up either for one that does not fit.
  checkpoints.save(1, state(5.0))
  with pytest.raises(CheckpointError, match=r'step 1 .*No space left'):
    checkpoints.save(2, state(0.1))
  assert checkpoints.steps() == [1]
  found = checkpoints.restore(state(0.5))
  assert_equal(found.state, jax.tree.map(jnp.asarray, state(0.5)))
  checkpoints.save(2, state(0.5))
  checkpoints.close()
  assert checkpoints.steps() == [1, 2]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
  (tmp_path / 'file').write_text('')
  for directory in (tmp_path / 'file', tmp_path / 'file' / 'below'):
    with pytest.raises(CheckpointError, match=f'cannot write .* {directory}: '):
      Checkpointer(directory).save(0, {})
    with pytest.raises(CheckpointError, match='no checkpoint in'):
      Checkpointer(directory).restore({})


def test_a_directory_that_cannot_be_written(small_disk: Path) -> None:
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  with pytest.raises(CheckpointError, match=f'cannot write .* {small_disk}: '):
    Checkpointer(small_disk).save(0, {})


def test_a_failed_save_does_not_hide_the_error_of_the_block(
  small_disk: Path,
) -> None:
  too_large = np.random.default_rng(0).normal(size=1_000_000)

  def run(error: type[BaseException] | None) -> None:
    with Checkpointer(small_disk) as checkpoints:
      checkpoints.save(1, too_large)
      if error:
        raise error

  with pytest.raises(KeyboardInterrupt):
    run(KeyboardInterrupt)
  with pytest.raises(CheckpointError, match='could not save step 1'):
    run(None)


QUIET = """
import sys
from absl import logging
import metajax.runs.checkpoint
assert 'orbax' not in ' '.join(sys.modules), 'imported too early'
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
with metajax.runs.checkpoint.Checkpointer(sys.argv[1]) as checkpoints:
  checkpoints.save(1, {'count': 1})
  assert checkpoints.restore({'count': 0}).state == {'count': 1}
logging.info('mine')
"""


@pytest.mark.in_ci
def test_nothing_is_printed_and_the_log_of_others_is_left_alone(
  tmp_path: Path,
) -> None:
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', QUIET, str(tmp_path)],
    capture_output=True,
    text=True,
    check=True,
    cwd=Path(__file__).resolve().parents[2],
  )
  assert done.stdout == ''
  assert '] mine\n' in done.stderr
  assert 'orbax' not in done.stderr
  assert 'checkpoint' not in done.stderr
  assert str(tmp_path) not in done.stderr
  assert logging.getLogger().filters == []
