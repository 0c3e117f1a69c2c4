"""Wrappers of any method or model: ensembles, second losses, protection, ..."""

from metajax.wrappers import (
  auxiliary,
  distillation,
  ensemble,
  mining,
  selection,
  self_destruct,
  weighting,
)

__all__ = [
  'auxiliary',
  'distillation',
  'ensemble',
  'mining',
  'selection',
  'self_destruct',
  'weighting',
]
