"""Spreading the work of a meta-gradient over time and over devices.

They compose from the inside out: `data_parallel(microbatch(grad, 4), mesh)`
adds up chunks on every device and reduces once.
"""

import math
import os
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from metajax.base import (
  MetaGradient,
  Metrics,
  PyTree,
  Task,
  num_tasks,
  task_keys,
)
from metajax.devices.cost import cost
from metajax.devices.mesh import TASK, axis_size
from metajax.equality import by_value

__all__ = [
  'ChunkSize',
  'check_chunk_size',
  'choose_chunk_size',
  'copies_worth',
  'data_parallel',
  'map_over_devices',
  'microbatch',
]

ChunkSize = int | Literal['auto']

# On a CPU, work below this leaves vector units waiting for the next operation,
# and much more than this does not fit into caches (docs/performance.md).
_FLOPS_PER_CHUNK = 1e8


def check_chunk_size(chunk_size: ChunkSize) -> None:
  """Refuses what is no size of a chunk.

  Raises:
    ValueError: if it is neither positive nor `'auto'`.
  """
  if chunk_size != 'auto' and (
    not isinstance(chunk_size, int) or chunk_size < 1
  ):
    raise ValueError(
      f"chunk_size must be 'auto' or a number from 1, got {chunk_size!r}"
    )


