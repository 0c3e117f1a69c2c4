"""From settings to task distributions, a file for every kind of problem."""

__all__ = [
  'images',
  'regression',
  'samplers',
]
