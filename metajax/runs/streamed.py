"""The outer loop over tasks that the host draws."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Metrics, PyTree
from metajax.runs.state import CountedRun, TrainState

__all__ = ['streamed']


def streamed(
  run_one: Callable[
    [TrainState, PyTree], tuple[TrainState, Metrics, jax.Array]
  ],
  make_stream: Callable[[jax.Array, int], Iterator[PyTree]],
  max_skipped_in_a_row: int,
) -> CountedRun:
  """Runs steps one by one, each on the tasks that the host has drawn for it."""
  tasks: Iterator[PyTree] = iter(())
  position: tuple[bytes, int] | None = None  # the key and the step it is at

  def run(
    state: TrainState, num_steps: int
  ) -> tuple[TrainState, Metrics, jax.Array]:
    nonlocal tasks, position
    key = np.asarray(jax.random.key_data(state.key)).tobytes()
    first = int(state.step)
    if position != (key, first):
      tasks = make_stream(state.key, first)
    done: list[Metrics] = []
    with_loss: list[jax.Array] = []
    while (
      len(done) < num_steps
      and int(state.skipped_in_a_row) < max_skipped_in_a_row
    ):
      state, metrics, finite_loss = run_one(state, next(tasks))
      done.append(metrics)
      with_loss.append(finite_loss)
    position = (key, first + len(done))
    return (
      state,
      _mean_of_applied(done) if done else {},
      jnp.asarray(sum(with_loss), jnp.int32),
    )

  return run


@jax.jit
def _mean_of_applied(steps: list[Metrics]) -> Metrics:
  """The mean over single steps, less those that were skipped."""
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
  skipped = stacked.pop('skipped')
  applied = jnp.sum(skipped == 0)
  means = jax.tree.map(
    lambda leaf: jnp.sum(jnp.where(skipped == 0, leaf, 0)) / applied, stacked
  )
  return {**means, 'skipped': jnp.sum(skipped)}
