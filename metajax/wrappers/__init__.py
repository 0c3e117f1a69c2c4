"""Wrappers of any method: ensembles, distillation, selection, mining."""

from metajax.wrappers import distillation, ensemble, mining, selection

__all__ = ['distillation', 'ensemble', 'mining', 'selection']
