"""Functions that close over nothing, for derivative rules.

A derivative rule must not close over traced values: a gradient with respect to
them would be missing without a word. As a program, a function names all of
them, and they become an argument.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import jaxpr_as_fun

from metajax.base import PyTree

__all__ = [
  'Hoisted',
  'hoist',
  'instantiated',
  'split_perturbed',
  'with_rule',
]


class Hoisted(NamedTuple):
  """A function, and apart from it what it closed over."""

  call: Callable[..., PyTree]  # of the constants, then its own arguments
  constants: list
  shapes: PyTree  # of its result


def hoist(function: Callable[..., PyTree], *args: PyTree) -> Hoisted:
  """Turns all that a function closes over into an argument.

  Args:
    function: of `args`; what it closes over may be traced.
    *args: of them only shapes matter.

  Returns:
    What there is then, see `Hoisted`.

  Example:
    >>> hoisted = hoist(lambda x, y: (x, 2 * y), 1.0, 3.0)
    >>> hoisted.call(hoisted.constants, 1.0, 3.0)[1].item()
    6.0
  """
  program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  structure = jax.tree.structure(shapes)

  def call(constants: list, *args: PyTree) -> PyTree:
    whole = program.replace(consts=constants)
    return jax.tree.unflatten(
      structure, jaxpr_as_fun(whole)(*jax.tree.leaves(args))
    )

  return Hoisted(call, list(program.consts), shapes)


def with_rule(
  function: Callable[..., Any],
  forward: Callable[..., Any],
  backward: Callable[..., Any],
) -> Callable[..., Any]:
  """The same function with a derivative of its own, see `jax.custom_vjp`.

  Its forward rule gets to know what is perturbed. Inside `jit`, a function with
  such a rule refuses NumPy arrays over which `vmap` maps; traced, it does not
  get to see them.
  """
  ruled = jax.custom_vjp(function)
  ruled.defvjp(forward, backward, symbolic_zeros=True)
  return jax.jit(ruled, inline=True)


def split_perturbed(inputs: PyTree) -> tuple[PyTree, PyTree]:
  """Splits inputs with symbolic zeros: what is differentiated, and the rest.

  Images and labels are constants that nobody differentiates with respect to;
  only what is perturbed costs anything on the way back.

  Returns:
    Two trees of which each has None where the other has a value, as
    `partition.merge` wants them.
  """
  return (
    jax.tree.map(lambda x: x.value if x.perturbed else None, inputs),
    jax.tree.map(lambda x: None if x.perturbed else x.value, inputs),
  )


def instantiated(tangent: Any) -> jax.Array:
  """Writes out the zeros of a tangent or cotangent that is symbolic."""
  if isinstance(tangent, SymbolicZero):
    return jnp.zeros(tangent.shape, tangent.dtype)
  return tangent
