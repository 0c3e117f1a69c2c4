"""Metajax as its users get it: a workload, or an outer step of any method."""

import contextlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.learners import make_learner
from experiments.benchmark.speed.base import SEED, Problem, Program, Workload
from experiments.benchmark.speed.in_jax import (
  device_bytes,
  draw_tasks,
  flat,
  in_float64,
  in_precision,
  inner_adam,
  limit_threads,
  network_of,
  noise,
  objective_of,
  sampler_of,
  temp_bytes,
)
from experiments.benchmark.speed.lora import draw_pretrained, in_type_of
from experiments.benchmark.speed.methods import MethodStep, recipe_of
from experiments.benchmark.speed.workloads import OMNIGLOT
from experiments.data.samplers import sizes
from experiments.runner.cluster import divide_cpu
from experiments.runner.common import Machine
from experiments.runner.errors import UsageError
from metajax import (
  accumulate,
  backprop,
  cross_entropy,
  descend,
  make_mesh,
  make_train_step,
  maml,
  microbatch,
)
from metajax.algorithms.table import ALGORITHMS
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Model,
  Objective,
  PyTree,
  SampleTask,
  Task,
)
from metajax.devices.mesh import TASK
from metajax.equality import Frozen, as_frozen
from metajax.inner.second_order import SecondOrder
from metajax.models.windows import Lowering
from metajax.tasks import classification, episodes

__all__ = [
  'in_metajax',
  'in_method',
  'in_native_lowering',
  'in_reverse_mode',
  'prepare',
]

_SEQUENCES_AT_ONCE = 2  # whose gradients are added up


def in_metajax(
  problem: Problem,
  lowering: Lowering = 'auto',
  second_order: SecondOrder = 'mixed',
) -> Program:
  """Metajax as its users get it."""
  workload = problem.workload
  _divide_cpu(workload.tasks)
  limit_threads(workload)
  learner = _learner(problem, lowering, second_order)

  @jax.jit
  def grad(
    learner: Frozen, weights: PyTree, tasks: Task
  ) -> tuple[PyTree, PyTree]:
    estimate = microbatch(learner.made().grad, 'auto')
    gradient, metrics = estimate(jax.random.key(SEED), weights, tasks)
    return metrics['loss'], gradient

  def meta_gradient(weights: PyTree, tasks: Task) -> tuple[PyTree, PyTree]:
    return grad(in_type_of(weights, as_frozen(learner)), weights, tasks)

  program = _training(
    learner, optax.adam(workload.outer_lr), sampler_of(workload), workload.tasks
  )
  return program._replace(meta_gradient=in_float64(meta_gradient))


def in_native_lowering(problem: Problem) -> Program:
  """Metajax with the convolutions and pooling of the backend."""
  return in_metajax(problem, 'native')


def in_reverse_mode(problem: Problem) -> Program:
  """Metajax that keeps what inner steps have computed: faster, larger."""
  return in_metajax(problem, second_order='reverse')


def in_method(step: MethodStep) -> Program:
  """A row of the table of methods, by its recipe, on noise for images."""
  row, recipe = ALGORITHMS[step.method], recipe_of(step.method)
  recipe = recipe._replace(train_classes=step.classes, width=step.width)
  _divide_cpu(recipe.tasks_per_step)
  data = noise(step.classes, OMNIGLOT.side)
  ways, shots, queries = sizes(recipe, training=True)
  if row.trains_on == 'classes':
    sample = classification(*data, recipe.batch_size)
  else:
    sample = episodes(*data, ways, shots, queries)
  learner = make_learner(step.method, recipe, ways, cross_entropy)
  return _training(
    learner, row.optimizer(recipe), sample, recipe.tasks_per_step
  )


def _divide_cpu(tasks: int) -> None:
  """Takes every core for a device, as the experiments do.

  They refuse what the user has chosen where that does not divide the tasks;
  here one device then has all of them, see `_training`.
  """
  with contextlib.suppress(UsageError):
    divide_cpu(Machine(), tasks)


def _training(
  learner: MetaLearner | Frozen,
  optimizer: optax.GradientTransformation,
  sample: SampleTask,
  tasks: int,
) -> Program:
  """The train step, on all devices if they divide the tasks."""
  devices = jax.device_count()
  divided = devices > 1 and tasks % devices == 0
  train_step = make_train_step(
    learner,
    optimizer,
    sample,
    tasks_per_step=tasks,
    mesh=make_mesh({TASK: devices}) if divided else None,
  )
  state = None

  def advance(num_steps: int) -> float:
    nonlocal state
    state, metrics = train_step.run(
      state or train_step.init(jax.random.key(SEED)), num_steps
    )
    return float(metrics['loss'])

  return Program(
    advance,
    temp_bytes=lambda: temp_bytes(train_step.lower()),
    device_bytes=device_bytes,
  )


def _learner(
  problem: Problem,
  lowering: Lowering = 'auto',
  second_order: SecondOrder = 'mixed',
) -> MetaLearner | Frozen:
  workload = problem.workload
  model = in_precision(problem, network_of(problem, lowering))
  objective = objective_of(workload)
  if workload.network == 'transformer':
    return _long_loop(model, objective, workload)
  return maml(
    model, objective, workload.inner_lr, workload.inner_steps,
    second_order=second_order,
  )  # fmt: skip


def _long_loop(
  model: Model, objective: Objective, workload: Workload
) -> MetaLearner:
  """MAML for many steps: nested checkpoints, gradients added up in chunks."""

  def loss(params: PyTree, batch: Batch) -> jax.Array:
    value, _ = objective(model.apply(params, batch.inputs), batch.targets)
    return value

  in_chunks = accumulate(loss, max(1, workload.ways // _SEQUENCES_AT_ONCE))

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    del key  # deterministic
    adapted, descent = descend(
      lambda params, step: in_chunks(params, support),
      meta_params,
      inner_adam(workload.inner_lr),
      workload.inner_steps,
      checkpoint='nested',
    )
    return adapted, Adaptation(descent.losses, descent.trajectory)

  learner = Learner(model.init, adapt, model.apply)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def prepare(workload: Workload, precision: Any, num_given: int) -> Problem:
  """Draws the weights, and the tasks of the first outer steps."""
  empty = Problem(workload, precision, {}, [], draw_pretrained(workload))
  sample = sampler_of(workload)
  state = make_train_step(
    _learner(empty),
    optax.adam(workload.outer_lr),
    sample,
    tasks_per_step=workload.tasks,
  ).init(jax.random.key(SEED))
  draw = jax.jit(partial(draw_tasks, workload.tasks))
  tasks = [
    jax.tree.map(np.asarray, draw(sample, state.key, jnp.int32(step)))
    for step in range(num_given)
  ]
  return empty._replace(
    weights=flat(state.meta_params),
    tasks=[
      (
        (each.support.inputs, each.support.targets),
        (each.query.inputs, each.query.targets),
      )
      for each in tasks
    ],
  )
