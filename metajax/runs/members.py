"""Several runs as one program: members, which differ in their keys and rates.

Each member is the run that it would be alone, but for rounding: it draws its
own tasks, counts and skips its own steps, and stops by itself where too many of
them are skipped. All of them lie along a leading axis of the state, which a
mesh divides over its devices; these need not speak to one another then.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import Metrics, PyTree, SampleTask, as_argument, as_key
from metajax.devices.cost import cost
from metajax.devices.mesh import TASK, axis_size, put, shardings, with_places
from metajax.devices.parallel import ChunkSize, copies_worth
from metajax.devices.streaming import HostSampler
from metajax.equality import Frozen, as_frozen
from metajax.runs.drawing import StepSource, make_estimate
from metajax.runs.skipped_steps import reporting
from metajax.runs.state import TrainState, TrainStep
from metajax.runs.stepping import Step, make_init, make_run, make_step

__all__ = [
  'Varied',
  'check_members',
  'make_members_step',
  'member_of',
]


class Varied(NamedTuple):
  """A method or an outer optimiser that is made of each member's own values.

  The values are arguments of the compiled program, traced when `make` is
  called: rates and other numbers that no Python condition asks for, nor a
  shape.

  Example:
    >>> import jax, jax.numpy as jnp, metajax, optax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = metajax.maml(mlp([8], 1), metajax.mean_squared_error,
    ...                        inner_lr=0.01, num_steps=1)
    >>> train = metajax.make_train_step(
    ...   learner, Varied(optax.adam, jnp.array([1e-3, 1e-2])), sinusoid(5, 5),
    ...   tasks_per_step=4, members=2)
    >>> state, metrics = train.run(train.init(jax.random.split(
    ...   jax.random.key(0), 2)), 10)
    >>> state.step.tolist(), metrics['loss'].shape
    ([10, 10], (2,))
  """

  make: Callable[[PyTree], Any]
  values: PyTree  # leaves [members, ...]


def member_of(made: Any, member: int = 0) -> Frozen:
  """What one of the members has, on arrays of its own where it is `Varied`.

  Args:
    made: a learner or an optimiser, perhaps `Frozen` or `Varied`.
    member: its number.
  """
  if not isinstance(made, Varied):
    return as_frozen(made)
  return Frozen(made.make, jax.tree.map(lambda leaf: leaf[member], made.values))


def check_members(members: int, mesh: Mesh | None, *varied: Any) -> None:
  """Refuses numbers of members that cannot be meant.

  Args:
    members: how many.
    mesh: the devices that they are divided over.
    *varied: what may be `Varied`.

  Raises:
    ValueError: if there is none, if the devices do not divide them, or if a
      value is not one for each.
  """
  if members < 1:
    raise ValueError(f'members must be 1 or more, got {members}')
  shares = 1 if mesh is None else axis_size(mesh, TASK)
  if members % shares:
    raise ValueError(
      f'{members} members cannot be divided over the {shares} devices of the'
      f' axis {TASK!r}; take a multiple of {shares}'
    )
  for each in varied:
    if not isinstance(each, Varied):
      continue
    shapes = [jax.numpy.shape(leaf) for leaf in jax.tree.leaves(each.values)]
    wrong = [shape for shape in shapes if shape[:1] != (members,)]
    if wrong or not shapes:
      raise ValueError(
        f'values that vary must be arrays of {members} members, got'
        f' {f"the shape {list(wrong[0])}" if wrong else "none"}'
      )


def make_members_step(
  meta_learner: Any,
  optimizer: Any,
  sample: SampleTask,
  *,
  members: int,
  tasks_per_step: int,
  chunk_size: ChunkSize,
  max_skipped_in_a_row: int,
  mesh: Mesh | None,
) -> TrainStep:
  """The outer loop of several members, as `metajax.make_train_step` has it.

  Args:
    meta_learner: any method, perhaps `Varied`.
    optimizer: the outer optimiser, perhaps `Varied`.
    sample: the task distribution.
    members: how many.
    tasks_per_step: of each of them.
    chunk_size: tasks that are vectorised together, of each of them.
    max_skipped_in_a_row: when each of them gives up.
    mesh: the devices that they are divided over, if there is one.

  Raises:
    ValueError: if the tasks are drawn on the host.
  """
  if isinstance(sample, HostSampler):
    raise ValueError('members draw their tasks on the device, not on the host')
  parts: dict[str, Any] = {'learner': meta_learner, 'optimizer': optimizer}
  own = {
    name: Frozen(part.make, part.values)
    for name, part in parts.items()
    if isinstance(part, Varied)
  }
  shared = {
    name: as_frozen(part) for name, part in parts.items() if name not in own
  } | {'draw': as_argument(sample)}
  init_one = make_init(sample)
  together = _together(
    make_step(make_estimate(tasks_per_step, None), tasks_per_step, None),
    init_one,
    StepSource(
      member_of(meta_learner), member_of(optimizer), as_argument(sample)
    ),
    members // (1 if mesh is None else axis_size(mesh, TASK)),
  )
  estimate = make_estimate(chunk_size, None, together)
  step = make_step(estimate, tasks_per_step, None)
  run_one = make_run(step, max_skipped_in_a_row)

  @_jit_for_each(together, mesh, donate=True)
  def run(state: TrainState, own: PyTree, shared: PyTree) -> PyTree:
    shared, num_steps = shared
    return run_one(state, num_steps, StepSource(**own, **shared))

  @_jit_for_each(together, mesh)
  def init(key: jax.Array, own: PyTree, shared: PyTree) -> TrainState:
    return init_one(key, StepSource(**own, **shared))

  @_jit_for_each(together, mesh, donate=True)
  def one_step(state: TrainState, own: PyTree, shared: PyTree) -> PyTree:
    return step(state, StepSource(**own, **shared))

  def places() -> PyTree:
    assert mesh is not None  # or everything lies where it is
    along = shardings(own, mesh, lambda path, shape: PartitionSpec(TASK))
    return along, shardings(shared, mesh)

  @cache
  def on_devices() -> PyTree:
    both = own, shared
    return both if mesh is None else put(both, places())

  def run_on_devices(
    state: TrainState, num_steps: int
  ) -> tuple[TrainState, Metrics, jax.Array]:
    own, shared = on_devices()
    result: tuple[TrainState, Metrics, jax.Array] = run(
      state, own, (shared, np.int32(num_steps))
    )
    return result

  def template() -> TrainState:
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    shapes: TrainState = jax.eval_shape(init, keys, own, shared)
    if mesh is None:
      return shapes
    along = NamedSharding(mesh, PartitionSpec(TASK))
    places = jax.tree.map(lambda _: along, shapes)
    placed: TrainState = with_places(shapes, places)
    return placed

  def shapes() -> PyTree:
    both = jax.eval_shape(lambda: (own, shared))
    return template(), *(both if mesh is None else with_places(both, places()))

  return TrainStep(
    run=reporting(run_on_devices, partial(member_of, meta_learner), sample),
    init=lambda keys: init(_checked(keys, members), *on_devices()),
    template=template,
    lower=lambda: one_step.lower(*shapes()),
    cost=lambda: cost(one_step, *shapes()),
  )


def _checked(keys: jax.Array, members: int) -> jax.Array:
  keys = as_key(keys)
  if keys.shape != (members,):
    raise ValueError(
      f'init wants a key for each of {members} members, got keys of shape'
      f' {list(keys.shape)}; give jax.random.split(key, {members})'
    )
  return keys


def _together(
  step: Step,
  init: Callable[[jax.Array, StepSource], TrainState],
  source: StepSource,
  members: int,
) -> int:
  """How many members a device vectorises; it computes others after them.

  All, but on a CPU: there no more than make steps that are worth the dispatch
  of their operations, as of tasks in a chunk (`choose_chunk_size`).
  """
  if jax.default_backend() != 'cpu':
    return members
  shapes = jax.eval_shape(lambda: source)
  state = jax.eval_shape(init, jax.random.key(0), shapes)
  work = cost(step, state, shapes).flops
  return copies_worth(work, members)


def _jit_for_each(
  together: int, mesh: Mesh | None, donate: bool = False
) -> Callable[[Callable[[PyTree, PyTree, PyTree], PyTree]], Any]:
  """Compiles `function(state, own, shared)` of one member for all of them.

  Leaves of `state`, of `own` and of what it returns have a leading axis of
  members, those of `shared` do not. So many of them are vectorised together.
  """

  def of_all(function: Callable[[PyTree, PyTree, PyTree], PyTree]) -> Any:
    def several(state: PyTree, own: PyTree, shared: PyTree) -> PyTree:
      def some(both: tuple[PyTree, PyTree]) -> PyTree:
        state, own = both
        if together > 1:
          return jax.vmap(function, (0, 0, None))(state, own, shared)
        # An axis of length 1 would hide from the compiler that products are
        # plain ones.
        state, own = jax.tree.map(lambda leaf: leaf[0], both)
        found = function(state, own, shared)
        return jax.tree.map(lambda leaf: leaf[None], found)

      members = len(jax.tree.leaves(state)[0])
      if members == together:
        return some((state, own))
      groups = jax.tree.map(
        lambda leaf: leaf.reshape(-1, together, *leaf.shape[1:]), (state, own)
      )
      return jax.tree.map(
        lambda leaf: leaf.reshape(members, *leaf.shape[2:]),
        jax.lax.map(some, groups),
      )

    local: Any = several
    if mesh is not None:
      along, whole = PartitionSpec(TASK), PartitionSpec()
      local = jax.shard_map(
        several,
        mesh=mesh,
        in_specs=(along, along, whole),
        out_specs=along,
        check_vma=False,
      )
    return jax.jit(local, donate_argnums=(0,) if donate else ())

  return of_all
