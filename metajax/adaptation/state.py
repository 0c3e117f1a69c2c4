"""Meta-parameters that no outer optimiser moves: they are state.

Moments of an inner optimiser, counts of steps and running averages are carried
from one outer step to the next beside the weights. Where the meta-gradient is
what they are to lose, a step of plain descent with the rate 1 leaves what they
are to be.
"""

import jax
import jax.numpy as jnp
import optax

from metajax.base import PyTree

__all__ = ['with_state']


def with_state(
  optimizer: optax.GradientTransformation, labels: PyTree
) -> optax.GradientTransformation:
  """Applies `optimizer` to the weights, and lets the state beside them persist.

  Args:
    optimizer: for the weights.
    labels: which of the meta-parameters are `'weights'`, and which `'state'`,
      from which their gradient is subtracted as it is.

  Returns:
    An optimiser of the meta-parameters that `labels` is a prefix of.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> optimizer = with_state(optax.sgd(0.5), ('weights', 'state'))
    >>> params, gradient = (jnp.ones(()), jnp.int32(3)), (1.0, -1.0)
    >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    >>> [float(update) for update in updates]
    [-0.5, 1.0]
  """
  return optax.partition(
    {
      'weights': optimizer,
      'state': optax.chain(optax.sgd(1.0), _whole_updates()),
    },
    labels,
  )


def _whole_updates() -> optax.GradientTransformation:
  """Rounds the updates of integers, such as Adam's count of steps.

  A mean over tasks is a whole number to rounding only, and what is a little
  less than 1 would be cut off to 0.
  """

  def whole(update: jax.Array, param: jax.Array) -> jax.Array:
    if jnp.issubdtype(jnp.result_type(param), jnp.integer):
      return jnp.round(update).astype(jnp.result_type(param))
    return update

  return optax.stateless(
    lambda updates, params: jax.tree.map(whole, updates, params)
  )
