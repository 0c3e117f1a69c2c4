"""What an outer loop carries from step to step."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from metajax.base import Metrics, PyTree
from metajax.devices.cost import Cost

__all__ = ['CountedRun', 'Run', 'TrainState', 'TrainStep']


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


class TrainStep(NamedTuple):
  """The compiled outer loop."""

  run: Run
  init: Callable[[jax.Array], TrainState]
  # The shapes of a state, and where it lies: what a checkpoint is restored to.
  template: Callable[[], TrainState]
  # The program of one step, for devices that need not be there.
  lower: Callable[[], jax.stages.Lowered]
  cost: Callable[[], Cost]  # of one step, on one device of the axis of tasks
