"""What every test runs under."""

import os
from pathlib import Path

import jax
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


# Compilation is most of the time that the tests take, and most of that these.
QUICK_COMPILATION = '--xla_llvm_disable_expensive_passes=true'


def pytest_configure(config: pytest.Config) -> None:
  del config
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} {QUICK_COMPILATION}'
  )
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_num_cpu_devices', 8)  # for the tests of meshes
  jax.config.update(
    'jax_compilation_cache_dir',
    str(Path.home() / '.cache' / 'metajax' / 'tests'),
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


@pytest.fixture
def float64():
  """Double precision for the length of a test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='session')
def shared_data() -> Path:
  """Real data beside the checkout, where there is any."""
  folder = REPOSITORY.parent / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip(f'{folder} is not here')
  return folder
