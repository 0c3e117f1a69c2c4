"""The outer loop: a train step that can be resumed to the bit."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from metajax.base import (
  MetaGradient,
  MetaLearner,
  Metrics,
  PyTree,
  SampleTask,
  Task,
  as_argument,
  task_keys,
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
  data_parallel,
  microbatch,
)
from metajax.devices.streaming import (
  HostSampler,
  step_keys,
  stream,
  stream_shapes,
)

__all__ = ['TrainState', 'TrainStep', 'all_finite', 'make_train_step']


class TrainState(NamedTuple):
  """All that an outer loop carries; saving it is saving the run."""

  step: jax.Array  # int32 [], outer steps taken
  meta_params: PyTree
  optimizer_state: PyTree
  key: jax.Array  # typed key []; step n draws from fold_in(key, n)
  skipped: jax.Array  # int32 [], steps not applied: meta-gradient not finite
  skipped_in_a_row: jax.Array  # int32 []


class TrainStep(NamedTuple):
  """The compiled outer loop."""

  run: Callable[[TrainState, int], tuple[TrainState, Metrics]]
  init: Callable[[jax.Array], TrainState]
  # The shapes of a state, and where it lies: what a checkpoint is restored to.
  template: Callable[[], TrainState]
  # The program of one step, for devices that need not be there.
  lower: Callable[[], jax.stages.Lowered]
  cost: Callable[[], Cost]  # of one step, on one device of the axis of tasks


class _Source(NamedTuple):
  """Where the tasks of a step come from; a pytree."""

  draw: Callable[[PyTree], Task]  # from a key, or from what the host has drawn
  drawn: PyTree | None = None  # leaves [tasks, ...]


_Run = Callable[[TrainState, int], tuple[TrainState, Metrics]]
# What is compiled: a step, and as many as an argument says.
_Step = Callable[[TrainState, _Source], tuple[TrainState, Metrics, jax.Array]]
_Steps = Callable[[TrainState, np.int32, _Source], tuple[TrainState, Metrics]]


def make_train_step(
  meta_learner: MetaLearner,
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

  A meta-gradient that is not finite never reaches the parameters: the step is
  skipped and counted. After `max_skipped_in_a_row` of them the loop returns
  early; the caller sees it in `state.skipped_in_a_row`.

  On a mesh every device draws and adapts to its own share of the tasks. The
  keys of task i of step n depend on n and i alone, so the tasks of a step are
  the same on any number of devices and processes, and its result is but for
  rounding.

  Args:
    meta_learner: any method.
    optimizer: the outer optimiser.
    sample: the task distribution. Arrays that it holds are arguments of the
      compiled program if it is a `jax.tree_util.Partial` (as those of
      `metajax.tasks` are), constants of it otherwise. What draws on the host
      (`metajax.tasks.HostEpisodes`) is streamed from there.
    tasks_per_step: tasks per outer step.
    chunk_size: tasks that are vectorised together (see `microbatch`); what
      suits the work of one task and the device by default.
    max_skipped_in_a_row: when to give up.
    mesh: the devices to train on, with an axis `'task'`; the default device
      alone if there is none.
    rule: how the state is divided over the mesh (`metajax.devices.mesh`); every
      device has all of it by default.

  Returns:
    `init(key) -> state`, and `run(state, num_steps) -> (state, metrics)`. The
    state given to `run` is donated. Metrics are means over the steps that
    were applied, with `skipped` the number of those that were not.
    `template()` tells shapes and places of a state without making one,
    `lower()` is the program of a single step, ready to be compiled and looked
    into, and `cost()` its arithmetic; none of them needs the devices of the
    mesh to be there.

  Raises:
    ValueError: if a count is not positive, or if the devices along the axis
      `'task'` do not divide `tasks_per_step`.

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
  estimate = _make_estimate(microbatch(meta_learner.grad, chunk_size), mesh)
  if mesh is not None:
    _check_shares(tasks_per_step, mesh)
  init = _make_init(meta_learner, optimizer, sample)
  places = None
  if mesh is not None:
    places = shardings(jax.eval_shape(init, jax.random.key(0)), mesh, rule)
  init = jax.jit(init, out_shardings=places)
  step = _make_step(estimate, optimizer, tasks_per_step, places)
  run = _make_run(step, max_skipped_in_a_row)
  host = sample if isinstance(sample, HostSampler) else None
  draw = sample if host is None else jax.tree_util.Partial(host.decode)

  def template() -> TrainState:
    shapes = jax.eval_shape(init, jax.random.key(0))
    return shapes if places is None else with_places(shapes, places)

  @cache
  def on_devices() -> _Source:
    argument = as_argument(draw)
    return _Source(argument if mesh is None else put(argument, mesh))

  def run_on_devices(
    state: TrainState, num_steps: int
  ) -> tuple[TrainState, Metrics]:
    return run(state, np.int32(num_steps), on_devices())

  def shapes() -> tuple[TrainState, _Source]:
    source = jax.eval_shape(lambda: _Source(as_argument(draw)))
    if mesh is not None:
      source = with_places(source, shardings(source, mesh))
    if host is not None:
      source = source._replace(drawn=stream_shapes(host, tasks_per_step, mesh))
    return template(), source

  run_steps: _Run = run_on_devices
  if host is not None:
    run_steps = _streamed(
      lambda state, tasks: run(state, np.int32(1), _Source(draw, tasks)),
      partial(stream, host, tasks_per_step=tasks_per_step, mesh=mesh),
      max_skipped_in_a_row,
    )
  return TrainStep(
    run=run_steps,
    init=init,
    template=template,
    lower=lambda: jax.jit(step, donate_argnums=0).lower(*shapes()),
    cost=lambda: cost(step, *shapes()),
  )


def _make_estimate(grad: MetaGradient, mesh: Mesh | None) -> MetaGradient:
  """Makes the meta-gradient draw its tasks where they are adapted to."""

  def draw_and_estimate(
    keys: jax.Array, shared: PyTree, drawn_by: PyTree
  ) -> tuple[PyTree, Metrics]:
    meta_params, draw = shared
    return grad(keys, meta_params, jax.vmap(draw)(drawn_by))

  estimate: MetaGradient = draw_and_estimate
  return estimate if mesh is None else data_parallel(estimate, mesh)


def _make_init(
  meta_learner: MetaLearner,
  optimizer: optax.GradientTransformation,
  sample: SampleTask,
) -> Callable[[jax.Array], TrainState]:
  """Makes what draws the state before the first step from a key."""

  def init(key: jax.Array) -> TrainState:
    params_key, run_key = jax.random.split(key)
    # Only their shapes matter, so no task is drawn.
    shapes = jax.eval_shape(sample, key).support.inputs
    inputs = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes
    )
    meta_params = meta_learner.init(params_key, inputs)
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
  """Makes a step, which also tells whether its meta-gradient is finite."""

  @jax.jit  # `run` asks for its shapes first; jit traces it once for both
  def step(
    state: TrainState, source: _Source
  ) -> tuple[TrainState, Metrics, jax.Array]:
    sample_key, grad_key = step_keys(state.key, state.step)
    drawn_by: PyTree = source.drawn
    if drawn_by is None:
      drawn_by = task_keys(sample_key, tasks_per_step)
    gradient, metrics = estimate(
      task_keys(grad_key, tasks_per_step),
      (state.meta_params, source.draw),
      drawn_by,
    )
    finite = all_finite(gradient)
    updates, optimizer_state = optimizer.update(
      gradient, state.optimizer_state, state.meta_params
    )
    proposed = (
      optax.apply_updates(state.meta_params, updates),
      optimizer_state,
    )
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
    state: TrainState, num_steps: jax.Array, source: _Source
  ) -> tuple[TrainState, Metrics]:
    end = state.step + num_steps
    skipped_before = state.skipped

    def proceed(carry: tuple[TrainState, Metrics]) -> jax.Array:
      state, _ = carry
      return (state.step < end) & (
        state.skipped_in_a_row < max_skipped_in_a_row
      )

    def body(carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
      state, sums = carry
      state, metrics, finite = step(state, source)
      sums = jax.tree.map(
        lambda total, value: total + jnp.where(finite, value, 0), sums, metrics
      )
      return state, sums

    _, shapes, _ = jax.eval_shape(step, state, source)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    first = state.step
    state, sums = jax.lax.while_loop(proceed, body, (state, zeros))
    skipped = state.skipped - skipped_before
    applied = state.step - first - skipped
    means = jax.tree.map(lambda total: total / applied, sums)
    return state, {**means, 'skipped': skipped}

  return run


def _streamed(
  run_one: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]],
  make_stream: Callable[[jax.Array, int], Iterator[PyTree]],
  max_skipped_in_a_row: int,
) -> _Run:
  """Runs steps one by one, each on the tasks that the host has drawn for it."""
  tasks: Iterator[PyTree] = iter(())
  position: tuple[bytes, int] | None = None  # the key and the step it is at

  def run(state: TrainState, num_steps: int) -> tuple[TrainState, Metrics]:
    nonlocal tasks, position
    key = np.asarray(jax.random.key_data(state.key)).tobytes()
    first = int(state.step)
    if position != (key, first):
      tasks = make_stream(state.key, first)
    done: list[Metrics] = []
    while (
      len(done) < num_steps
      and int(state.skipped_in_a_row) < max_skipped_in_a_row
    ):
      state, metrics = run_one(state, next(tasks))
      done.append(metrics)
    position = (key, first + len(done))
    return state, _mean_of_applied(done) if done else {}

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


def _check_shares(tasks_per_step: int, mesh: Mesh) -> None:
  shares = axis_size(mesh, TASK)
  if tasks_per_step % shares:
    raise ValueError(
      f'{tasks_per_step} tasks per step cannot be divided over the {shares}'
      f' devices of the axis {TASK!r}; take a multiple of {shares}'
    )


def all_finite(tree: PyTree) -> jax.Array:
  """Tells whether every number in every leaf is finite."""
  return jnp.all(
    jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])
  )
