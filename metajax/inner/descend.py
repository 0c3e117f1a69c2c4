"""Gradient descent that can itself be differentiated."""

import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._replay import Gradient, Update, descend_segment
from metajax.inner.optimizers import check_optimizer, with_finite_slopes
from metajax.inner.second_order import SecondOrder, value_and_gradient

__all__ = [
  'INNER_GRADIENT',
  'Checkpoint',
  'Descent',
  'check_num_steps',
  'descend',
]

_Checkpoint = Literal['none', 'step', 'nested']
Checkpoint = _Checkpoint | Callable[..., Any]

# A checkpoint policy knows the gradients of the inner steps by this name.
INNER_GRADIENT = 'inner_gradient'
_SAVE_GRADIENT = jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT)


class Descent(NamedTuple):
  """What `descend` went through."""

  losses: jax.Array  # [steps], the loss before each step
  # Leaves [steps + 1, ...]: parameters after 0, 1, ...; None for buffers.
  trajectory: PyTree
  optimizer_state: PyTree  # after the last step
  aux: PyTree = ()  # leaves [steps, ...], what the loss returns with its value


def descend(
  loss: Callable[[PyTree, jax.Array], Any],
  params: PyTree,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  *,
  optimizer_state: PyTree | None = None,
  start_step: int | jax.Array = 0,
  active_steps: int | jax.Array | None = None,
  has_aux: bool = False,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> tuple[PyTree, Descent]:
  r"""Takes `num_steps` steps of an optimiser down a loss.

  .. math::
    \theta_{t+1} = \theta_t + u_t(\nabla_\theta L(\theta_t, t))

  The result is a differentiable function of `params`, of the optimiser's
  state, and of everything that `loss` and `optimizer` close over.

  Args:
    loss: `(params, step) -> scalar`; `step` counts from `start_step`, so
      minibatches are `jax.tree.map(lambda leaf: leaf[step], batches)`.
    params: where to start. Buffers among them stay as they are (see
      `metajax.inner.partition`), and the optimiser does not see them.
    optimizer: any optax transformation. Where the derivative of an update is
      not finite, such as that of the norm of a gradient that is exactly 0, it
      counts as 0: nothing is clipped there. Where an optimiser divides by the
      size of gradients (Adam, RMSProp), that of a gradient of 0 is finite but
      as large as 1 / eps to every step; `metajax.adam` has none. One that wants
      more than gradients (`optax.GradientTransformationExtraArgs`) is given
      `value`, `grad` and `value_fn` of the loss of the step.
    num_steps: how many steps, a Python integer.
    optimizer_state: continue from this state; a fresh one by default, that
      of the parameters without buffers.
    start_step: the number of the first step, which may be traced; to continue a
      descent, that of the steps before.
    active_steps: only so many of the first steps move, all by default. It may
      be traced, so one program serves any number; the others are computed, and
      leave parameters and state as they are.
    has_aux: whether the loss returns `(scalar, aux)`.
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
    ValueError: if `num_steps` is negative or no Python integer, `active_steps`
      a Python integer that is not from 0 to `num_steps`, if `second_order` or
      `checkpoint` is none of the above, or if parameters are no numbers.

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
  check_num_steps(num_steps)
  _check_active(active_steps, num_steps)
  check_optimizer(optimizer)
  if not callable(checkpoint) and checkpoint not in get_args(_Checkpoint):
    raise ValueError(
      f'checkpoint must be one of {", ".join(get_args(_Checkpoint))}, or a'
      f' policy of jax.checkpoint_policies; got {checkpoint!r}'
    )
  params, buffers = partition.split_learned(params)

  def loss_of(params: PyTree, step: jax.Array) -> Any:
    return loss(partition.merge(params, buffers), step)

  value_of = (lambda *at: loss_of(*at)[0]) if has_aux else loss_of
  aux_of = (lambda *at: loss_of(*at)[1]) if has_aux else (lambda *at: ())
  both = value_and_gradient(value_of, second_order)
  if not jnp.issubdtype(jnp.result_type(start_step), jnp.integer):
    raise ValueError(f'start_step must be an integer, got {start_step}')
  first_step = jnp.asarray(start_step, jnp.int32)
  end = None if active_steps is None else first_step + active_steps
  update = _updating(value_of, optimizer, end)

  def gradient(params: PyTree, index: jax.Array) -> tuple[jax.Array, PyTree]:
    value, slope = both(params, index)
    return value, (value, slope)  # the update may want both

  def step(carry: PyTree, index: jax.Array) -> tuple[PyTree, PyTree]:
    value, slope = gradient(carry[0], index)
    aux = aux_of(carry[0], index)
    carry = update(checkpoint_name(slope, INNER_GRADIENT), carry)
    return carry, (value, carry[0], aux)

  # The first step stands outside of the loop: under a vmap over tasks a loop
  # would give every task its own copy of the parameters, where the first step
  # can still multiply with the ones that all tasks share.
  if optimizer_state is None:
    optimizer_state = optimizer.init(params)
  carry = (params, (first_step, optimizer_state))
  # Of each step its loss, the parameters after it, and what else there is.
  parts: list[PyTree] = []
  if num_steps > 0:
    carry, out = _checkpointed(step, checkpoint)(carry, first_step)
    parts.append(jax.tree.map(lambda leaf: leaf[None], out))
  if num_steps > 1:
    indices = first_step + jnp.arange(1, num_steps, dtype=jnp.int32)
    if checkpoint == 'nested':
      carry, (values, later) = _nested(gradient, update, carry, indices)
      first = jax.tree.map(lambda leaf: leaf[0], parts[0][1])
      before = partition.prepend(first, jax.tree.map(lambda x: x[:-1], later))
      aux = jax.lax.map(lambda at: aux_of(*at), (before, indices))
      parts.append((values, later, aux))
    else:
      carry, out = jax.lax.scan(_checkpointed(step, checkpoint), carry, indices)
      parts.append(out)
  if not parts:
    shapes = jax.eval_shape(lambda: (params, aux_of(params, first_step)))
    nothing = jax.tree.map(lambda x: jnp.zeros((0, *x.shape), x.dtype), shapes)
    parts.append((jnp.zeros((0,)), *nothing))
  last, (_, optimizer_state) = carry
  losses, later, aux = jax.tree.map(
    lambda *leaves: jnp.concatenate(leaves), *parts
  )
  trajectory = partition.prepend(params, later)
  return partition.merge(last, buffers), Descent(
    losses, trajectory, optimizer_state, aux
  )


def _check_active(active_steps: Any, num_steps: int) -> None:
  """Refuses a number of active steps that there are not, if it is known."""
  try:
    known = operator.index(active_steps)
  except TypeError:  # None, or traced
    return
  if not 0 <= known <= num_steps:
    raise ValueError(
      f'active_steps must be from 0 to num_steps={num_steps}, got {known}'
    )


def check_num_steps(num_steps: Any) -> None:
  """Refuses what is no number of steps.

  Raises:
    ValueError: if it is negative or no Python integer, such as a traced one.
  """
  try:
    number = operator.index(num_steps)
  except TypeError as error:
    raise ValueError(
      f'num_steps must be a Python integer, got {type(num_steps).__name__}; for'
      ' a number that is traced, give the greatest one to descend, and this as'
      ' active_steps'
    ) from error
  if number < 0:
    raise ValueError(f'num_steps must be 0 or more, got {number}')


def _updating(
  value_of: Callable[[PyTree, jax.Array], jax.Array],
  optimizer: optax.GradientTransformation,
  end: jax.Array | None,
) -> Update:
  """What moves parameters and state, up to the step `end`."""
  finite = with_finite_slopes(optimizer)

  def update(gradient: PyTree, carry: PyTree) -> PyTree:
    value, slope = gradient
    params, (index, state) = carry
    updates, new_state = finite.update(
      slope,
      state,
      params,
      value=value,
      grad=slope,
      value_fn=lambda params: value_of(params, index),
    )
    moved = optax.apply_updates(params, updates), new_state
    if end is not None:
      moved = jax.tree.map(
        lambda new, old: jnp.where(index < end, new, old),
        moved,
        (params, state),
      )
    return moved[0], (index + 1, moved[1])

  return update


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
