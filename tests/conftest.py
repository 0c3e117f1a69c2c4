"""What every test runs under."""

import contextlib
import ctypes
import functools
import gc
import os
from pathlib import Path

import jax
import pytest
import quick_compilation

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
  del config
  os.environ['XLA_FLAGS'] = ' '.join(
    [os.environ.get('XLA_FLAGS', ''), *quick_compilation.FLAGS]
  )
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_num_cpu_devices', 8)  # for the tests of meshes
  jax.config.update(
    'jax_compilation_cache_dir',
    str(Path.home() / '.cache' / 'metajax' / 'tests'),
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


# Modules in which no operation mixes types by itself. Elsewhere something does,
# such as optax or flax, on purpose.
STRICT = frozenset({
  'test_accumulate', 'test_encoders', 'test_implicit', 'test_partition',
  'test_protonet',
})  # fmt: skip


@pytest.fixture(autouse=True)
def strict_promotion(request: pytest.FixtureRequest):
  """Forbids that types are promoted without a word, where that can be."""
  if request.module.__name__.rpartition('.')[2] not in STRICT:
    yield
    return
  with jax.numpy_dtype_promotion('strict'):
    yield


# Of what a process may keep between modules: over a session programs add up.
_MOST_MEMORY = 3 << 30


@pytest.fixture(autouse=True, scope='module')
def bounded_memory():
  """Forgets programs after a module, where they have become many."""
  yield
  statistics = Path('/proc/self/statm')
  if not statistics.exists():  # not on Linux
    return
  pages = int(statistics.read_text().split()[1])
  if pages * os.sysconf('SC_PAGE_SIZE') > _MOST_MEMORY:
    jax.clear_caches()
    gc.collect()
    # What is freed in small pieces, the C library keeps unless it is told.
    with contextlib.suppress(OSError, AttributeError):
      ctypes.CDLL('libc.so.6').malloc_trim(0)


@pytest.fixture
def traced_once():
  """Wraps functions that JAX has to trace exactly once in a test."""
  counts: dict[str, int] = {}

  def wrap(function):
    name = f'{function.__name__}, number {len(counts)}'
    counts[name] = 0

    @functools.wraps(function)
    def counted(*arguments):
      counts[name] += 1
      return function(*arguments)

    return counted

  yield wrap
  assert set(counts.values()) <= {1}, f'traces: {counts}'


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
