"""Gradient descent that can itself be differentiated."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._replay import Gradient, Update, descend_segment
from metajax.inner.optimizers import with_finite_slopes
from metajax.inner.second_order import SecondOrder, value_and_gradient

__all__ = ['INNER_GRADIENT', 'Checkpoint', 'Descent', 'descend']

_Checkpoint = Literal['none', 'step', 'nested']
Checkpoint = _Checkpoint | Callable[..., Any]

# A checkpoint policy knows the gradients of the inner steps by this name.
INNER_GRADIENT = 'inner_gradient'
_SAVE_GRADIENT = jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT)


class Descent(NamedTuple):
  """What `descend` went through."""

  losses: jax.Array  # [steps], the loss before each step
  trajectory: PyTree  # leaves [steps + 1, ...]: parameters after 0, 1, ...
  optimizer_state: PyTree  # after the last step


def descend(
  loss: Callable[[PyTree, jax.Array], jax.Array],
  params: PyTree,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  *,
  optimizer_state: PyTree | None = None,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> tuple[PyTree, Descent]:
  r"""Takes `num_steps` steps of an optimiser down a loss.

  .. math::
    \theta_{t+1} = \theta_t + u_t(\nabla_\theta L(\theta_t, t))

  The result is a differentiable function of `params`, of the optimiser's
  state, and of everything that `loss` and `optimizer` close over.

  Args:
    loss: `(params, step) -> scalar`; `step` counts from 0, so minibatches are
      `jax.tree.map(lambda leaf: leaf[step], batches)`.
    params: where to start. Buffers among them stay as they are (see
      `metajax.inner.partition`), and the optimiser does not see them.
    optimizer: any optax transformation. Where the derivative of an update is
      not finite, such as that of the norm of a gradient that is exactly 0, it
      counts as 0: nothing is clipped there. Where an optimiser divides by the
      size of gradients (Adam, RMSProp), that of a gradient of 0 is finite but
      as large as 1 / eps to every step; `metajax.adam` has none.
    num_steps: how many steps, a Python integer.
    optimizer_state: continue from this state; a fresh one by default, that
      of the parameters without buffers.
    second_order: how the inner gradients are differentiated, see
      `metajax.inner.second_order`. `'mixed'` (forward over reverse) needs the
      least memory, `'reverse'` gives the same and allows forward mode outside,
      `'none'` holds the gradients constant, so that d(result)/d(params) is the
      identity for SGD.
    checkpoint: what is computed again instead of kept. `'none'`: nothing;
      `'step'`: every step, from its parameters; `'nested'`: segments of steps,
      of which the last keep nothing but their gradients and the others nothing
      at all, so that memory grows with the square root of `num_steps` (reverse
      mode only; see `metajax.inner._replay`); or a policy of
      `jax.checkpoint_policies` for every step, to which the inner gradients
      are known as `'inner_gradient'`. Where the activations of one step are
      what is large, wrap the loss in `metajax.accumulate` too.

  Returns:
    The parameters after the last step, and a `Descent`.

  Raises:
    ValueError: if `num_steps` is negative, if `second_order` or `checkpoint`
      is none of the above, or if parameters are no numbers.

  Example:
    >>> import jax, optax
    >>> def meta_loss(x, y):
    ...   loss = lambda x, step: x**2 + y
    ...   x, _ = descend(loss, x, optax.sgd(1.0), num_steps=1)
    ...   return x**2 + y
    >>> value, gradient = jax.value_and_grad(meta_loss)(2.0, 1.0)
    >>> float(value), float(gradient)
    (5.0, 4.0)
  """
  if num_steps < 0:
    raise ValueError(f'num_steps must be 0 or more, got {num_steps}')
  if not callable(checkpoint) and checkpoint not in get_args(_Checkpoint):
    raise ValueError(
      f'checkpoint must be one of {", ".join(get_args(_Checkpoint))}, or a'
      f' policy of jax.checkpoint_policies; got {checkpoint!r}'
    )
  params, buffers = partition.split_learned(params)
  both = value_and_gradient(
    lambda params, step: loss(partition.merge(params, buffers), step),
    second_order,
  )
  finite = with_finite_slopes(optimizer)
  if optimizer_state is None:
    optimizer_state = optimizer.init(params)

  def update(gradient: PyTree, carry: PyTree) -> PyTree:
    params, optimizer_state = carry
    updates, optimizer_state = finite.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state

  def step(carry: PyTree, index: jax.Array) -> tuple[PyTree, PyTree]:
    value, gradient = both(carry[0], index)
    carry = update(checkpoint_name(gradient, INNER_GRADIENT), carry)
    return carry, (value, carry[0])

  # The first step stands outside of the loop: under a vmap over tasks a loop
  # would give every task its own copy of the parameters, where the first step
  # can still multiply with the ones that all tasks share.
  carry = (params, optimizer_state)
  visited, losses = [_stack(params)], []
  if num_steps > 0:
    carry, (value, first) = _checkpointed(step, checkpoint)(carry, jnp.int32(0))
    visited.append(_stack(first))
    losses.append(value[None])
  if num_steps > 1:
    indices = jnp.arange(1, num_steps)
    if checkpoint == 'nested':
      carry, (values, later) = _nested(both, update, carry, indices)
    else:
      carry, (values, later) = jax.lax.scan(
        _checkpointed(step, checkpoint), carry, indices
      )
    visited.append(later)
    losses.append(values)
  last, optimizer_state = carry
  trajectory = jax.tree.map(lambda *parts: jnp.concatenate(parts), *visited)
  all_losses = jnp.concatenate(losses) if losses else jnp.zeros((0,))
  return partition.merge(last, buffers), Descent(
    all_losses,
    partition.merge(trajectory, partition.repeat(buffers, num_steps + 1)),
    optimizer_state,
  )


def _stack(params: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)


_Step = Callable[[PyTree, jax.Array], tuple[PyTree, PyTree]]


def _checkpointed(step: _Step, checkpoint: Checkpoint) -> _Step:
  if checkpoint == 'none':
    return step
  if checkpoint == 'nested':
    checkpoint = _SAVE_GRADIENT
  policy = checkpoint if callable(checkpoint) else None
  checkpointed: _Step = jax.checkpoint(step, policy=policy)
  return checkpointed


def _nested(
  gradient: Gradient, update: Update, carry: PyTree, indices: jax.Array
) -> tuple[PyTree, PyTree]:
  """Takes steps in segments: memory grows with the root of their number.

  The gradients of the last steps are kept until they are differentiated;
  those of the others are computed again, one segment at a time.
  """
  number = len(indices)
  again = max(0, number - 4 * math.isqrt(number))
  size = max(1, math.isqrt(2 * again))
  again = min(number, -(-again // size) * size)

  def segment(carry: PyTree, indices: jax.Array) -> tuple[PyTree, PyTree]:
    return descend_segment(gradient, update, carry, indices)

  parts = []
  if again:
    carry, out = jax.lax.scan(
      jax.checkpoint(segment), carry, indices[:again].reshape(-1, size)
    )
    parts.append(
      jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
    )
  if again < number:
    carry, out = segment(carry, indices[again:])
    parts.append(out)
  return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *parts)
