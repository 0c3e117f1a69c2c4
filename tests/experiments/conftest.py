"""Fixtures of all tests of the experiments."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import REPOSITORY, Launcher

CACHE = Path.home() / '.cache' / 'metajax' / 'tests'


@pytest.fixture(scope='session')
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
  server = subprocess.Popen(
    [sys.executable, Path(__file__).with_name('fork_server.py')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY), 'JAX_PLATFORMS': 'cpu'},
  )
  with server:
    yield Launcher(server, tmp_path_factory.mktemp('logs'))
    server.stdin.close()


@pytest.fixture(scope='session')
def cache() -> str:
  """Flag of a compilation cache that outlives the tests."""
  return f'--cache_dir={CACHE}'


@pytest.fixture
def own_cache(tmp_path: Path, cache: str) -> Callable[[], str]:
  """Flag of a copy of it, for processes that are killed while they write."""

  def copy() -> str:
    shutil.copytree(
      cache.partition('=')[2], tmp_path / 'cache', dirs_exist_ok=True
    )
    return f'--cache_dir={tmp_path / "cache"}'

  return copy
