r"""Adaptation on a stream: examples in their order, one at a step.

.. math::
  \theta^{t+1} = \theta^t - \alpha \nabla L(\theta^t, x_t, y_t)

What a learner has that is told one example after another, and cannot go back:
the inner loop of OML, ANML and La-MAML.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metajax.base import Adaptation, Batch, PyTree
from metajax.inner.descend import Checkpoint, check_num_steps, descend
from metajax.inner.second_order import SecondOrder

__all__ = ['learn_stream']


def learn_stream(
  loss: Callable[[PyTree, Batch], jax.Array],
  params: PyTree,
  optimizer: optax.GradientTransformation,
  stream: Batch,
  passes: int = 1,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> tuple[PyTree, Adaptation]:
  """Takes one step for each example of a stream, in its order.

  Two streams one after the other are learned as the two together, if the
  optimiser keeps no state: what comes out is where the next one starts.

  Args:
    loss: `(params, example) -> scalar`, the example a `Batch` with an axis of
      length 1. One of weight 0 is to have no gradient, as with the objectives
      of metajax: then it makes no step of plain descent.
    params: where to start.
    optimizer: any optax transformation.
    stream: leaves `[examples, ...]`.
    passes: how often the stream comes, each time in the same order.
    second_order: how the gradients of steps are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).

  Returns:
    What was learned, and an `Adaptation` whose steps are passes: the mean loss
    of each, every example before its step, and the parameters after it.

  Raises:
    ValueError: if `passes` is no number of steps, or there are no examples.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> stream = Batch(jnp.ones((3, 1)), jnp.array([1.0, 2.0, 3.0]))
    >>> loss = lambda w, one: jnp.sum((w * one.inputs[:, 0] - one.targets)**2)
    >>> mean, _ = learn_stream(loss, 0.0, optax.sgd(0.25), stream)
    >>> float(mean)
    2.125
  """
  check_num_steps(passes)
  number = jax.tree.leaves(stream)[0].shape[0]
  if number < 1:
    raise ValueError('a stream needs 1 example or more, got none')

  def loss_of_step(params: PyTree, step: jax.Array) -> jax.Array:
    place = step % number
    one = jax.tree.map(
      lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, place, 1), stream
    )
    return loss(params, one)

  learned, descent = descend(
    loss_of_step,
    params,
    optimizer,
    passes * number,
    second_order=second_order,
    checkpoint=checkpoint,
  )
  losses = jnp.mean(descent.losses.reshape(passes, number), axis=1)
  trajectory = jax.tree.map(lambda leaf: leaf[::number], descent.trajectory)
  return learned, Adaptation(losses, trajectory)
