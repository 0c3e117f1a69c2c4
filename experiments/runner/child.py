"""Runs an experiment with settings that its parent writes into stdin.

  python -m experiments.runner.child experiments.images < settings.json

is `python -m experiments.images` with the value of its settings in place of
flags: what starts many runs has such values.
"""

import importlib
import sys

__all__ = []


if __name__ == '__main__':
  experiment = importlib.import_module(sys.argv[1]).EXPERIMENT
  sys.exit(experiment.start_with(sys.stdin.read()))
