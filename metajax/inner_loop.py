"""Gradient descent that can itself be differentiated."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import PyTree


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
  first_order: bool = False,
) -> tuple[PyTree, Descent]:
  r"""Takes `num_steps` steps of an optimiser down a loss.

  .. math::
    \theta_{t+1} = \theta_t + u_t(\nabla_\theta L(\theta_t, t))

  The result is a differentiable function of `params`, of the optimiser's
  state, and of everything that `loss` and `optimizer` close over.

  Args:
    loss: `(params, step) -> scalar`; `step` counts from 0, so minibatches are
      `jax.tree.map(lambda leaf: leaf[step], batches)`.
    params: where to start.
    optimizer: any optax transformation. Adam needs `eps_root > 0` for a finite
      second-order gradient.
    num_steps: how many steps, a Python integer.
    optimizer_state: continue from this state; a fresh one by default.
    first_order: hold the inner gradients constant when the descent is
      differentiated, so that d(result)/d(params) is the identity for SGD.

  Returns:
    The parameters after the last step, and a `Descent`.

  Raises:
    ValueError: if `num_steps` is negative.

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
  if optimizer_state is None:
    optimizer_state = optimizer.init(params)

  def step(carry: PyTree, index: jax.Array) -> tuple[PyTree, PyTree]:
    params, optimizer_state = carry
    value, gradient = jax.value_and_grad(loss)(params, index)
    if first_order:
      gradient = jax.lax.stop_gradient(gradient)
    updates, optimizer_state = optimizer.update(
      gradient, optimizer_state, params
    )
    params = optax.apply_updates(params, updates)
    return (params, optimizer_state), (value, params)

  # The first step stands outside of the loop: under a vmap over tasks a loop
  # would give every task its own copy of the parameters, where the first step
  # can still multiply with the ones that all tasks share.
  carry = (params, optimizer_state)
  visited, losses = [_stack(params)], []
  if num_steps > 0:
    carry, (value, first) = step(carry, jnp.int32(0))
    visited.append(_stack(first))
    losses.append(value[None])
  if num_steps > 1:
    carry, (values, later) = jax.lax.scan(step, carry, jnp.arange(1, num_steps))
    visited.append(later)
    losses.append(values)
  last, optimizer_state = carry
  trajectory = jax.tree.map(lambda *parts: jnp.concatenate(parts), *visited)
  all_losses = jnp.concatenate(losses) if losses else jnp.zeros((0,))
  return last, Descent(all_losses, trajectory, optimizer_state)


def _stack(params: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
