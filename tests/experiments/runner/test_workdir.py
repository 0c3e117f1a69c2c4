"""The directory of a run: nobody else's files are written, or trusted."""

import fcntl
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from experiments import sinusoid
from experiments.runner.errors import UsageError
from experiments.runner.paths import Places
from experiments.runner.workdir import (
  open_workdir,
  wait_until_free,
  warn_of_others,
  write_json,
  write_text,
)
from metajax.runs.checkpoint import Checkpointer, CheckpointError
from metajax.tasks import DataError, load_npz


@pytest.fixture
def precious(tmp_path):
  path = tmp_path / 'precious'
  path.write_text('mine')
  return path


def opened(path, **changes):
  given = sinusoid.Settings(workdir=path, **changes)
  return open_workdir(path, given, given.given())


def test_a_lock_is_no_link_and_its_owners_alone(tmp_path, precious):
  run = tmp_path / 'run'
  opened(run).release()
  assert stat.S_IMODE((run / '.lock').stat().st_mode) == 0o600
  (run / '.lock').unlink()
  (run / '.lock').symlink_to(precious)
  for call in (lambda: opened(run, resume=True), lambda: wait_until_free(run)):
    with pytest.raises(UsageError, match=r'lock is a symbolic link, remove it'):
      call()
  assert precious.read_text() == 'mine'


def test_what_is_written_goes_through_no_link(tmp_path, precious):
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'config.json.partial').symlink_to(precious)
  with pytest.raises(UsageError, match=r'partial is a symbolic link'):
    opened(run)
  with pytest.raises(OSError, match='symbolic link'):
    write_json(run / 'config.json', {})
  (run / 'table.md').symlink_to(precious)
  write_text(run / 'table.md', 'a table')
  assert (run / 'table.md').read_text() == 'a table'
  assert precious.read_text() == 'mine'


def test_a_run_that_goes_on_is_in_use_with_and_without_resume(tmp_path):
  run = tmp_path / 'run'
  first = opened(run)
  for changes in ({}, {'resume': True}, {'shots': 3}):
    with pytest.raises(
      UsageError, match=r'/run is in use by another run \(pro'
    ):
      opened(run, **changes)
  first.release()
  with pytest.raises(UsageError, match='already holds this run; add --resume'):
    opened(run)
  lock = os.open(run / '.lock', os.O_RDWR)
  fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the probe has let it go
  os.close(lock)


def test_a_directory_that_others_may_write_into_is_warned_of(tmp_path):
  tmp_path.chmod(0o777)
  with pytest.warns(UserWarning, match='--cache_dir: others may write into'):
    warn_of_others('cache_dir', tmp_path)
  tmp_path.chmod(0o755)
  warn_of_others('cache_dir', tmp_path)


def test_a_path_may_begin_at_home_and_has_names_that_can_be(monkeypatch):
  monkeypatch.setenv('HOME', '/home/of/someone')
  given = sinusoid.Settings(workdir='~/runs', load='~', cache_dir=Path('~/x'))
  assert given.workdir == '/home/of/someone/runs'
  assert (given.load, given.cache_dir) == (
    '/home/of/someone',
    '/home/of/someone/x',
  )
  assert Places().parse('a,~/b') == ('a', '~/b')
  assert Places().check('a,~/b') == ('a', '/home/of/someone/b')
  for bad in ('x' * 300, 'a/' + 'é' * 128 + '/b', '', 'a\0b'):
    with pytest.raises(UsageError, match=r'--workdir=.*: must be a path'):
      sinusoid.Settings(workdir=bad)


class Trap:
  """Code that runs where a pickle of it is read."""

  def __reduce__(self):
    return (os.mkdir, (self.path,))

  def __init__(self, path):
    self.path = path


def test_no_pickle_is_read_of_data_or_of_checkpoints(tmp_path):
  trap = np.empty(1, object)
  trap[0] = Trap(str(tmp_path / 'sprung'))
  np.savez(tmp_path / 'mine.npz', images=trap, labels=[0])
  with pytest.raises(DataError, match='cannot be read'):
    load_npz(tmp_path / 'mine.npz')
  with Checkpointer(tmp_path / 'checkpoints') as checkpointer:
    checkpointer.save(1, {'a': np.zeros(3)})
  for path in (tmp_path / 'checkpoints').rglob('*'):
    if path.is_file() and path.suffix != '.json':
      np.save(path.with_suffix('.npy'), trap, allow_pickle=True)
      path.with_suffix('.npy').rename(path)
  with pytest.raises(CheckpointError):
    Checkpointer(tmp_path / 'checkpoints').restore({'a': np.zeros(3)})
  assert not (tmp_path / 'sprung').exists()
