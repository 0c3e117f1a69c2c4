"""Lengths that tokens are padded to."""

__all__ = ['bucket']


def bucket(length: int) -> int:
  """The length that so many tokens are padded to: 16, 24, 32, 48, 64, 96, ...

  One of few, so that few programs are compiled.

  Example:
    >>> [bucket(length) for length in (1, 16, 17, 33, 65)]
    [16, 16, 24, 48, 96]
  """
  size = 16
  while size < length:
    grown = size + size // 2
    size = grown if grown >= length else 2 * size
  return size
