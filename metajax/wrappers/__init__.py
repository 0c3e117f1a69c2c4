"""Wrappers of any method or model: ensembles, second losses, protection, ..."""

from metajax.wrappers import (
  auxiliary,
  committee,
  distillation,
  ensemble,
  mining,
  selection,
  self_destruct,
  weighting,
)

__all__ = [
  'auxiliary',
  'committee',
  'distillation',
  'ensemble',
  'mining',
  'selection',
  'self_destruct',
  'weighting',
]
