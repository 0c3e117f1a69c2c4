"""Settings that are paths."""

import os
from typing import Any

from experiments.runner.settings import Listed, Text

__all__ = ['Place', 'Places']


class Place(Text):
  """A path; `~` is the home directory, also behind the = of a flag."""

  allowed = 'a path of up to 4095 bytes, of names that have 1 to 255'

  def check(self, value: Any) -> Any:
    """Returns the path, or raises ValueError."""
    path: str = os.path.expanduser(super().check(value))
    longest = max(len(os.fsencode(name)) for name in path.split('/'))
    whole = len(os.fsencode(path))
    if not path or longest > 255 or whole > 4095 or '\0' in path:
      raise ValueError(f'must be {self.allowed}')
    return path


class Places(Listed):
  """Paths with commas between them."""

  allowed = 'a list of paths'
  member = Place()
