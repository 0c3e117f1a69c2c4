"""What every test runs under."""

from pathlib import Path

import jax
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
  del config
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_num_cpu_devices', 8)  # for the tests of meshes
  # Compilation is most of the time that the tests take.
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
