r"""How the gradient of an inner loop is differentiated once more.

Reverse mode through an inner gradient, :math:`g(\theta, \eta) = \nabla_\theta
L(\theta, \eta)`, keeps every intermediate value of a forward and of a backward
pass. But mixed partial derivatives commute, so the product of a cotangent
:math:`v` with the Jacobian of :math:`g` is one directional derivative,

.. math::
  v^\top \frac{\partial g}{\partial (\theta, \eta)}
    = \frac{d}{d\epsilon} \nabla_{(\theta, \eta)}
      L(\theta + \epsilon v, \eta) \Big|_{\epsilon = 0},

forward mode over reverse mode, for which the inputs of :math:`g` are all that
must be kept. Here :math:`\eta` is whatever the loss depends on besides
:math:`\theta` and that is differentiated: meta-parameters, soft labels, weights
of examples.

References:
  Kemaev et al. (2025), Scalable meta-learning via mixed-mode differentiation,
  https://arxiv.org/abs/2505.00793
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.custom_derivatives import SymbolicZero

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._hoisting import (
  hoist,
  instantiated,
  split_perturbed,
  with_rule,
)

__all__ = ['Loss', 'SecondOrder', 'ValueAndGradient', 'value_and_gradient']

SecondOrder = Literal['mixed', 'reverse', 'none']

Loss = Callable[[PyTree, jax.Array], jax.Array]
ValueAndGradient = Callable[[PyTree, jax.Array], tuple[jax.Array, PyTree]]


def value_and_gradient(
  loss: Loss, second_order: SecondOrder = 'mixed'
) -> ValueAndGradient:
  """The value and gradient of an inner loss, and how they are differentiated.

  Args:
    loss: `(params, step) -> scalar`. What it closes over may be traced; it is
      differentiated like an argument.
    second_order: `'mixed'`, forward over reverse mode; `'reverse'`, reverse
      over reverse mode, which can also be differentiated in forward mode;
      `'none'`, the gradient is held constant.

  Returns:
    `(params, step) -> (value, gradient)`.

  Raises:
    ValueError: if `second_order` is none of these.

  Example:
    >>> import jax
    >>> both = value_and_gradient(lambda x, step: x**3)
    >>> slope = lambda x: both(x, 0)[1]
    >>> float(slope(2.0)), float(jax.grad(slope)(2.0))
    (12.0, 12.0)
  """
  if second_order == 'mixed':
    return lambda params, step: _mixed(loss, params, step)
  if second_order == 'reverse':
    return jax.value_and_grad(loss)
  if second_order == 'none':

    def first_order(
      params: PyTree, step: jax.Array
    ) -> tuple[jax.Array, PyTree]:
      value, gradient = jax.value_and_grad(loss)(params, step)
      return value, jax.lax.stop_gradient(gradient)

    return first_order
  raise ValueError(
    f'second_order must be one of {", ".join(get_args(SecondOrder))}; got'
    f' {second_order!r}'
  )


def _mixed(
  loss: Loss, params: PyTree, step: jax.Array
) -> tuple[jax.Array, PyTree]:
  hoisted = hoist(loss, params, step)

  def pure(params: PyTree, constants: list, step: jax.Array) -> jax.Array:
    value: jax.Array = hoisted.call(constants, params, step)
    return value

  both = with_rule(
    jax.value_and_grad(pure), _keep_inputs(pure), _forward_over_reverse(pure)
  )
  result: tuple[jax.Array, PyTree] = both(params, hoisted.constants, step)
  return result


def _keep_inputs(pure: Callable[..., jax.Array]) -> Callable[..., Any]:
  """The forward rule: the inputs are all that is kept."""

  def forward(*inputs: PyTree) -> tuple[PyTree, PyTree]:
    params, constants, step = jax.tree.map(lambda leaf: leaf.value, inputs)
    varied, fixed = split_perturbed(inputs[1])
    return (
      jax.value_and_grad(pure)(params, constants, step),
      (params, varied, fixed, step),
    )

  return forward


def _forward_over_reverse(
  pure: Callable[..., jax.Array],
) -> Callable[..., Any]:
  """The backward rule: one directional derivative of all gradients."""

  def backward(kept: PyTree, cotangents: PyTree) -> tuple[PyTree, ...]:
    params, varied, fixed, step = kept
    value_cotangent, direction = cotangents

    def gradients(params: PyTree) -> PyTree:
      def loss(params: PyTree, varied: list) -> jax.Array:
        return pure(params, partition.merge(varied, fixed), step)

      return jax.grad(loss, argnums=(0, 1))(params, varied)

    gradient, change = jax.jvp(
      gradients, (params,), (jax.tree.map(instantiated, direction),)
    )
    if not isinstance(value_cotangent, SymbolicZero):
      change = jax.tree.map(
        lambda leaf, slope: leaf + value_cotangent * slope, change, gradient
      )
    to_params, to_varied = change
    return to_params, to_varied, None

  return backward
