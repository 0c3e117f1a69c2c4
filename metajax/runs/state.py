"""What an outer loop carries from step to step."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from metajax.base import Metrics, PyTree

__all__ = ['CountedRun', 'Run', 'TrainState']


class TrainState(NamedTuple):
  """All that an outer loop carries; saving it is saving the run."""

  step: jax.Array  # int32 [], outer steps taken
  meta_params: PyTree
  optimizer_state: PyTree
  key: jax.Array  # typed key []; step n draws from fold_in(key, n)
  skipped: jax.Array  # int32 [], steps not applied, as not all was finite
  skipped_in_a_row: jax.Array  # int32 []


Run = Callable[[TrainState, int], tuple[TrainState, Metrics]]
# Also the number of steps that were skipped although their loss was finite.
CountedRun = Callable[[TrainState, int], tuple[TrainState, Metrics, jax.Array]]
