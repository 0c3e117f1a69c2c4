"""Serves what a run has learned over HTTP (`experiments.serve`).

`server` holds the port and ends it cleanly; `app` has the routes; `reading`
makes arrays of what was sent; `batching` runs what waits at the same time as
one program; `adapters` keeps what was adapted; `limits` says what is too much;
`metrics` counts; `description` is for other programs, `page.html` for people.
"""

__all__ = [
  'adapters',
  'app',
  'batching',
  'description',
  'limits',
  'metrics',
  'reading',
  'server',
]
