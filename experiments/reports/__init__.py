"""Pages about runs: one HTML file each, which opens without a network."""

__all__ = [
  'charts',
  'examples',
  'gathered',
  'of_comparison',
  'of_methods',
  'of_run',
  'of_runs',
  'of_texts',
  'page',
  'pieces',
]
