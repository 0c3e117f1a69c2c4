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
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._hoisting import hoist, instantiated, split_perturbed

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
  num_params = len(jax.tree.leaves(carry[0]))
  of_gradient = hoist(gradient, carry[0], steps[0])
  of_update = hoist(update, of_gradient.shapes[1], carry)

  def slope(constants: list, params: list, step: jax.Array) -> list:
    return jax.tree.leaves(of_gradient.call(constants, params, step))

  def move(constants: list, slopes: list, leaves: list) -> list:
    return jax.tree.leaves(of_update.call(constants, slopes, leaves))

  def run(leaves: list, constants: tuple[list, list], steps: jax.Array) -> Any:
    def step(leaves: list, step: jax.Array) -> Any:
      value, *slopes = slope(constants[0], leaves[:num_params], step)
      leaves = move(constants[1], slopes, leaves)
      return leaves, (value, leaves[:num_params], slopes)

    last, (values, visited, slopes) = jax.lax.scan(step, leaves, steps)
    return (last, values, visited), slopes

  def forward(*inputs: Any) -> Any:
    start, constants, steps = jax.tree.map(lambda leaf: leaf.value, inputs)
    out, slopes = run(start, constants, steps)
    varied, fixed = split_perturbed(inputs[1])
    return out, (start, varied, fixed, steps, slopes)

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
        lambda at, leaves: move(constants[1], _at(slopes, at), leaves),
        start,
      )

    def back(carry: Any, inputs: Any) -> Any:
      to_state, to_varied = carry
      index, to_value, to_params = inputs
      moving, still = _halves(state_at(index))
      to_state = [
        mine if more is None else mine + more
        for mine, more in zip(
          to_state,
          to_params + [None] * (len(to_state) - num_params),
          strict=True,
        )
      ]

      def moved(slopes: list, moving: list, varied: list) -> list:
        whole = partition.merge(moving, still)
        merged = partition.merge(varied, fixed[1])
        return _halves(move(merged, slopes, whole))[0]

      def sloped(params: list, varied: list) -> list:
        merged = partition.merge(varied, fixed[0])
        return slope(merged, params, steps[index])[1 if ignored else 0 :]

      _, pull = jax.vjp(moved, _at(slopes, index), moving, varied[1])
      to_slopes, to_state, to_update = pull(to_state)
      _, pull = jax.vjp(sloped, moving[:num_params], varied[0])
      to_params, to_gradient = pull(([] if ignored else [to_value]) + to_slopes)
      to_state = [
        *map(jnp.add, to_state[:num_params], to_params),
        *to_state[num_params:],
      ]
      sums = jax.tree.map(jnp.add, to_varied, (to_gradient, to_update))
      return (to_state, sums), None

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

  segment = jax.custom_vjp(lambda *inputs: run(*inputs)[0])
  segment.defvjp(forward, backward, symbolic_zeros=True)
  constants = (of_gradient.constants, of_update.constants)
  last, values, visited = segment(leaves, constants, steps)
  return jax.tree.unflatten(structure, last), (
    values,
    jax.tree.unflatten(jax.tree.structure(carry[0]), visited),
  )


def _at(leaves: list, index: jax.Array) -> list:
  return [leaf[index] for leaf in leaves]


def _halves(leaves: list) -> tuple[list, list]:
  """What can be differentiated, and the rest: counts of steps, keys."""
  floats = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]
  return (
    [x if flag else None for x, flag in zip(leaves, floats, strict=True)],
    [None if flag else x for x, flag in zip(leaves, floats, strict=True)],
  )
