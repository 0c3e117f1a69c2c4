"""Runs `experiments.benchmark.overheads`."""

import runpy

__all__: list[str] = []

if __name__ == '__main__':
  runpy.run_module(
    'experiments.benchmark.overheads', run_name='__main__', alter_sys=True
  )
