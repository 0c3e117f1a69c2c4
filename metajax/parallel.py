"""Spreading the work of a meta-gradient: over time, in chunks of tasks."""

import jax
import jax.numpy as jnp

from metajax.base import (
  MetaGradient,
  Metrics,
  PyTree,
  Task,
  num_tasks,
  task_keys,
)


def microbatch(grad: MetaGradient, chunk_size: int) -> MetaGradient:
  r"""Computes a meta-gradient over `chunk_size` tasks at a time.

  .. math:: g = \sum_c \frac{|c|}{|B|} \, g_c

  It is the gradient that is accumulated, not the loss, so memory is that of
  one chunk whatever the number of tasks. Tasks that do not fill a chunk form
  a last, smaller one with the weight that is due to it; the result is that of
  `grad` on all tasks at once, to rounding.

  Args:
    grad: any estimator that averages over tasks.
    chunk_size: tasks per chunk.

  Returns:
    An estimator like `grad`.

  Raises:
    ValueError: if `chunk_size` is not positive.

  Example:
    >>> import jax, metajax
    >>> model = metajax.Model(
    ...   init=lambda key, inputs: jax.random.normal(key),
    ...   apply=lambda params, inputs: params * inputs,
    ... )
    >>> learner = metajax.maml(model, metajax.mean_squared_error)
    >>> learner = learner._replace(grad=microbatch(learner.grad, 4))
  """
  if chunk_size < 1:
    raise ValueError(f'chunk_size must be 1 or more, got {chunk_size}')
  # Its shapes are asked for before it is looped over: jit traces it once.
  grad = jax.jit(grad)

  def accumulated(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    total = num_tasks(tasks)
    keyed = (task_keys(key, total), tasks)
    if chunk_size >= total:
      return grad(keyed[0], meta_params, tasks)
    num_chunks, remainder = divmod(total, chunk_size)
    whole = total - remainder

    def weighted(chunk: tuple[jax.Array, Task], size: int) -> PyTree:
      keys, tasks = chunk
      return jax.tree.map(
        lambda leaf: leaf * (size / total), grad(keys, meta_params, tasks)
      )

    def add(
      running: PyTree, chunk: tuple[jax.Array, Task]
    ) -> tuple[PyTree, None]:
      return jax.tree.map(jnp.add, running, weighted(chunk, chunk_size)), None

    chunks = jax.tree.map(
      lambda leaf: leaf[:whole].reshape(
        num_chunks, chunk_size, *leaf.shape[1:]
      ),
      keyed,
    )
    shapes = jax.eval_shape(
      lambda chunk: weighted(chunk, chunk_size),
      jax.tree.map(lambda leaf: leaf[0], chunks),
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    result, _ = jax.lax.scan(add, zeros, chunks)
    if remainder:
      rest = jax.tree.map(lambda leaf: leaf[whole:], keyed)
      result = jax.tree.map(jnp.add, result, weighted(rest, remainder))
    return result

  return accumulated
