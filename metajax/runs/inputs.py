"""What the networks of a method are initialised with."""

import jax
import jax.numpy as jnp

from metajax.base import PyTree, SampleTask, Task
from metajax.runs.mixture import parts_of

__all__ = ['init_inputs', 'sampled_inputs']


def init_inputs(*tasks: Task) -> PyTree:
  """Zeros like what `init` is given: the inputs of the support set.

  Tasks that have none are given as a whole. Where inputs are dictionaries, by
  modality for example, those of the queries and of further tasks are added
  that are not there yet.

  Args:
    *tasks: one, or one of each distribution that is trained on.
  """
  support = tasks[0].support
  shapes = getattr(support, 'inputs', support)
  if isinstance(shapes, dict):
    for batch in (batch for task in tasks for batch in task):
      inputs = getattr(batch, 'inputs', None)
      if isinstance(inputs, dict):
        shapes = {**inputs, **shapes}
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def sampled_inputs(sample: SampleTask) -> PyTree:
  """What `init` is given for a task distribution; no task is drawn."""
  key = jax.random.key(0)
  return init_inputs(
    *(jax.eval_shape(part, key) for part in parts_of(sample).values())
  )
