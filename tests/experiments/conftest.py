"""Fixtures of all tests of the experiments."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Launcher, serve

CACHE = Path.home() / '.cache' / 'metajax' / 'tests'


@pytest.fixture(scope='session')
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
  with serve(tmp_path_factory.mktemp('logs')) as launcher:
    yield launcher


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
