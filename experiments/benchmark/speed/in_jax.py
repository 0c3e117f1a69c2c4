"""The implementations in JAX: metajax, and what is written by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.benchmark.speed.base import (
  EPSILON,
  IMAGES_PER_CLASS,
  SEED,
  Problem,
  Program,
  Tasks,
  Weights,
  Workload,
  noise_images,
)
from experiments.benchmark.speed.methods import MethodStep, recipe_of
from experiments.benchmark.speed.workloads import OMNIGLOT
from experiments.data.images import sizes
from experiments.runner.cluster import divide_cpu, single_thread
from metajax import (
  accumulate,
  backprop,
  cross_entropy,
  descend,
  make_mesh,
  make_train_step,
  maml,
  mean_squared_error,
  microbatch,
  with_precision,
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
  sample_tasks,
)
from metajax.devices.mesh import TASK
from metajax.models import conv4, mlp, resnet12, transformer
from metajax.models.windows import Lowering
from metajax.tasks import classification, episodes, sinusoid

_TOKENS = 256
_EPSILON_ROOT = 1e-8  # Adam's second-order gradient is finite with one
_SEQUENCES_AT_ONCE = 2  # whose gradients are added up


def in_native_lowering(problem: Problem) -> Program:
  """Metajax with the convolutions and pooling of the backend."""
  return in_metajax(problem, 'native')


def in_metajax(problem: Problem, lowering: Lowering = 'auto') -> Program:
  """Metajax as its users get it."""
  workload = problem.workload
  divide_cpu(workload.tasks)
  _thread_for(workload)
  learner = _learner(problem, lowering)
  grad = jax.jit(microbatch(learner.grad, 'auto'))

  def meta_gradient(weights: PyTree, tasks: Task) -> tuple[PyTree, PyTree]:
    gradient, metrics = grad(jax.random.key(SEED), weights, tasks)
    return metrics['loss'], gradient

  program = _training(
    learner, optax.adam(workload.outer_lr), _sampler(workload), workload.tasks
  )
  return program._replace(meta_gradient=_in_float64(meta_gradient))


def in_method(step: MethodStep) -> Program:
  """A row of the table of methods, by its recipe, on noise for images."""
  row, recipe = ALGORITHMS[step.method], recipe_of(step.method)
  recipe = recipe._replace(train_classes=step.classes)
  divide_cpu(recipe.tasks_per_step)
  data = _noise(step.classes, OMNIGLOT.side)
  ways, shots, queries = sizes(recipe, training=True)
  if row.trains_on == 'classes':
    sample = classification(*data, recipe.batch_size)
  else:
    sample = episodes(*data, ways, shots, queries)
  learner = row.make(
    recipe.network(ways, width=step.width), cross_entropy, recipe
  )
  return _training(
    learner, row.optimizer(recipe), sample, recipe.tasks_per_step
  )


def _training(
  learner: MetaLearner,
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
    temp_bytes=lambda: _temp_bytes(train_step.lower()),
    device_bytes=_device_bytes,
  )


def _thread_for(workload: Workload) -> None:
  """As `experiments.sinusoid` has it, for what is compared with it, too."""
  if workload.network == 'mlp':
    single_thread()


def in_plain_jax(problem: Problem) -> Program:
  """What somebody who knows JAX writes for this one workload.

  Tasks come from metajax's sampler, for no other draws the same ones.
  """
  workload = problem.workload
  _thread_for(workload)
  optimizer = optax.adam(workload.outer_lr)
  loss_and_gradient = plain_loss_and_gradient(problem)
  _, key = jax.random.split(jax.random.key(SEED))
  draw = jax.tree_util.Partial(
    partial(_draw, workload.tasks), _sampler(workload), key
  )

  @partial(jax.jit, donate_argnums=0)
  def run(
    carry: PyTree, first: jax.Array, num_steps: jax.Array, draw: Any
  ) -> PyTree:
    def step(index: jax.Array, carry: PyTree) -> PyTree:
      weights, state, _ = carry
      value, gradient = loss_and_gradient(weights, draw(index))
      updates, state = optimizer.update(gradient, state, weights)
      return optax.apply_updates(weights, updates), state, value

    return jax.lax.fori_loop(first, first + num_steps, step, carry)

  weights = jax.tree.map(jnp.asarray, unflatten_dict(problem.weights, sep='/'))
  carry = jax.tree.map(
    jnp.copy, (weights, optimizer.init(weights), jnp.zeros(()))
  )
  taken = 0

  def advance(num_steps: int) -> float:
    nonlocal carry, taken
    carry = run(carry, jnp.int32(taken), jnp.int32(num_steps), draw)
    taken += num_steps
    return float(carry[2])

  return Program(
    advance,
    _in_float64(jax.jit(loss_and_gradient)),
    lambda: _temp_bytes(run.lower(carry, jnp.int32(0), jnp.int32(1), draw)),
    _device_bytes,
  )


def plain_loss_and_gradient(
  problem: Problem,
) -> Callable[[PyTree, Task], tuple[jax.Array, PyTree]]:
  """`value_and_grad` of the mean of a `vmap` over tasks."""
  workload = problem.workload
  apply = _with_precision(
    problem, Model(_model(problem).init, _plain_network(problem))
  ).apply
  objective = _plain_objective(workload)

  def task_loss(weights: PyTree, task: Task) -> jax.Array:
    def support_loss(weights: PyTree) -> jax.Array:
      return objective(
        apply(weights, task.support.inputs), task.support.targets
      )

    descend = _plain_adam if workload.network == 'transformer' else _plain_sgd
    adapted = descend(workload, jax.grad(support_loss), weights)
    return objective(apply(adapted, task.query.inputs), task.query.targets)

  @jax.value_and_grad
  def mean_loss(weights: PyTree, tasks: Task) -> jax.Array:
    return jnp.mean(jax.vmap(task_loss, in_axes=(None, 0))(weights, tasks))

  return mean_loss


def _plain_sgd(
  workload: Workload, gradient: Callable[[PyTree], PyTree], weights: PyTree
) -> PyTree:
  for _ in range(workload.inner_steps):
    weights = jax.tree.map(
      lambda weight, slope: weight - workload.inner_lr * slope,
      weights,
      gradient(weights),
    )
  return weights


def _plain_adam(
  workload: Workload, gradient: Callable[[PyTree], PyTree], weights: PyTree
) -> PyTree:
  """A scan, since twenty copies of a transformer compile for minutes."""
  optimizer = _inner_adam(workload.inner_lr)

  def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
    weights, state = carry
    updates, state = optimizer.update(gradient(weights), state, weights)
    return (optax.apply_updates(weights, updates), state), None

  carry = weights, optimizer.init(weights)
  (weights, _), _ = jax.lax.scan(step, carry, length=workload.inner_steps)
  return weights


def _plain_network(
  problem: Problem,
) -> Callable[[PyTree, jax.Array], jax.Array]:
  network = problem.workload.network
  if network == 'mlp':
    return plain_mlp
  if network == 'transformer':  # flax is how it is written by hand, too
    return _network(problem.workload).apply
  if network == 'resnet12':
    return _network(problem.workload, 'native').apply
  return partial(plain_conv4, network == 'conv4_max_pool')


def plain_mlp(weights: PyTree, inputs: jax.Array) -> jax.Array:
  """The sinusoid network, from the weights of metajax's."""
  *hidden, head = (weights[name] for name in sorted(weights))
  for layer in hidden:
    inputs = jax.nn.relu(inputs @ layer['kernel'] + layer['bias'])
  return inputs @ head['kernel'] + head['bias']


