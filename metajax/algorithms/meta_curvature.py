r"""Meta-Curvature: learn a linear map of gradients, a factor for each mode.

.. math::
  \theta_i^{t+1} = \theta_i^t - \alpha \, \mathrm{MC}(\nabla L(\theta_i^t,
    S_i)), \qquad \mathrm{MC}(G) = G \times_1 M_1 \times_2 M_2 \cdots

A kernel of a convolution has three modes, the positions of its window, its
inputs and its outputs; a matrix has two, a vector one. On each mode the
gradient is multiplied by a learned square matrix, the identity at first.

References:
  Park, Oliva (2019), Meta-curvature, https://arxiv.org/abs/1902.03356
"""

import math

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.adaptation.learned_descent import learned_descent
from metajax.base import MetaLearner, Model, Objective, PyTree
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = ['meta_curvature', 'multiply']


@by_value
def meta_curvature(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.4,
  num_steps: int = 1,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  adapts: partition.Select = partition.everything,
) -> MetaLearner:
  """Meta-Curvature, the factored variant (MC2).

  Before it has learned it equals `maml`.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    adapts: which parameters adapt; the others are learned outside only.

  Returns:
    A `MetaLearner` whose meta-parameters are `LearnedDescent`, with a tuple of
    matrices, one a mode, for each array of parameters.

  Raises:
    ValueError: if `inner_lr` is not positive, `num_steps` is negative, or
      `second_order` or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.meta_curvature(conv4(5), metajax.cross_entropy)
  """
  check_inner_loop(inner_lr, num_steps)

  def optimizer(matrices: PyTree) -> optax.GradientTransformation:
    return optax.stateless(
      lambda gradient, params: jax.tree.map(
        lambda leaf, factors: -inner_lr * multiply(leaf, factors),
        gradient,
        matrices,
      )
    )

  learner = learned_descent(
    model,
    objective,
    num_steps,
    lambda key, params: jax.tree.map(_identities, params),
    optimizer,
    second_order=second_order,
    checkpoint=checkpoint,
    adapts=adapts,
  )
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _modes(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of an array with all axes but the last two as one."""
  if len(shape) < 3:
    return shape
  return (math.prod(shape[:-2]), *shape[-2:])


def _identities(leaf: jax.Array) -> tuple[jax.Array, ...]:
  return tuple(jnp.eye(size, dtype=leaf.dtype) for size in _modes(leaf.shape))


def multiply(gradient: jax.Array, factors: tuple[jax.Array, ...]) -> jax.Array:
  """Multiplies each mode of a gradient by its factor, `[out, in]`."""
  array = gradient.reshape(_modes(gradient.shape))
  for axis, factor in enumerate(factors):
    array = jnp.moveaxis(jnp.tensordot(factor, array, (1, axis)), 0, axis)
  return array.reshape(gradient.shape)
