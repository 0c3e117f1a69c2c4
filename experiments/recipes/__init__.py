"""Recipes: a method's setting on a kind of problem, a file for every kind."""

__all__ = [
  'images',
  'kinds',
  'overrides',
  'regression',
]
