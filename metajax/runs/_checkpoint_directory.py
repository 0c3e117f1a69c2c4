"""The directory of a run: which checkpoints lie in it, under which names."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from metajax.runs._checkpoint_files import reason
from metajax.runs._checkpoint_leaves import CheckpointError

__all__ = ['RunDirectory', 'Saved']

# `12` is step 12. A step that is saved again lies in `12.1` until `12` is
# removed, so that there is no moment without a whole copy.
_NAME = re.compile(r'(\d+)(?:\.(\d+))?')
_LEFTOVER = re.compile(r'\d+(\.\d+)?\.(orbax-checkpoint-tmp.*|deleted)')


class Saved(NamedTuple):
  """A finished checkpoint; they sort from the oldest to the newest."""

  step: int
  generation: int

  @property
  def name(self) -> str:
    """The name of its directory."""
    suffix = f'.{self.generation}' if self.generation else ''
    return f'{self.step}{suffix}'


class RunDirectory:
  """Holds the checkpoints of one run; it may not be there yet."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self._path = Path(path).absolute()

  def __str__(self) -> str:
    return str(self._path)

  def path_of(self, saved: Saved) -> Path:
    """The directory of one checkpoint."""
    return self._path / saved.name

  def make(self) -> None:
    """Makes it where it is missing, and checks that it can be written."""
    try:
      self._path.mkdir(parents=True, exist_ok=True)
      if not os.access(self._path, os.W_OK | os.X_OK):
        raise PermissionError('no permission to write')
    except OSError as error:
      raise CheckpointError(
        f'cannot write checkpoints to {self}: {reason(error)}; choose a'
        ' directory that can be written'
      ) from error

  def saved(self) -> list[Saved]:
    """The finished checkpoints, from the oldest to the newest."""
    matches = filter(None, map(_NAME.fullmatch, self._names()))
    return sorted(Saved(int(m[1]), int(m[2] or 0)) for m in matches)

  def remove(self, saved: Saved) -> None:
    """Removes a checkpoint."""
    # Renamed first, so that no half-removed step is ever seen as one.
    doomed = self._path / f'{saved.name}.deleted'
    self.path_of(saved).rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)

  def remove_leftovers(self) -> None:
    """Removes what killed or failed processes left behind."""
    for name in filter(_LEFTOVER.fullmatch, self._names()):
      shutil.rmtree(self._path / name, ignore_errors=True)

  def _names(self) -> list[str]:
    try:
      return os.listdir(self._path)
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise CheckpointError(f'cannot read {self}: {reason(error)}') from error
