"""The inner loop: how to adapt by gradient, and how to differentiate it."""

from metajax.inner import (
  accumulate,
  descend,
  implicit,
  optimizers,
  partition,
  second_order,
)

__all__ = [
  'accumulate',
  'descend',
  'implicit',
  'optimizers',
  'partition',
  'second_order',
]
