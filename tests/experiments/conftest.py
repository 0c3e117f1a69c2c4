"""Fixtures of all tests of the experiments."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
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


@pytest.fixture(scope='session')
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A small transformer with the words of the generated language."""
  pytest.importorskip('tokenizers')
  from small_texts import save_small_transformer

  directory = tmp_path_factory.mktemp('model')
  save_small_transformer(directory)
  return directory


@pytest.fixture(scope='session')
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A user's own images: each class has a bright square somewhere else.

  Drawing tasks of them takes less compiling than drawing strokes does.
  """
  rng = np.random.default_rng(0)
  labels = np.repeat([f'sign {number}' for number in range(12)], 6)
  images = rng.integers(0, 60, (72, 16, 16)).astype(np.uint8)
  for index in range(72):
    row, column = divmod(index // 6, 4)
    images[index, 5 * row : 5 * row + 4, 4 * column : 4 * column + 4] += 190
  path = tmp_path_factory.mktemp('npz') / 'mine.npz'
  np.savez(path, images=images, labels=labels)
  return path


@pytest.fixture(scope='session')
def npz(squares: Path) -> tuple[str, str]:
  """Their flags."""
  return ('--dataset=npz', f'--data_file={squares}')
