"""The pictures of runs and comparisons, as PNG files."""

__all__ = [
  'axes',
  'canvas',
  'charts',
  'finished',
  'images',
  'regression',
]
