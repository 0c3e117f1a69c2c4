"""What a computation costs, read off its program before it is compiled."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

__all__ = ['Cost', 'cost']


class Cost(NamedTuple):
  """The work of one call."""

  flops: (
    int  # of matrix products and convolutions; elementwise work is left out
  )
  bytes: int  # that all operations write together, so no less than any peak


def cost(function: Callable[..., Any], *args: Any) -> Cost:
  r"""Counts the arithmetic of matrix products, and the bytes written.

  A product of an :math:`m \times k` and a :math:`k \times n` matrix counts
  :math:`2 m k n`, a convolution every product of a pixel and a weight, so not
  those that fall on padding, twice. The bodies
  of loops count as often as they run, and once where that is not known
  beforehand (a `while` loop); of branches, the most expensive one counts. What
  no result depends on is left out, as a compiler does.

  Args:
    function: anything that can be traced.
    *args: its arguments; of arrays only shapes matter.

  Returns:
    The `Cost`.

  Example:
    >>> import jax.numpy as jnp
    >>> cost(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
    Cost(flops=60, bytes=40)
  """
  program = jax.make_jaxpr(function)(*args).jaxpr
  needed, _ = dce_jaxpr(program, [True] * len(program.outvars))
  return _of_program(needed)


def _of_program(program: Jaxpr) -> Cost:
  costs = [_of_equation(equation) for equation in program.eqns]
  return Cost(*(sum(each) for each in zip(Cost(0, 0), *costs, strict=True)))


def _of_equation(equation: Any) -> Cost:
  inner = [_of_program(program) for program in _programs(equation.params)]
  if equation.primitive.name == 'cond':
    return max(inner)
  if inner:
    times = equation.params.get('length', 1)  # of a scan
    return Cost(*(times * sum(each) for each in zip(*inner, strict=True)))
  written = sum(
    math.prod(out.aval.shape) * getattr(out.aval.dtype, 'itemsize', 4)
    for out in equation.outvars
  )
  return Cost(_flops(equation), written)


def _programs(value: Any) -> Iterator[Jaxpr]:
  """All programs among the parameters of an operation."""
  if isinstance(value, ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, Jaxpr):
    yield value
  elif isinstance(value, dict):
    for each in value.values():
      yield from _programs(each)
  elif isinstance(value, (tuple, list)):
    for each in value:
      yield from _programs(each)


def _flops(equation: Any) -> int:
  name = equation.primitive.name
  outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
  if name == 'dot_general':
    (contracted, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    return 2 * outputs * math.prod(shape[axis] for axis in contracted)
  if name == 'conv_general_dilated':
    return _convolution(equation)
  return 0


def _convolution(equation: Any) -> int:
  image, kernel = (operand.aval.shape for operand in equation.invars)
  result, params = equation.outvars[0].aval.shape, equation.params
  of_image, of_kernel, of_result = params['dimension_numbers']
  batch, features, *lengths = (result[axis] for axis in of_result)
  _, depth, *sizes = (kernel[axis] for axis in of_kernel)
  # A convolution that is the gradient of a gradient may have a kernel as large
  # as the image, most of which falls on padding.
  pairs = [
    _pairs(length, size, image[axis], stride, padding, spread, dilation)
    for length, size, axis, stride, padding, spread, dilation in zip(
      lengths,
      sizes,
      of_image[2:],
      params['window_strides'],
      params['padding'],
      params['lhs_dilation'],
      params['rhs_dilation'],
      strict=True,
    )
  ]
  return 2 * batch * features * depth * math.prod(pairs)


def _pairs(
  length: int,
  size: int,
  image: int,
  stride: int,
  padding: tuple[int, int],
  spread: int,
  dilation: int,
) -> int:
  """How many products of pixel and weight there are along one axis."""
  places = (
    out * stride + tap * dilation - padding[0]
    for out in range(length)
    for tap in range(size)
  )
  return sum(
    place % spread == 0 and 0 <= place // spread < image for place in places
  )
