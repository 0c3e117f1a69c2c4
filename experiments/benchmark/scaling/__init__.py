"""Weak scaling: steps compiled for many chips, and what has to hold of them."""

__all__ = [
  'judgement',
  'steps',
]
