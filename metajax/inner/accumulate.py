"""A mean loss whose gradient is accumulated, one chunk of a batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._hoisting import hoist, split_perturbed, with_rule

__all__ = ['Loss', 'accumulate']

Loss = Callable[[PyTree, PyTree], jax.Array]


def accumulate(loss: Loss, num_chunks: int) -> Loss:
  r"""A mean over a batch, differentiated chunk by chunk.

  .. math::
    L(\theta) = \frac{1}{C} \sum_c L_c(\theta), \qquad
    \nabla L(\theta) = \frac{1}{C} \sum_c \nabla L_c(\theta)

  Value and gradient are those of the loss of the whole batch where that is a
  mean over examples, and so is the arithmetic; what a forward pass leaves for
  the backward pass is that of one chunk. It may be an inner loss: its gradient
  can be differentiated again.

  Args:
    loss: `(params, batch) -> scalar`. What it closes over may be traced; it is
      differentiated like an argument.
    num_chunks: how many equal parts the leading axis of `batch` is cut into.

  Returns:
    `(params, batch) -> scalar`.

  Raises:
    ValueError: when called, if the batch cannot be cut into that many parts.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> loss = accumulate(lambda x, batch: jnp.mean((x - batch) ** 2), 2)
    >>> float(jax.grad(loss)(0.0, jnp.arange(4.0)))
    -3.0
  """

  def mean(params: PyTree, batch: PyTree) -> jax.Array:
    chunks = jax.tree.map(lambda leaf: _cut(leaf, num_chunks), batch)
    first = jax.tree.map(lambda leaf: leaf[0], chunks)
    hoisted = hoist(loss, params, first)

    def pure(params: PyTree, constants: list, chunk: PyTree) -> jax.Array:
      value: jax.Array = hoisted.call(constants, params, chunk)
      return value / num_chunks

    def total(params: PyTree, constants: list, chunks: PyTree) -> jax.Array:
      values = jax.lax.map(lambda chunk: pure(params, constants, chunk), chunks)
      return jnp.sum(values)

    summed = with_rule(total, _forward(pure), _backward)
    value: jax.Array = summed(params, hoisted.constants, chunks)
    return value

  return mean


def _cut(leaf: jax.Array, num_chunks: int) -> jax.Array:
  if num_chunks < 1 or len(leaf) % num_chunks:
    raise ValueError(
      f'a batch of {len(leaf)} examples cannot be cut into {num_chunks} chunks'
      ' of equal size'
    )
  return leaf.reshape(num_chunks, -1, *leaf.shape[1:])


def _forward(pure: Callable[..., jax.Array]) -> Callable[..., Any]:
  """The forward rule: all gradients at once, of what is perturbed."""

  def forward(*inputs: Any) -> Any:
    varied, fixed = split_perturbed(inputs)

    def chunk(sums: PyTree, chunk: PyTree) -> Any:
      def value(shared: PyTree, own: PyTree) -> jax.Array:
        return pure(
          *partition.merge(shared, fixed[:2]), partition.merge(own, chunk[1])
        )

      value, (to_shared, to_own) = jax.value_and_grad(value, argnums=(0, 1))(
        varied[:2], chunk[0]
      )
      return jax.tree.map(jnp.add, sums, (value, to_shared)), to_own

    zeros = jax.tree.map(jnp.zeros_like, varied[:2])
    dtype = jax.eval_shape(
      lambda *whole: pure(*whole[:2], jax.tree.map(lambda x: x[0], whole[2])),
      *partition.merge(varied, fixed),
    ).dtype
    (value, to_shared), to_own = jax.lax.scan(
      chunk, (jnp.zeros((), dtype), zeros), (varied[2], fixed[2])
    )
    return value, (*to_shared, to_own)

  return forward


def _backward(gradients: PyTree, cotangent: jax.Array) -> PyTree:
  return jax.tree.map(lambda leaf: cotangent * leaf, gradients)
