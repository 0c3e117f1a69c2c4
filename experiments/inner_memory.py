"""Runs `experiments.benchmark.inner_memory`."""

import runpy

__all__: list[str] = []

if __name__ == '__main__':
  runpy.run_module(
    'experiments.benchmark.inner_memory', run_name='__main__', alter_sys=True
  )
