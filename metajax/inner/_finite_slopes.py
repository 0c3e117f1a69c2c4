r"""Derivatives that stay finite where a function has none.

A norm has a kink at 0, and reverse mode writes the derivative there as
:math:`0 \cdot \infty`. Also what a `where` does not choose may divide by 0, and
so make a derivative of what it does choose no number. Each goes away if a
single operation, such as a root or a quotient, has the derivative 0 where its
own is not finite.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from metajax.base import PyTree

__all__ = ['with_finite_slopes']

# What has an infinite derivative somewhere.
_SINGULAR = frozenset({
  'acos', 'asin', 'atan2', 'atanh', 'cbrt', 'div', 'integer_pow', 'log',
  'log1p', 'pow', 'rsqrt', 'sqrt',
})  # fmt: skip
# A product has one where a factor is infinite: the quotient by a norm of 0.
_GUARDED = _SINGULAR | {'mul'}


def with_finite_slopes(
  function: Callable[..., PyTree],
) -> Callable[..., PyTree]:
  """The same function, whose derivatives are 0 where they are not finite.

  That is meant of each elementary operation by itself, not of the whole. What
  it computes is the same. Operations inside of loops (`lax.scan`) stay as they
  are.

  Args:
    function: of pytrees of arrays. What it closes over may be traced.

  Returns:
    The function, to be differentiated once or more.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> norm = lambda x: jnp.sqrt(jnp.sum(x**2))
    >>> jax.grad(norm)(jnp.zeros(2)).tolist()
    [nan, nan]
    >>> jax.grad(with_finite_slopes(norm))(jnp.zeros(2)).tolist()
    [0.0, 0.0]
  """

  def guarded(*args: PyTree) -> PyTree:
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    if not _is_singular(program.jaxpr):
      return function(*args)
    leaves = _run(program.jaxpr, program.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

  return guarded


def _is_singular(jaxpr: Jaxpr) -> bool:
  return any(
    equation.primitive.name in _SINGULAR
    or any(_is_singular(each.jaxpr) for each in _called(equation))
    for equation in jaxpr.eqns
  )


def _called(equation: Any) -> Sequence[Any]:
  """The programs that an operation is made of, where they are looked into."""
  if equation.primitive.name in ('jit', 'pjit'):
    return [equation.params['jaxpr']]
  if equation.primitive.name == 'cond':
    return tuple(equation.params['branches'])
  return []


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
  """Runs a program, with the guarded operations in place of some."""
  known = dict(zip(jaxpr.constvars, consts, strict=True))
  known |= dict(zip(jaxpr.invars, args, strict=True))

  def read(atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else known[atom]

  for equation in jaxpr.eqns:
    inputs = [read(atom) for atom in equation.invars]
    called = [
      partial(_run, each.jaxpr, each.consts) for each in _called(equation)
    ]
    if equation.primitive.name == 'cond':
      outputs = jax.lax.switch(inputs[0], called, inputs[1:])
    elif called:
      outputs = called[0](inputs)
    else:
      outputs = _run_one(jaxpr, equation, known)
    known |= dict(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _run_one(
  jaxpr: Jaxpr, equation: Any, known: Mapping[Any, Any]
) -> list[Any]:
  """Runs a single operation of a program, guarded where it has to be."""
  name = equation.primitive.name
  variables = list(
    {atom: None for atom in equation.invars if not isinstance(atom, Literal)}
  )
  alone = jaxpr.replace(
    constvars=[],
    invars=variables,
    outvars=list(equation.outvars),
    eqns=[equation],
  )
  run: Callable[..., list[Any]] = partial(jax.core.eval_jaxpr, alone, ())
  # What is multiplied with or divided by a number has a slope that is one.
  last_two = equation.invars[-2:]
  scaled = {'mul': last_two, 'div': last_two[1:]}.get(name, [])
  if name in _GUARDED and not any(isinstance(x, Literal) for x in scaled):
    run = _guarded(run, variables)
  return run(*(known[variable] for variable in variables))


def _guarded(
  plain: Callable[..., list[Any]], variables: Sequence[Any]
) -> Callable[..., list[Any]]:
  """An elementwise operation, with a derivative of 0 where it has none."""

  def rule(place: int) -> Callable[..., jax.Array] | None:
    if not jnp.issubdtype(variables[place].aval.dtype, jnp.inexact):
      return None

    def tangent(change: jax.Array, _: jax.Array, *inputs: Any) -> jax.Array:
      def along(own: jax.Array) -> Any:
        return plain(*inputs[:place], own, *inputs[place + 1 :])[0]

      own = inputs[place]
      _, slope = jax.jvp(along, (own,), (jnp.ones_like(own),))
      return jnp.where(jnp.isfinite(slope), slope, 0) * change

    return tangent

  operation = jax.custom_jvp(lambda *inputs: plain(*inputs)[0])
  operation.defjvps(*map(rule, range(len(variables))))
  return lambda *inputs: [operation(*inputs)]
