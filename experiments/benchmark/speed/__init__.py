"""Outer steps of this library and of its peers, timed in turns."""

__all__ = [
  'base',
  'draw',
  'in_jax',
  'in_metajax',
  'in_plain_jax',
  'in_torch',
  'measure',
  'methods',
  'processes',
  'record',
  'session',
  'tables',
  'worker',
  'workloads',
]
