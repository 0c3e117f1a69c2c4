"""Pieces of adaptation that several methods share."""

from metajax.adaptation import (
  classes,
  generators,
  gradient_learner,
  heads,
  learned_descent,
  outer_optimizers,
  solved_head,
)

__all__ = [
  'classes',
  'generators',
  'gradient_learner',
  'heads',
  'learned_descent',
  'outer_optimizers',
  'solved_head',
]
