"""Experiment binaries: run one as `python -m experiments.images --help`."""

import time

__all__ = ['STARTED']


# As near to the start of the process as a module can get: what
# `seconds_to_first_step` counts from.
STARTED = time.perf_counter()
