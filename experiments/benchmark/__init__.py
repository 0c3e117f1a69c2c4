"""How fast metajax is, beside the same computation in other ways.

`python -m experiments.benchmark` runs it, see `__main__`. The parent process
(`measure`) computes nothing itself: every implementation has a worker process
of its own (`worker`), which is what keeps its memory, its threads and its
start apart from those of the others.
"""

__all__ = [
  'inner_memory',
  'kinds',
  'learners',
  'members',
  'overheads',
  'scaling',
  'speed',
  'weak_scaling',
]
