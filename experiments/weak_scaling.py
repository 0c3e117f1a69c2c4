"""Runs `experiments.benchmark.weak_scaling`."""

import runpy

__all__: list[str] = []

if __name__ == '__main__':
  runpy.run_module(
    'experiments.benchmark.weak_scaling', run_name='__main__', alter_sys=True
  )
