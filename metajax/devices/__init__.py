"""One device, many, or many hosts; and what a program costs on them."""

from metajax.devices import (
  collectives,
  cost,
  distributed,
  mesh,
  parallel,
  streaming,
)

__all__ = [
  'collectives',
  'cost',
  'distributed',
  'mesh',
  'parallel',
  'streaming',
]
