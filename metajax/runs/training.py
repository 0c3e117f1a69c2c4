"""The outer loop: a train step that can be resumed to the bit."""

from functools import cache, partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from metajax.base import (
  MetaLearner,
  Metrics,
  SampleTask,
  as_argument,
  as_key,
)
from metajax.devices.cost import cost
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
from metajax.equality import Frozen
from metajax.inner.optimizers import check_optimizer
from metajax.runs.checking import check_learner
from metajax.runs.drawing import StepSource, make_estimate
from metajax.runs.members import (
  Varied,
  check_members,
  make_members_step,
  member_of,
)
from metajax.runs.skipped_steps import SkippedSteps, reporting
from metajax.runs.state import CountedRun, TrainState, TrainStep
from metajax.runs.stepping import all_finite, make_init, make_run, make_step
from metajax.runs.streamed import streamed

__all__ = [
  'SkippedSteps',
  'TrainState',
  'TrainStep',
  'Varied',
  'all_finite',
  'make_train_step',
]


def make_train_step(
  meta_learner: MetaLearner | Frozen | Varied,
  optimizer: optax.GradientTransformation | Frozen | Varied,
  sample: SampleTask,
  *,
  tasks_per_step: int,
  chunk_size: ChunkSize = 'auto',
  max_skipped_in_a_row: int = 20,
  members: int | None = None,
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

  With `members` several runs are one program. Each is the run that it would be
  alone, but for rounding; all leaves of the state, and metrics, have a leading
  axis of members, which a mesh divides over its devices in place of the tasks.
  A member that gives up stops, and the others go on.

  Args:
    meta_learner: any method. Arrays of one that is `metajax.Frozen` are
      arguments of the compiled program, no part of the state, and have no
      gradient. One that is `metajax.Varied` is made of values of each member.
    optimizer: the outer optimiser. `Frozen(optax.adam, rate)` has a rate that
      is an argument of the compiled program, which is then the same for every
      rate; `Varied(optax.adam, rates)` has one for each member. In place of
      `optax.adam` there may be whatever makes an optimiser, such as one with a
      schedule, of numbers.
    sample: the task distribution. Arrays that it holds are arguments of the
      compiled program if it is a `jax.tree_util.Partial` (as those of
      `metajax.tasks` are), constants of it otherwise. What draws on the host
      (`metajax.tasks.HostEpisodes`) is streamed from there; `ByStep` may draw
      other tasks as training goes on, and `metajax.alternate` mixes several.
    tasks_per_step: tasks per outer step.
    chunk_size: tasks that are vectorised together (see `microbatch`); what
      suits the work of one task and the device by default.
    max_skipped_in_a_row: when to give up.
    members: how many runs there are side by side; a single one, whose state
      has no axis of them, without it.
    mesh: the devices to train on, with an axis `'task'`; the default device
      alone if there is none.
    rule: how the state and what is frozen are divided over the mesh
      (`metajax.devices.mesh`); every device has all of it by default.

  Returns:
    `init(key) -> state` (of members: of `[members]` keys), and `run(state,
    num_steps) -> (state, metrics)`. The state given to `run` is donated.
    Metrics are means over the steps that were applied, with `skipped` the
    number of those that were not. `template()` tells shapes and places of a
    state without making one, `lower()` is the program of a single step, ready
    to be compiled and looked into, and `cost()` its arithmetic; none of them
    needs the devices of the mesh to be there.

  Raises:
    ValueError: if a count is not positive, if the devices along the axis
      `'task'` do not divide `tasks_per_step` or `members`, or if tasks and
      learner do not fit together (see `metajax.check`); if there are members,
      and tasks are drawn on the host, a `rule` is given, or `Varied` values are
      not one for each.

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
  check_chunk_size(chunk_size)
  if members is not None:
    if rule is not replicated:
      raise ValueError('members lie side by side; leave rule out')
    check_members(members, mesh, meta_learner, optimizer)
  elif isinstance(meta_learner, Varied) or isinstance(optimizer, Varied):
    raise ValueError('what is Varied needs members, the number of them')
  learner, outer = member_of(meta_learner), member_of(optimizer)
  check_optimizer(outer.made())
  check_learner(learner, sample)
  options: dict[str, Any] = {
    'tasks_per_step': tasks_per_step,
    'chunk_size': chunk_size,
    'max_skipped_in_a_row': max_skipped_in_a_row,
    'mesh': mesh,
  }
  if members is None:
    return _make_single_step(learner, outer, sample, rule=rule, **options)
  return make_members_step(
    meta_learner, optimizer, sample, members=members, **options
  )


def _make_single_step(
  learner: Frozen,
  outer: Frozen,
  sample: SampleTask,
  *,
  tasks_per_step: int,
  chunk_size: ChunkSize,
  max_skipped_in_a_row: int,
  mesh: Mesh | None,
  rule: Rule,
) -> TrainStep:
  """The outer loop of one run."""
  estimate = make_estimate(chunk_size, mesh)
  if mesh is not None:
    _check_shares(tasks_per_step, mesh)
  init = make_init(sample)
  places = None
  host = sample if isinstance(sample, HostSampler) else None
  draw = sample if host is None else jax.tree_util.Partial(host.decode)
  source_shapes = jax.eval_shape(StepSource, learner, outer, as_argument(draw))
  if mesh is not None:
    begun = jax.eval_shape(init, jax.random.key(0), source_shapes)
    places = shardings(begun, mesh, rule)
  compiled_init = jax.jit(init, out_shardings=places)
  step = make_step(estimate, tasks_per_step, places)
  run = jax.jit(make_run(step, max_skipped_in_a_row), donate_argnums=0)

  def template() -> TrainState:
    shapes = jax.eval_shape(compiled_init, jax.random.key(0), source_shapes)
    return shapes if places is None else with_places(shapes, places)

  def places_of(source: StepSource) -> StepSource:
    assert mesh is not None  # or everything lies where it is
    return StepSource(
      shardings(source.learner, mesh, rule),
      *(shardings(part, mesh) for part in (source.optimizer, source.draw)),
    )

  @cache
  def on_devices() -> StepSource:
    source = StepSource(learner, outer, as_argument(draw))
    return source if mesh is None else put(source, places_of(source))

  def run_on_devices(
    state: TrainState, num_steps: int
  ) -> tuple[TrainState, Metrics, jax.Array]:
    return run(state, np.int32(num_steps), on_devices())

  def shapes() -> tuple[TrainState, StepSource]:
    source = source_shapes
    if mesh is not None:
      source = with_places(source, places_of(source))
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
    run=reporting(run_steps, lambda member: learner, sample),
    init=lambda key: compiled_init(as_key(key), on_devices()),
    template=template,
    lower=lambda: jax.jit(step, donate_argnums=0).lower(*shapes()),
    cost=lambda: cost(step, *shapes()),
  )


def _check_shares(tasks_per_step: int, mesh: Mesh) -> None:
  shares = axis_size(mesh, TASK)
  if tasks_per_step % shares:
    raise ValueError(
      f'{tasks_per_step} tasks per step cannot be divided over the {shares}'
      f' devices of the axis {TASK!r}; take a multiple of {shares}'
    )
