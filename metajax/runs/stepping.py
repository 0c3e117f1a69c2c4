"""The steps of an outer loop, as functions of a state and of a source."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.adaptation.outer_optimizers import freeze_buffers
from metajax.base import MetaGradient, Metrics, PyTree, SampleTask
from metajax.inner import partition
from metajax.runs.drawing import StepSource, meta_gradient
from metajax.runs.inputs import sampled_inputs
from metajax.runs.state import TrainState

__all__ = ['Step', 'Steps', 'all_finite', 'make_init', 'make_run', 'make_step']

# A step, with whether it was applied; and so many of them, as `CountedRun` has.
Step = Callable[[TrainState, StepSource], tuple[TrainState, Metrics, jax.Array]]
Steps = Callable[
  [TrainState, np.int32, StepSource], tuple[TrainState, Metrics, jax.Array]
]


def make_init(
  sample: SampleTask,
) -> Callable[[jax.Array, StepSource], TrainState]:
  """Makes what draws the state before the first step from a key."""

  def init(key: jax.Array, source: StepSource) -> TrainState:
    params_key, run_key = jax.random.split(key)
    # Only their shapes matter, so no task is drawn.
    meta_params = source.learner.made().init(params_key, sampled_inputs(sample))
    optimizer = freeze_buffers(source.optimizer.made())
    # Distinct buffers, because they are donated.
    zero = partial(jnp.zeros, (), jnp.int32)
    state = TrainState(
      zero(), meta_params, optimizer.init(meta_params), run_key, zero(), zero()
    )
    return jax.tree.map(jnp.copy, state)

  return init


def make_step(
  estimate: MetaGradient, tasks_per_step: int, places: PyTree | None
) -> Step:
  """Makes a step, which also tells whether it was applied."""

  @jax.jit  # `run` asks for its shapes first; jit traces it once for both
  def step(
    state: TrainState, source: StepSource
  ) -> tuple[TrainState, Metrics, jax.Array]:
    gradient, metrics = meta_gradient(estimate, state, source, tasks_per_step)
    optimizer = freeze_buffers(source.optimizer.made())
    updates, optimizer_state = optimizer.update(
      gradient, state.optimizer_state, state.meta_params
    )
    proposed = (
      optax.apply_updates(state.meta_params, updates),
      optimizer_state,
    )
    # A buffer may hold what is not finite, such as a mask of minus infinities.
    learned, _ = partition.split_learned(proposed[0])
    finite = all_finite((gradient, metrics.get('loss', 0.0), learned))
    # A moment that has overflown would hold the parameters still for ever.
    finite &= _stays_finite(state.optimizer_state, optimizer_state)
    current = (state.meta_params, state.optimizer_state)
    meta_params, optimizer_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), proposed, current
    )
    missed = jnp.int32(~finite)
    state = TrainState(
      state.step + 1,
      meta_params,
      optimizer_state,
      state.key,
      state.skipped + missed,
      (state.skipped_in_a_row + 1) * missed,
    )
    if places is not None:
      state = jax.lax.with_sharding_constraint(state, places)
    return state, metrics, finite

  return step


def make_run(step: Step, max_skipped_in_a_row: int) -> Steps:
  """Makes what runs as many steps as an argument says."""

  def run(
    state: TrainState, num_steps: np.int32, source: StepSource
  ) -> tuple[TrainState, Metrics, jax.Array]:
    end = state.step + num_steps
    skipped_before = state.skipped

    def proceed(carry: tuple[TrainState, Metrics, jax.Array]) -> jax.Array:
      state, *_ = carry
      return (state.step < end) & (
        state.skipped_in_a_row < max_skipped_in_a_row
      )

    def body(
      carry: tuple[TrainState, Metrics, jax.Array],
    ) -> tuple[TrainState, Metrics, jax.Array]:
      state, sums, with_loss = carry
      state, metrics, applied = step(state, source)
      sums = jax.tree.map(
        lambda total, value: total + jnp.where(applied, value, 0), sums, metrics
      )
      with_loss += ~applied & jnp.isfinite(metrics.get('loss', 0.0))
      return state, sums, with_loss

    _, shapes, _ = jax.eval_shape(step, state, source)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    first = state.step
    state, sums, with_loss = jax.lax.while_loop(
      proceed, body, (state, zeros, jnp.int32(0))
    )
    skipped = state.skipped - skipped_before
    applied = state.step - first - skipped
    means = jax.tree.map(lambda total: total / applied, sums)
    return state, {**means, 'skipped': skipped}, with_loss

  return run


def _stays_finite(before: PyTree, after: PyTree) -> jax.Array:
  """Whether what was finite still is: optimisers may begin with infinities."""
  return all_finite(
    jax.tree.map(
      lambda old, new: jnp.where(jnp.isfinite(old), new, 0), before, after
    )
  )


def all_finite(tree: PyTree) -> jax.Array:
  """Tells whether every number in every leaf is finite."""
  return jnp.all(
    jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])
  )
