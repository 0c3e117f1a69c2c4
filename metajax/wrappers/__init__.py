"""Wrappers of any method: ensembles, distillation, selection, mining."""