def plain_conv4(pooled: bool, weights: PyTree, inputs: jax.Array) -> jax.Array:
  """Conv-4 of the operations that JAX has for it."""
  stride = (1, 1) if pooled else (2, 2)
  for index in range(4):
    outputs = jax.lax.conv_general_dilated(
      inputs,
      weights[f'Conv_{index}']['kernel'],
      stride,
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    norm = weights[f'BatchNorm_{index}']
    mean = jnp.mean(outputs, (0, 1, 2))
    variance = jnp.mean(jnp.square(outputs - mean), (0, 1, 2))
    factor = norm['scale'] * jax.lax.rsqrt(variance + EPSILON)
    inputs = jax.nn.relu((outputs - mean) * factor + norm['bias'])
    if pooled:
      inputs = jax.lax.reduce_window(
        inputs, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
      )
  head = weights['head']
  return jnp.mean(inputs, (1, 2)) @ head['kernel'] + head['bias']


def _plain_objective(
  workload: Workload,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  if workload.network == 'mlp':
    return lambda outputs, targets: jnp.mean(jnp.square(outputs - targets))
  return lambda outputs, targets: jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
  )


def _learner(problem: Problem, lowering: Lowering = 'auto') -> MetaLearner:
  workload = problem.workload
  model = _with_precision(problem, _network(workload, lowering))
  objective = objective_of(workload)
  if workload.network == 'transformer':
    return _long_loop(model, objective, workload)
  return maml(model, objective, workload.inner_lr, workload.inner_steps)


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
      _inner_adam(workload.inner_lr),
      workload.inner_steps,
      checkpoint='nested',
    )
    return adapted, Adaptation(descent.losses, descent.trajectory)

  learner = Learner(model.init, adapt, model.apply)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _inner_adam(rate: float) -> optax.GradientTransformation:
  return optax.adam(rate, eps_root=_EPSILON_ROOT)


