"""Several task distributions in one training, a share of the steps each.

Tasks of images and of texts have inputs of different structure, so no batch
holds both: a step is of one distribution, and which it is follows from its
number.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import ByStep, SampleTask, as_argument

__all__ = ['Alternating', 'alternate', 'parts_of']

# 2^32 over the golden ratio: multiples of it fill a circle evenly.
_GOLDEN = np.uint32(2654435769)


@jax.tree_util.register_pytree_node_class
class Alternating:
  """Task distributions that training alternates between; see `alternate`.

  Args:
    samplers: by name; their arrays are arguments of compiled programs.
    shares: of the steps, as many; they add up to 1.
  """

  def __init__(
    self, samplers: Mapping[str, Any], shares: tuple[float, ...]
  ) -> None:
    self.samplers = dict(samplers)
    self.shares = shares

  def __call__(self, key: jax.Array) -> NoReturn:
    """There is no task of all of them.

    Raises:
      ValueError: always; whatever draws a task needs one distribution.
    """
    raise ValueError(
      'tasks of several distributions have no common form; take one of'
      f' `.samplers`: {", ".join(self.samplers)}'
    )

  def which(self, key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The place among the samplers of that of a step, an int32 scalar.

    Args:
      key: of the run, which turns the sequence.
      step: its number, from 0.
    """
    turned = jax.random.bits(key, (), jnp.uint32)
    at = turned + jnp.asarray(step).astype(jnp.uint32) * _GOLDEN
    ends = np.cumsum(self.shares, dtype=np.float64)[:-1] * 2.0**32
    ends = np.minimum(ends, 2.0**32 - 1).astype(np.uint32)
    return jnp.sum(at >= ends, dtype=jnp.int32)

  def at(self, step: jax.Array | int) -> 'Alternating':
    """With those that change in training as they are at a step."""
    return Alternating(
      {
        name: each.at(step) if isinstance(each, ByStep) else each
        for name, each in self.samplers.items()
      },
      self.shares,
    )

  def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
    """Its arrays."""
    return tuple(self.samplers.values()), (tuple(self.samplers), self.shares)

  @classmethod
  def tree_unflatten(
    cls, static: Any, children: tuple[Any, ...]
  ) -> 'Alternating':
    """From its arrays."""
    names, shares = static
    return cls(dict(zip(names, children, strict=True)), shares)


def alternate(
  samplers: Mapping[str, SampleTask],
  shares: Mapping[str, float] | None = None,
) -> Alternating:
  r"""Mixes task distributions by share, for `make_train_step`.

  All tasks of a step are of one of them, so each may have inputs, targets and
  numbers of examples of its own; a method whose model takes them all (such as
  `metajax.models.multimodal`) trains on them with one state. Which one step n
  takes is a function of n and of the key of the run alone,

  .. math:: (u + n / \varphi) \bmod 1

  compared with the cumulated shares: any stretch of steps has the shares
  nearly exactly, and a run that is resumed goes on with the same sequence.
  Parameters that tasks of a step have no part in have a gradient of zero then,
  which the optimiser sees.

  Args:
    samplers: `sample(key) -> Task` by name.
    shares: of the steps, by the same names, in any unit; equal by default.

  Returns:
    What `make_train_step` and `check` take for a task distribution. It draws no
    task itself: a test is of one of its `.samplers`.

  Raises:
    ValueError: if there is no sampler, or shares are not positive or of other
      names.

  Example:
    >>> import jax
    >>> from metajax.tasks import sinusoid
    >>> samplers = {'few': sinusoid(2, 5), 'many': sinusoid(9, 5)}
    >>> tasks = alternate(samplers, {'few': 3, 'many': 1})
    >>> [int(tasks.which(jax.random.key(0), step)) for step in range(8)]
    [1, 0, 0, 1, 0, 0, 0, 0]
  """
  if not samplers:
    raise ValueError('alternate needs a task distribution; got none')
  shares = dict.fromkeys(samplers, 1.0) if shares is None else dict(shares)
  if set(shares) != set(samplers):
    raise ValueError(
      'shares must have the names of the samplers,'
      f' {", ".join(samplers)}; got {", ".join(shares) or "none"}'
    )
  for name, share in shares.items():
    if not 0 < share < float('inf'):
      raise ValueError(f'the share of {name} must be positive, got {share}')
  for name, sample in samplers.items():
    if isinstance(sample, Alternating) or not callable(sample):
      raise ValueError(
        f'{name} must be a function from a key to a task; got'
        f' {type(sample).__name__}'
      )
  total = float(sum(shares.values()))
  return Alternating(
    {name: as_argument(sample) for name, sample in samplers.items()},
    tuple(shares[name] / total for name in samplers),
  )


def parts_of(sample: Any) -> dict[str, SampleTask]:
  """The task distributions by name; one that is no mixture has no name."""
  return sample.samplers if isinstance(sample, Alternating) else {'': sample}
