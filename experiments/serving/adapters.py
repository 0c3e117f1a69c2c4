"""What was adapted, kept for requests to come."""

import secrets
from collections import OrderedDict

from experiments.serving.limits import RefusalError
from metajax.trained.portable import Adapted

__all__ = ['Adapters']


class Adapters:
  """Adapters by id: so many, of so many bytes; the least recently used goes.

  Args:
    number: the most of them.
    most_bytes: of all together.
  """

  def __init__(self, number: int, most_bytes: int) -> None:
    self._number = number
    self._most_bytes = most_bytes
    self._kept = OrderedDict[str, tuple[Adapted, int]]()
    self.bytes = 0

  def __len__(self) -> int:
    return len(self._kept)

  def put(self, adapted: Adapted) -> str:
    """Keeps an adapter, and returns an id that nobody can guess.

    Raises:
      RefusalError: if it alone is larger than all may be.
    """
    size = sum(leaf.nbytes for leaf in (*adapted.state, adapted.support))
    if size > self._most_bytes:
      raise RefusalError(
        422,
        f'an adapter to these examples has {size} bytes, and this server keeps'
        f' {self._most_bytes}; send support and queries to /predict together',
      )
    name = secrets.token_urlsafe(16)
    self._kept[name] = adapted, size
    self.bytes += size
    while len(self._kept) > self._number or self.bytes > self._most_bytes:
      _, (_, freed) = self._kept.popitem(last=False)
      self.bytes -= freed
    return name

  def get(self, name: str) -> Adapted:
    """The adapter of an id, which is the most recently used then.

    Raises:
      RefusalError: 404 if there is none.
    """
    if name not in self._kept:
      raise RefusalError(
        404,
        'there is no such adapter, or others have taken its place; adapt again',
      )
    self._kept.move_to_end(name)
    return self._kept[name][0]
