"""Sinusoid regression, the smallest meta-learning problem there is."""

import jax
import jax.numpy as jnp

from metajax.base import Batch, Task
from metajax.equality import EqualPartial

__all__ = ['sinusoid']


def sinusoid(shots: int, queries: int) -> jax.tree_util.Partial:
  r"""Finn's distribution of sine waves.

  .. math::
    y = A \sin(x - \varphi), \quad A \sim U(0.1, 5), \;
    \varphi \sim U(0, \pi), \; x \sim U(-5, 5)

  Args:
    shots: support examples per task.
    queries: query examples per task.

  Returns:
    `sample(key) -> Task`, with inputs and targets `[examples, 1]`.

  Raises:
    ValueError: if a count is not positive.

  Example:
    >>> import jax
    >>> task = sinusoid(shots=10, queries=15)(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((10, 1), (15, 1))

  References:
    Finn, Abbeel, Levine (2017), Model-agnostic meta-learning, section 5.1.
  """
  if shots < 1 or queries < 1:
    raise ValueError(
      f'shots and queries must be 1 or more, got {shots} and {queries}'
    )

  return jax.tree_util.Partial(EqualPartial(_sample, shots, queries))


def _sample(shots: int, queries: int, key: jax.Array) -> Task:
  amplitude_key, phase_key, x_key = jax.random.split(key, 3)
  amplitude = jax.random.uniform(amplitude_key, minval=0.1, maxval=5.0)
  phase = jax.random.uniform(phase_key, maxval=jnp.pi)
  x = jax.random.uniform(x_key, (shots + queries, 1), minval=-5.0, maxval=5.0)
  y = amplitude * jnp.sin(x - phase)
  return Task(Batch(x[:shots], y[:shots]), Batch(x[shots:], y[shots:]))
