"""Wrappers of any method: ensembles, second losses, distillation, selection."""

from metajax.wrappers import (
  auxiliary,
  distillation,
  ensemble,
  mining,
  selection,
  weighting,
)

__all__ = [
  'auxiliary',
  'distillation',
  'ensemble',
  'mining',
  'selection',
  'weighting',
]
