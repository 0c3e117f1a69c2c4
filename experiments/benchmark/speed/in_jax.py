"""What both implementations in JAX are made of: networks, tasks, measures."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.speed.base import (
  IMAGES_PER_CLASS,
  Problem,
  Tasks,
  Weights,
  Workload,
  noise_images,
)
from experiments.benchmark.speed.lora import on_pretrained, random_texts
from experiments.runner.cluster import single_thread
from experiments.runner.common import Machine
from metajax import cross_entropy, mean_squared_error, with_precision
from metajax.base import (
  Batch,
  Model,
  Objective,
  PyTree,
  SampleTask,
  Task,
  sample_tasks,
)
from metajax.equality import Frozen
from metajax.models import conv4, mlp, resnet12, transformer
from metajax.models.windows import Lowering
from metajax.tasks import episodes, sinusoid

__all__ = [
  'device_bytes', 'draw_tasks', 'flat', 'in_float64', 'in_precision',
  'inner_adam', 'limit_threads', 'nested', 'network_of', 'noise',
  'objective_of', 'sampler_of', 'temp_bytes',
]  # fmt: skip

_EPSILON_ROOT = 1e-8  # Adam's second-order gradient is finite with one


def network_of(problem: Problem, lowering: Lowering = 'auto') -> Model | Frozen:
  """The network of a problem, by `metajax.models`."""
  workload = problem.workload
  width = workload.width
  if workload.network == 'lora':
    return on_pretrained(problem)
  if workload.network == 'mlp':
    return mlp([width, width], 1)
  if workload.network == 'transformer':
    return transformer(
      workload.ways,
      vocabulary=workload.vocabulary,
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


def sampler_of(workload: Workload) -> SampleTask:
  """Draws the tasks of a workload."""
  if workload.network == 'mlp':
    return sinusoid(workload.shots, workload.queries)
  if workload.network == 'transformer':
    return jax.tree_util.Partial(
      partial(_sequences, workload.ways, workload.side, workload.vocabulary)
    )
  if workload.network == 'lora':
    return episodes(
      *random_texts(workload), workload.ways, workload.shots, workload.queries
    )
  return episodes(
    *noise(workload.classes, workload.side),
    workload.ways,
    workload.shots,
    workload.queries,
  )


def noise(classes: int, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Images of noise, and their labels."""
  images = noise_images(classes, side).reshape(-1, side, side)
  return images, np.repeat(np.arange(classes), IMAGES_PER_CLASS)


def _sequences(
  number: int, length: int, vocabulary: int, key: jax.Array
) -> Task:
  """Random tokens, each sequence a class of its own."""
  tokens = jax.random.randint(key, (2, number, length), 0, vocabulary)
  targets = jnp.arange(number, dtype=jnp.int32)
  return Task(Batch(tokens[0], targets), Batch(tokens[1], targets))


def draw_tasks(
  num_tasks: int, sample: SampleTask, key: jax.Array, step: jax.Array
) -> Task:
  """The tasks of an outer step, as metajax draws them."""
  sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
  return sample_tasks(sample, sample_key, num_tasks)


def inner_adam(rate: float) -> optax.GradientTransformation:
  """Adam of a long inner loop."""
  return optax.adam(rate, eps_root=_EPSILON_ROOT)


def in_precision(problem: Problem, model: Any) -> Any:
  """The model, or what is frozen, in the precision of a problem."""
  if problem.precision == 'float32':
    return model
  return with_precision(model, problem.precision)


def flat(params: PyTree) -> Weights:
  """Weights by path; a name may have slashes, as those of adapters do."""
  leaves, _ = jax.tree.flatten_with_path(params)
  return {
    '/'.join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves
  }


def nested(weights: Mapping[str, Any]) -> PyTree:
  """What `flat` was made of."""
  tree: dict[str, Any] = {}
  for name, leaf in weights.items():
    *path, last = name.split('/')
    if path[:1] == ['tuning']:  # a leaf may be by itself
      path = ['tuning', '/'.join(path[1:])]
    within = tree
    for step in path:
      within = within.setdefault(step, {})
    within[last] = leaf
  return tree


def in_float64(
  function: Callable[[PyTree, Task], tuple[jax.Array, PyTree]],
) -> Callable[[Weights, Tasks], tuple[float, Weights]]:
  """The same gradient of flat weights and of tasks, in their own types."""

  def meta_gradient(weights: Weights, tasks: Tasks) -> tuple[float, Weights]:
    support, query = tasks
    with jax.enable_x64(True):
      value, gradient = function(
        nested(weights), Task(Batch(*support), Batch(*query))
      )
      return float(value), flat(gradient)

  return meta_gradient


def temp_bytes(lowered: jax.stages.Lowered) -> int | None:
  """Temporaries of a program, once it is compiled."""
  analysis = lowered.compile().memory_analysis()
  return int(analysis.temp_size_in_bytes) if analysis else None


def device_bytes() -> int | None:
  """The peak of the first device; None where nobody counts."""
  statistics = jax.local_devices()[0].memory_stats() or {}
  return statistics.get('peak_bytes_in_use')


def limit_threads(workload: Workload) -> None:
  """Takes the threads of `experiments.sinusoid`, by whatever implementation."""
  if workload.network == 'mlp':
    single_thread(Machine())
