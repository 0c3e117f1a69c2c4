"""What is kept between runs: compiled programs and decoded data."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from experiments.runner.errors import unwritable
from experiments.runner.workdir import warn_of_others

__all__ = ['cache_dir', 'use_compilation_cache', 'without_compilation_cache']


def cache_dir(asked: str | None) -> Path | None:
  """Where compiled programs and decoded data are kept between runs.

  Args:
    asked: where the user wants them; metajax in the cache directory of the
      user by default, and nowhere if that cannot be written.

  Raises:
    UsageError: if what the user asked for cannot be written.
  """
  home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  directory = Path(asked or Path(home) / 'metajax')
  try:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    if asked:
      raise unwritable('cache_dir', directory, error) from error
    return None
  warn_of_others('cache_dir', directory)
  return directory


def use_compilation_cache(asked: str | None) -> None:
  """Keeps compiled programs, so that a second start is quick."""
  directory = cache_dir(asked)
  if directory is not None:
    compiled = directory / 'compiled'
    if compiled.exists():
      warn_of_others('cache_dir', compiled)
    jax.config.update('jax_compilation_cache_dir', str(compiled))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
  """Neither keeps nor reads compiled programs.

  JAX asks once a process whether there is a cache, hence the resets.
  """
  before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()
