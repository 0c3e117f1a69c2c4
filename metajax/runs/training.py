"""The outer loop: a train step that can be resumed to the bit."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from metajax.adaptation.outer_optimizers import freeze_buffers
from metajax.base import (
  MetaGradient,
  MetaLearner,
  Metrics,
  PyTree,
  SampleTask,
  as_argument,
  as_key,
)
from metajax.devices.cost import Cost, cost
from metajax.devices.mesh import (
  TASK,
  Rule,
  axis_size,
  put,
  replicated,
  shardings,
  with_places,
)
from metajax.devices.parallel import (
  ChunkSize,
  check_chunk_size,
)
from metajax.devices.streaming import (
  HostSampler,
  stream,
  stream_shapes,
)
from metajax.equality import Frozen, as_frozen
from metajax.inner import partition
from metajax.inner.optimizers import check_optimizer
from metajax.runs._drawing import Source, make_estimate, meta_gradient
from metajax.runs.checking import check_learner
from metajax.runs.inputs import sampled_inputs
from metajax.runs.skipped_steps import SkippedSteps, reporting
from metajax.runs.state import CountedRun, Run, TrainState
from metajax.runs.streamed import streamed

__all__ = [
  'SkippedSteps',
  'TrainState',
  'TrainStep',
  'all_finite',
  'make_train_step',
]


class TrainStep(NamedTuple):
  """The compiled outer loop."""

  run: Run
  init: Callable[[jax.Array], TrainState]
  # The shapes of a state, and where it lies: what a checkpoint is restored to.
  template: Callable[[], TrainState]
  # The program of one step, for devices that need not be there.
  lower: Callable[[], jax.stages.Lowered]
  cost: Callable[[], Cost]  # of one step, on one device of the axis of tasks


# A step, with whether it was applied; and so many of them, as `CountedRun` has.
_Step = Callable[[TrainState, Source], tuple[TrainState, Metrics, jax.Array]]
_Steps = Callable[
  [TrainState, np.int32, Source], tuple[TrainState, Metrics, jax.Array]
]


def make_train_step(
  meta_learner: MetaLearner | Frozen,
  optimizer: optax.GradientTransformation,
  sample: SampleTask,
  *,
  tasks_per_step: int,
  chunk_size: ChunkSize = 'auto',
  max_skipped_in_a_row: int = 20,
  mesh: Mesh | None = None,
  rule: Rule = replicated,
) -> TrainStep:
  r"""Makes the outer loop: sample tasks, estimate the meta-gradient, update.

  Step n draws everything from `fold_in(key, n)`, so any step can be replayed
  and a run that is saved, killed and resumed is bit-identical to one that was
  not. Any number of steps runs in one dispatch of one compiled program.

  What is not finite never reaches the parameters: a step whose loss,
  meta-gradient or new parameters are not is skipped and counted, and a warning
  says how many there were and what is likely to be the cause. After
  `max_skipped_in_a_row` of them the loop returns early; the caller sees it in
  `state.skipped_in_a_row`.

  On a mesh every device draws and adapts to its own share of the tasks. The
  keys of task i of step n depend on n and i alone, so the tasks of a step are
  the same on any number of devices and processes, and its result is but for
  rounding.

  Args:
    meta_learner: any method. Arrays of one that is `metajax.Frozen` are
      arguments of the compiled program, no part of the state, and have no
      gradient.
    optimizer: the outer optimiser.
    sample: the task distribution. Arrays that it holds are arguments of the
      compiled program if it is a `jax.tree_util.Partial` (as those of
      `metajax.tasks` are), constants of it otherwise. What draws on the host
      (`metajax.tasks.HostEpisodes`) is streamed from there; `ByStep` may draw
      other tasks as training goes on, and `metajax.alternate` mixes several.
    tasks_per_step: tasks per outer step.
    chunk_size: tasks that are vectorised together (see `microbatch`); what
      suits the work of one task and the device by default.
    max_skipped_in_a_row: when to give up.
    mesh: the devices to train on, with an axis `'task'`; the default device
      alone if there is none.
    rule: how the state and what is frozen are divided over the mesh
      (`metajax.devices.mesh`); every device has all of it by default.

  Returns:
    `init(key) -> state`, and `run(state, num_steps) -> (state, metrics)`. The
    state given to `run` is donated. Metrics are means over the steps that
    were applied, with `skipped` the number of those that were not.
    `template()` tells shapes and places of a state without making one,
    `lower()` is the program of a single step, ready to be compiled and looked
    into, and `cost()` its arithmetic; none of them needs the devices of the
    mesh to be there.

  Raises:
    ValueError: if a count is not positive, if the devices along the axis
      `'task'` do not divide `tasks_per_step`, or if tasks and learner do not
      fit together (see `metajax.check`).

  Warns:
    SkippedSteps: `run` does, if steps were skipped.

  Example:
    >>> import jax, optax, metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = metajax.maml(mlp([8], 1), metajax.mean_squared_error,
    ...                        inner_lr=0.01, num_steps=1)
    >>> train = make_train_step(learner, optax.adam(1e-3), sinusoid(5, 5),
    ...                         tasks_per_step=4)
    >>> state, metrics = train.run(train.init(jax.random.key(0)), 10)
    >>> int(state.step), sorted(metrics)
    (10, ['loss', 'mse', 'skipped'])
  """
  if tasks_per_step < 1:
    raise ValueError(f'tasks_per_step must be 1 or more, got {tasks_per_step}')
  if max_skipped_in_a_row < 1:
    raise ValueError(
      f'max_skipped_in_a_row must be 1 or more, got {max_skipped_in_a_row}'
    )
  check_optimizer(optimizer)
  check_chunk_size(chunk_size)
  check_learner(meta_learner, sample)
  optimizer = freeze_buffers(optimizer)
  learner = as_frozen(meta_learner)
  estimate = make_estimate(chunk_size, mesh)
  if mesh is not None:
    _check_shares(tasks_per_step, mesh)
  init = _make_init(optimizer, sample)
  places = None
  if mesh is not None:
    begun = jax.eval_shape(init, jax.random.key(0), learner)
    places = shardings(begun, mesh, rule)
  compiled_init = jax.jit(init, out_shardings=places)
  step = _make_step(estimate, optimizer, tasks_per_step, places)
  run = _make_run(step, max_skipped_in_a_row)
  host = sample if isinstance(sample, HostSampler) else None
  draw = sample if host is None else jax.tree_util.Partial(host.decode)

  def template() -> TrainState:
    shapes = jax.eval_shape(compiled_init, jax.random.key(0), learner)
    return shapes if places is None else with_places(shapes, places)

  @cache
  def on_devices() -> Source:
    source = Source(learner, as_argument(draw))
    if mesh is None:
      return source
    return Source(
      put(learner, shardings(learner, mesh, rule)), put(source.draw, mesh)
    )

  def run_on_devices(
    state: TrainState, num_steps: int
  ) -> tuple[TrainState, Metrics, jax.Array]:
    return run(state, np.int32(num_steps), on_devices())

  def shapes() -> tuple[TrainState, Source]:
    source = jax.eval_shape(Source, learner, as_argument(draw))
    if mesh is not None:
      source = Source(
        with_places(source.learner, shardings(source.learner, mesh, rule)),
        with_places(source.draw, shardings(source.draw, mesh)),
      )
    if host is not None:
      source = source._replace(drawn=stream_shapes(host, tasks_per_step, mesh))
    return template(), source

  run_steps: CountedRun = run_on_devices
  if host is not None:
    run_steps = streamed(
      lambda state, tasks: run(
        state, np.int32(1), on_devices()._replace(draw=draw, drawn=tasks)
      ),
      partial(stream, host, tasks_per_step=tasks_per_step, mesh=mesh),
      max_skipped_in_a_row,
    )
  return TrainStep(
    run=reporting(run_steps, meta_learner, sample),
    init=lambda key: compiled_init(as_key(key), on_devices().learner),
    template=template,
    lower=lambda: jax.jit(step, donate_argnums=0).lower(*shapes()),
    cost=lambda: cost(step, *shapes()),
  )


def _make_init(
  optimizer: optax.GradientTransformation, sample: SampleTask
) -> Callable[[jax.Array, Frozen], TrainState]:
  """Makes what draws the state before the first step from a key."""

  def init(key: jax.Array, learner: Frozen) -> TrainState:
    params_key, run_key = jax.random.split(key)
    # Only their shapes matter, so no task is drawn.
    meta_params = learner.made().init(params_key, sampled_inputs(sample))
    # Distinct buffers, because they are donated.
    zero = partial(jnp.zeros, (), jnp.int32)
    state = TrainState(
      zero(), meta_params, optimizer.init(meta_params), run_key, zero(), zero()
    )
    return jax.tree.map(jnp.copy, state)

  return init


def _make_step(
  estimate: MetaGradient,
  optimizer: optax.GradientTransformation,
  tasks_per_step: int,
  places: PyTree | None,
) -> _Step:
  """Makes a step, which also tells whether it was applied."""

  @jax.jit  # `run` asks for its shapes first; jit traces it once for both
  def step(
    state: TrainState, source: Source
  ) -> tuple[TrainState, Metrics, jax.Array]:
    gradient, metrics = meta_gradient(estimate, state, source, tasks_per_step)
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


def _make_run(step: _Step, max_skipped_in_a_row: int) -> _Steps:
  """Makes the program that runs as many steps as an argument says."""

  @partial(jax.jit, donate_argnums=0)
  def run(
    state: TrainState, num_steps: jax.Array, source: Source
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


def _check_shares(tasks_per_step: int, mesh: Mesh) -> None:
  shares = axis_size(mesh, TASK)
  if tasks_per_step % shares:
    raise ValueError(
      f'{tasks_per_step} tasks per step cannot be divided over the {shares}'
      f' devices of the axis {TASK!r}; take a multiple of {shares}'
    )


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
