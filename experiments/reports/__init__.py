"""Pages about runs: one HTML file each, which opens without a network."""

__all__ = [
  'again',
  'charts',
  'curves',
  'examples',
  'gathered',
  'measures',
  'of_comparison',
  'of_methods',
  'of_run',
  'of_runs',
  'of_sweep',
  'of_texts',
  'page',
  'pieces',
  'scales',
  'shown_tasks',
]