@by_value
def microbatch(
  grad: MetaGradient, chunk_size: ChunkSize, copies: int = 1
) -> MetaGradient:
  r"""Computes a meta-gradient over `chunk_size` tasks at a time.

  .. math:: g = \sum_c \frac{|c|}{|B|} \, g_c

  It is the gradient that is accumulated, not the loss, so memory is that of
  one chunk whatever the number of tasks. Tasks that do not fill a chunk form
  a last, smaller one with the weight that is due to it; the result is that of
  `grad` on all tasks at once, to rounding.

  Args:
    grad: any estimator that averages over tasks.
    chunk_size: tasks per chunk, or `'auto'` for that of `choose_chunk_size`.
    copies: how many meta-gradients are vectorised together around this one,
      such as those of several runs; of each `'auto'` takes fewer tasks then.

  Returns:
    An estimator like `grad`.

  Raises:
    ValueError: if `chunk_size` is neither positive nor `'auto'`.

  Example:
    >>> import jax, metajax
    >>> model = metajax.Model(
    ...   init=lambda key, inputs: jax.random.normal(key),
    ...   apply=lambda params, inputs: params * inputs,
    ... )
    >>> learner = metajax.maml(model, metajax.mean_squared_error)
    >>> learner = learner._replace(grad=microbatch(learner.grad, 4))
  """
  check_chunk_size(chunk_size)
  # Its shapes are asked for before it is looped over: jit traces it once.
  grad = jax.jit(grad)

  def accumulated(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    total = num_tasks(tasks)
    keyed = (task_keys(key, total), tasks)
    size = (
      choose_chunk_size(grad, key, meta_params, tasks, copies=copies)
      if chunk_size == 'auto'
      else chunk_size
    )
    if size >= total:
      return grad(keyed[0], meta_params, tasks)
    num_chunks, remainder = divmod(total, size)
    whole = total - remainder

    def weighted(chunk: tuple[jax.Array, Task], number: int) -> PyTree:
      keys, tasks = chunk
      return jax.tree.map(
        lambda leaf: leaf * (number / total), grad(keys, meta_params, tasks)
      )

    def add(
      running: PyTree, chunk: tuple[jax.Array, Task]
    ) -> tuple[PyTree, None]:
      return jax.tree.map(jnp.add, running, weighted(chunk, size)), None

    chunks = jax.tree.map(
      lambda leaf: leaf[:whole].reshape(num_chunks, size, *leaf.shape[1:]),
      keyed,
    )
    shapes = jax.eval_shape(
      lambda chunk: weighted(chunk, size),
      jax.tree.map(lambda leaf: leaf[0], chunks),
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    result, _ = jax.lax.scan(add, zeros, chunks)
    if remainder:
      rest = jax.tree.map(lambda leaf: leaf[whole:], keyed)
      result = jax.tree.map(jnp.add, result, weighted(rest, remainder))
    return result

  return accumulated


@by_value
def data_parallel(
  grad: MetaGradient, mesh: Mesh, axis: str = TASK
) -> MetaGradient:
  r"""Computes a meta-gradient on many devices, each with its share of tasks.

  .. math:: g = \frac{1}{D} \sum_{d=1}^{D} g_d

  Device d computes what it would alone, and the gradients are averaged in one
  all-reduce at the end. Meta-parameters are the same on every device of the
  axis; along other axes of the mesh they may be divided, and the compiler
  divides the adaptation of a task as they are.

  Args:
    grad: any estimator that averages over tasks. `tasks` may be any tree whose
      leaves have a leading axis of tasks, `meta_params` any tree that all
      tasks share.
    mesh: of devices (`make_mesh`), of any number of processes.
    axis: the axis of the mesh that the tasks are divided over.

  Returns:
    An estimator like `grad`, with the same result but for rounding. It raises
    ValueError if the devices along the axis do not divide the tasks.

  Raises:
    ValueError: if the mesh has no such axis.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> learner = metajax.maml(mlp([40, 40], 1), metajax.mean_squared_error)
    >>> mesh = metajax.make_mesh({'task': jax.device_count()})
    >>> grad = data_parallel(microbatch(learner.grad, 4), mesh)
  """
  shares = axis_size(mesh, axis)

  def local(
    meta_params: PyTree, keyed: tuple[jax.Array, Task]
  ) -> tuple[PyTree, Metrics]:
    keys, tasks = keyed
    return _mean_over_devices(grad(keys, meta_params, tasks), axis)

  def distributed(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    total = num_tasks(tasks)
    if total % shares:
      raise ValueError(
        f'{total} tasks cannot be divided over the {shares} devices of the'
        f' axis {axis!r}; take a multiple of {shares}'
      )
    both = (task_keys(key, total), tasks)
    result: tuple[PyTree, Metrics] = _per_device(local, mesh, axis)(
      meta_params, both
    )
    return result

  return distributed


def map_over_devices(
  function: Callable[[PyTree, PyTree], PyTree], mesh: Mesh, axis: str = TASK
) -> Callable[[PyTree, PyTree], PyTree]:
  """Divides `function(shared, tasks)`, a map over tasks, over devices.

  Args:
    function: maps leaves `[tasks, ...]` to leaves `[tasks, ...]`.
    mesh: of devices.
    axis: the axis of the mesh that the tasks are divided over; it has to
      divide their number.

  Returns:
    The same function; every device has all of its result.
  """

  def local(shared: PyTree, tasks: PyTree) -> PyTree:
    return jax.lax.all_gather(function(shared, tasks), axis, tiled=True)

  return _per_device(local, mesh, axis)


def _per_device(
  local: Callable[[PyTree, PyTree], PyTree], mesh: Mesh, axis: str
) -> Callable[[PyTree, PyTree], PyTree]:
  """Runs `local(shared, share of the tasks)` on the devices of an axis.

  Without check_vma=False the cotangent of what all devices share would be
  summed over them inside of an adaptation: a wrong meta-gradient, without a
  word. The one reduction that is wanted stands in `local`.
  """
  # It is compiled, as shard_map by itself knows no axes that it is not to
  # divide.
  mapped: Callable[[PyTree, PyTree], PyTree] = jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      axis_names={axis},
      in_specs=(PartitionSpec(), PartitionSpec(axis)),
      out_specs=PartitionSpec(),
      check_vma=False,
    )
  )
  return mapped


def choose_chunk_size(
  grad: MetaGradient,
  key: jax.Array,
  meta_params: PyTree,
  tasks: Task,
  memory: int | None = None,
  copies: int = 1,
) -> int:
  """How many tasks to vectorise together on the default backend.

  On a CPU as many as make a chunk worth the dispatch of its operations: all
  tasks of a tiny network, one task of a convolutional one. On an accelerator
  all. In either case no more than need `memory` for temporaries: that is what
  the compiler says it will allocate, nothing is run to find out. The number
  divides that of the tasks.

  Args:
    grad: the estimator.
    key: as for `grad`; of this and the following only shapes matter.
    meta_params: as for `grad`.
    tasks: all tasks of an outer step.
    memory: bytes for temporaries; by default half of what the device has.
    copies: how many meta-gradients are vectorised together around this one,
      which share the work of a chunk and the memory.

  Returns:
    The number of tasks in a chunk.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = metajax.maml(mlp([40, 40], 1), metajax.mean_squared_error)
    >>> tasks = jax.vmap(sinusoid(10, 10))(jax.random.split(jax.random.key(0)))
    >>> phi = learner.init(jax.random.key(1), tasks.support.inputs[0])
    >>> choose_chunk_size(learner.grad, jax.random.key(2), phi, tasks)
    2
  """
  total = num_tasks(tasks)
  memory = (_device_memory() // 2 if memory is None else memory) // copies
  grad = jax.jit(grad)

  def arguments(size: int) -> tuple[jax.Array, PyTree, Task]:
    chunk = jax.eval_shape(
      lambda: (
        task_keys(jax.random.key(0), size),
        jax.tree.map(lambda leaf: leaf[:size], tasks),
      )
    )
    return chunk[0], meta_params, chunk[1]

  divisors = [size for size in range(1, total + 1) if total % size == 0]
  one = cost(grad, *arguments(1))
  size = total
  if jax.default_backend() == 'cpu':
    size = copies_worth(copies * one.flops, total)
  # A program that writes less than that in all needs no look at how much of it
  # is alive at once, which only the compiler knows.
  while size > 1 and size * one.bytes > memory:
    analysis = grad.lower(*arguments(size)).compile().memory_analysis()
    needed = analysis.temp_size_in_bytes if analysis else 0
    if needed <= memory:
      break
    fits = max(1, min(size - 1, size * memory // needed))
    size = max(each for each in divisors if each <= fits)
  return size


def copies_worth(flops: int, total: int) -> int:
  """How many copies of some work a CPU does well to vectorise together.

  Args:
    flops: the arithmetic of one of them.
    total: how many there are.

  Returns:
    A divisor of `total`.

  Example:
    >>> copies_worth(flops=10**10, total=8), copies_worth(flops=10**4, total=8)
    (1, 8)
  """
  wanted = math.ceil(_FLOPS_PER_CHUNK / max(flops, 1))
  return max(n for n in range(1, total + 1) if total % n == 0 and n <= wanted)


def _device_memory() -> int:
  """Bytes that the device computes in."""
  statistics = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in statistics:
    return int(statistics['bytes_limit'])
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _mean_over_devices(tree: PyTree, axis: str) -> PyTree:
  return jax.lax.pmean(tree, axis)
