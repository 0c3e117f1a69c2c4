r"""Steps of an inner loop that are replayed from their gradients.

A step of an optimiser is an expensive gradient and a cheap, elementwise update,

.. math::
  g_t = \nabla_\theta L(\theta_t), \qquad
  (\theta_{t+1}, s_{t+1}) = u(g_t, \theta_t, s_t).

What a step starts from, :math:`(\theta_t, s_t)`, is three copies of the
parameters under Adam; its gradient is one. So a segment of steps keeps its
start and its gradients, and on the way back every state is reached once more by
updates alone, without a matrix product.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._hoisting import (
  hoist,
  instantiated,
  split_perturbed,
  with_rule,
)

__all__ = ['Gradient', 'Update', 'descend_segment']

Gradient = Callable[[PyTree, jax.Array], tuple[jax.Array, PyTree]]
Update = Callable[[PyTree, tuple[PyTree, PyTree]], tuple[PyTree, PyTree]]


def descend_segment(
  gradient: Gradient,
  update: Update,
  carry: tuple[PyTree, PyTree],
  steps: jax.Array,
) -> tuple[tuple[PyTree, PyTree], tuple[jax.Array, PyTree]]:
  """Successive steps, of which the start and the gradients are kept.

  It can be differentiated once, in reverse mode.

  Args:
    gradient: `(params, step) -> (value, gradient)`.
    update: `(gradient, (params, state)) -> (params, state)`. What both close
      over may be traced; it is differentiated like an argument.
    carry: `(params, state)` to start from.
    steps: [steps], their numbers.

  Returns:
    What a scan over the steps would: the last carry, and the value before and
    the parameters after each step.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> halve = lambda gradient, carry: (carry[0] - gradient / 4, carry[1])
    >>> def last(start):
    ...   gradient = lambda x, step: (x**2, 2 * x)
    ...   return descend_segment(gradient, halve, (start, ()), jnp.arange(3))[0]
    >>> value, slope = jax.value_and_grad(lambda x: last(x)[0])(8.0)
    >>> float(value), float(slope)
    (1.0, 0.125)
  """
  leaves, structure = jax.tree.flatten(carry)
  of_gradient = hoist(gradient, carry[0], steps[0])
  of_update = hoist(update, of_gradient.shapes[1], carry)

  def slope(constants: list, params: list, step: jax.Array) -> list:
    return jax.tree.leaves(of_gradient.call(constants, params, step))

  def move(constants: list, slopes: list, leaves: list) -> list:
    return jax.tree.leaves(of_update.call(constants, slopes, leaves))

  parts = _Parts(slope, move, len(jax.tree.leaves(carry[0])))
  segment = with_rule(
    lambda *inputs: _scan_steps(parts, *inputs)[0],
    _keep_start_and_gradients(parts),
    _replay(parts),
  )
  constants = (of_gradient.constants, of_update.constants)
  last, values, visited = segment(leaves, constants, steps)
  return jax.tree.unflatten(structure, last), (
    values,
    jax.tree.unflatten(jax.tree.structure(carry[0]), visited),
  )


class _Parts(NamedTuple):
  """What a step is made of, as functions of leaves that close over nothing."""

  # Maps constants, parameters and the number of the step to the value and the
  # gradient.
  slope: Callable[[list, list, jax.Array], list]
  # Maps constants, the gradient and the carry to the next carry.
  move: Callable[[list, list, list], list]
  num_params: int  # how many leaves of the carry, the first ones, they are


def _scan_steps(
  parts: _Parts, leaves: list, constants: tuple[list, list], steps: jax.Array
) -> Any:
  """Takes steps: what a segment returns, and apart from it its gradients."""

  def step(leaves: list, step: jax.Array) -> Any:
    value, *slopes = parts.slope(constants[0], leaves[: parts.num_params], step)
    leaves = parts.move(constants[1], slopes, leaves)
    return leaves, (value, leaves[: parts.num_params], slopes)

  last, (values, visited, slopes) = jax.lax.scan(step, leaves, steps)
  return (last, values, visited), slopes


def _keep_start_and_gradients(parts: _Parts) -> Callable[..., Any]:
  """The forward rule: a state is kept at the start alone."""

  def forward(*inputs: Any) -> Any:
    start, constants, steps = jax.tree.map(lambda leaf: leaf.value, inputs)
    varied, fixed = split_perturbed(inputs[1])
    out, slopes = _scan_steps(parts, start, constants, steps)
    return out, (start, varied, fixed, steps, slopes)

  return forward


def _replay(parts: _Parts) -> Callable[..., Any]:
  """The backward rule: every state is reached once more, by updates alone."""

  def backward(kept: Any, cotangents: Any) -> Any:
    start, varied, fixed, steps, slopes = kept
    to_last, to_values, to_visited = cotangents
    # A value that nobody asked for must not be differentiated with zeros.
    ignored = isinstance(to_values, SymbolicZero)
    constants = partition.merge(varied, fixed)

    def state_at(index: jax.Array) -> list:
      return jax.lax.fori_loop(
        0,
        index,
        lambda at, leaves: parts.move(constants[1], _at(slopes, at), leaves),
        start,
      )

    def back(carry: Any, inputs: Any) -> Any:
      to_state, sums = carry
      index, to_value, to_params = inputs
      to_state, to_varied = _pull_back(
        parts,
        (state_at(index), _at(slopes, index), steps[index]),
        (varied, fixed),
        _add_where_given(to_state, to_params),
        None if ignored else to_value,
      )
      return (to_state, jax.tree.map(jnp.add, sums, to_varied)), None

    is_zero = lambda leaf: isinstance(leaf, SymbolicZero)  # noqa: E731
    (to_start, to_varied), _ = jax.lax.scan(
      back,
      (
        [
          None if floats is None else instantiated(leaf)
          for floats, leaf in zip(_halves(start)[0], to_last, strict=True)
        ],
        jax.tree.map(jnp.zeros_like, varied),
      ),
      (
        jnp.arange(len(steps)),
        None if ignored else to_values,
        [None if is_zero(leaf) else leaf for leaf in to_visited],
      ),
      reverse=True,
    )
    return to_start, to_varied, None

  return backward


def _pull_back(
  parts: _Parts,
  at: tuple[list, list, jax.Array],
  constants: tuple[Any, Any],
  to_state: list,
  to_value: jax.Array | None,
) -> tuple[list, tuple[list, list]]:
  """Goes a step back: from cotangents of what it made to those of its inputs.

  Args:
    parts: of the step.
    at: the state before it, its gradient and its number.
    constants: those that are differentiated, and the others.
    to_state: the cotangent of the state after it.
    to_value: that of its value; None if nobody asked for it.

  Returns:
    The cotangents of the state before it and of the constants.
  """
  state, slopes, number = at
  varied, fixed = constants
  moving, still = _halves(state)

  def moved(slopes: list, moving: list, varied: list) -> list:
    whole = partition.merge(moving, still)
    merged = partition.merge(varied, fixed[1])
    return _halves(parts.move(merged, slopes, whole))[0]

  def sloped(params: list, varied: list) -> list:
    merged = partition.merge(varied, fixed[0])
    return parts.slope(merged, params, number)[1 if to_value is None else 0 :]

  _, pull = jax.vjp(moved, slopes, moving, varied[1])
  to_slopes, to_state, to_update = pull(to_state)
  _, pull = jax.vjp(sloped, moving[: parts.num_params], varied[0])
  values = [] if to_value is None else [to_value]
  to_params, to_gradient = pull(values + to_slopes)
  to_state = [
    *map(jnp.add, to_state[: parts.num_params], to_params),
    *to_state[parts.num_params :],
  ]
  return to_state, (to_gradient, to_update)


def _add_where_given(to_state: list, to_params: list) -> list:
  """Adds cotangents of the parameters, None if zero, to those of the state."""
  rest = [None] * (len(to_state) - len(to_params))
  return [
    mine if more is None else mine + more
    for mine, more in zip(to_state, to_params + rest, strict=True)
  ]


def _at(leaves: list, index: jax.Array) -> list:
  return [leaf[index] for leaf in leaves]


def _halves(leaves: list) -> tuple[list, list]:
  """Splits what can be differentiated from the rest: counts of steps, keys."""
  floats = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]
  return (
    [x if flag else None for x, flag in zip(leaves, floats, strict=True)],
    [None if flag else x for x, flag in zip(leaves, floats, strict=True)],
  )