def _with_precision(problem: Problem, model: Model) -> Model:
  if problem.precision == 'float32':
    return model
  return with_precision(model, problem.precision)


def _model(problem: Problem) -> Model:
  return _network(problem.workload)


def _network(workload: Workload, lowering: Lowering = 'auto') -> Model:
  width = workload.width
  if workload.network == 'mlp':
    return mlp([width, width], 1)
  if workload.network == 'transformer':
    return transformer(
      workload.ways,
      vocabulary=_TOKENS,
      width=width,
    )
  if workload.network == 'resnet12':
    widths = [width * tenths // 10 for tenths in (10, 25, 50, 100)]
    return resnet12(workload.ways, widths=widths, lowering=lowering)
  pooled = workload.network == 'conv4_max_pool'
  return conv4(
    workload.ways,
    width=width,
    downsample='max_pool' if pooled else 'stride',
    lowering=lowering,
  )


def objective_of(workload: Workload) -> Objective:
  """What metajax minimises."""
  return mean_squared_error if workload.network == 'mlp' else cross_entropy


def _sampler(workload: Workload) -> SampleTask:
  if workload.network == 'mlp':
    return sinusoid(workload.shots, workload.queries)
  if workload.network == 'transformer':
    return jax.tree_util.Partial(
      partial(_sequences, workload.ways, workload.side)
    )
  return episodes(
    *_noise(workload.classes, workload.side),
    workload.ways,
    workload.shots,
    workload.queries,
  )


def _noise(classes: int, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Images of noise, and their labels."""
  images = noise_images(classes, side).reshape(-1, side, side)
  return images, np.repeat(np.arange(classes), IMAGES_PER_CLASS)


def _sequences(number: int, length: int, key: jax.Array) -> Task:
  """Random tokens, each sequence a class of its own."""
  tokens = jax.random.randint(key, (2, number, length), 0, _TOKENS)
  targets = jnp.arange(number, dtype=jnp.int32)
  return Task(Batch(tokens[0], targets), Batch(tokens[1], targets))


def _draw(
  num_tasks: int, sample: SampleTask, key: jax.Array, step: jax.Array
) -> Task:
  """The tasks of an outer step, as metajax draws them."""
  sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
  return sample_tasks(sample, sample_key, num_tasks)


def prepare(workload: Workload, precision: Any, num_given: int) -> Problem:
  """Draws the weights, and the tasks of the first outer steps."""
  empty = Problem(workload, precision, {}, [])
  sample = _sampler(workload)
  state = make_train_step(
    _learner(empty),
    optax.adam(workload.outer_lr),
    sample,
    tasks_per_step=workload.tasks,
  ).init(jax.random.key(SEED))
  draw = jax.jit(partial(_draw, workload.tasks))
  tasks = [
    jax.tree.map(np.asarray, draw(sample, state.key, jnp.int32(step)))
    for step in range(num_given)
  ]
  weights = jax.tree.map(np.asarray, state.meta_params)
  return Problem(
    workload,
    precision,
    flatten_dict(weights, sep='/'),
    [
      (
        (each.support.inputs, each.support.targets),
        (each.query.inputs, each.query.targets),
      )
      for each in tasks
    ],
  )


def _in_float64(
  function: Callable[[PyTree, Task], tuple[jax.Array, PyTree]],
) -> Callable[[Weights, Tasks], tuple[float, Weights]]:
  def meta_gradient(weights: Weights, tasks: Tasks) -> tuple[float, Weights]:
    support, query = tasks
    with jax.enable_x64(True):
      value, gradient = function(
        unflatten_dict(weights, sep='/'), Task(Batch(*support), Batch(*query))
      )
      flat = flatten_dict(gradient, sep='/')
      return float(value), {name: np.asarray(flat[name]) for name in weights}

  return meta_gradient


def _temp_bytes(lowered: jax.stages.Lowered) -> int | None:
  analysis = lowered.compile().memory_analysis()
  return int(analysis.temp_size_in_bytes) if analysis else None


def _device_bytes() -> int | None:
  statistics = jax.local_devices()[0].memory_stats() or {}
  return statistics.get('peak_bytes_in_use')
