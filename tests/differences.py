"""Meta-gradients against central differences along random directions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax.base import MetaLearner, PyTree, Task

STEP = 1e-5  # in double precision the error of a slope is of order 1e-10


class Slopes(NamedTuple):
  """Of the mean query loss, along the same random directions."""

  by_gradient: jax.Array
  by_differences: jax.Array


def slopes(
  learner: MetaLearner,
  meta_params: PyTree,
  tasks: Task,
  *,
  key: jax.Array | None = None,
  number: int = 4,
) -> Slopes:
  """Slopes of the loss that `grad` reports, by its gradient and without it."""
  flat, unravel = ravel_pytree(meta_params)
  key = jax.random.key(2) if key is None else key
  directions = jax.random.normal(
    jax.random.key(3), (number, len(flat)), flat.dtype
  )

  @jax.jit
  def both(flat: jax.Array) -> Slopes:
    gradient, _ = learner.grad(key, unravel(flat), tasks)
    moves = STEP * jnp.concatenate([directions, -directions])
    losses = jax.lax.map(
      lambda flat: learner.grad(key, unravel(flat), tasks)[1]['loss'],
      flat[None] + moves,
    )
    ahead, behind = jnp.split(losses, 2)
    return Slopes(
      directions @ ravel_pytree(gradient)[0], (ahead - behind) / (2 * STEP)
    )

  return both(flat)
