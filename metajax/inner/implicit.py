r"""Minima that are differentiated by what they are, not by how they are found.

At a minimum the gradient is zero, and it stays so when :math:`\eta`, whatever
else the loss depends on, changes a little. Therefore

.. math::
  \theta^*(\eta) = \arg\min_\theta J(\theta, \eta), \qquad
  v^\top \frac{d\theta^*}{d\eta} = -\frac{d}{d\epsilon} \nabla_\eta
    J(\theta^* + \epsilon u, \eta) \Big|_{\epsilon = 0}
  \quad\text{where}\quad \nabla^2_\theta J \, u = v,

for any method that finds :math:`\theta^*`. Conjugate gradients solve for
:math:`u` by products with the Hessian, so what is kept is the minimum alone,
however many steps led there. Where a loss is not convex they need damping:
with :math:`\nabla^2_\theta J + \delta I` in its place the system is positive
definite, and :math:`u` shorter along directions of little curvature.

References:
  Rajeswaran, Finn, Kakade, Levine (2019), Meta-learning with implicit
  gradients, https://arxiv.org/abs/1909.04630
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._hoisting import (
  hoist,
  instantiated,
  split_perturbed,
  with_rule,
)

__all__ = ['Loss', 'Solve', 'implicit_minimum']

Loss = Callable[[PyTree], jax.Array]
Solve = Callable[[Loss, PyTree], tuple[PyTree, PyTree]]
_Gradient = Callable[[PyTree], PyTree]


def implicit_minimum(
  loss: Loss,
  solve: Solve,
  start: PyTree,
  *,
  max_iterations: int = 20,
  tolerance: float = 1e-5,
  damping: float = 0.0,
) -> tuple[PyTree, PyTree]:
  """A minimum, as a differentiable function of all that the loss closes over.

  The derivative is that of the exact minimum, in reverse mode; it is as good
  as what `solve` returns is close to it. It does not depend on `start`.

  Args:
    loss: `(params) -> scalar`, whose Hessian at the minimum is positive
      definite, if need be with `damping`. What it closes over may be traced.
    solve: `(loss, start) -> (params, info)`; it closes over nothing traced.
    start: where it starts.
    max_iterations: of the method of conjugate gradients.
    tolerance: it ends earlier where the residual is this part of the cotangent.
    damping: added to the diagonal of the Hessian, where the derivative is not
      exact any more.

  Returns:
    What `solve` returns; there is no derivative of `info`.

  Raises:
    ValueError: if `max_iterations` is not positive, or `damping` negative.

  Example:
    >>> import jax, optax
    >>> from metajax.inner.descend import descend
    >>> def solve(loss, start):
    ...   return descend(lambda x, step: loss(x), start, optax.sgd(0.25), 50)
    >>> def minimum(y):  # where 3 x = y
    ...   loss = lambda x: x**2 + (x - y) ** 2 / 2
    ...   return implicit_minimum(loss, solve, 0.0)[0]
    >>> value, slope = jax.value_and_grad(minimum)(6.0)
    >>> round(float(value), 4), round(float(slope), 4)
    (2.0, 0.3333)
  """
  if max_iterations < 1:
    raise ValueError(f'max_iterations must be 1 or more, got {max_iterations}')
  if not damping >= 0:
    raise ValueError(f'damping must be 0 or more, got {damping}')
  hoisted = hoist(loss, start)

  def pure(params: PyTree, constants: list) -> jax.Array:
    value: jax.Array = hoisted.call(constants, params)
    return value

  def found(start: PyTree, constants: list) -> tuple[PyTree, PyTree]:
    return solve(lambda params: pure(params, constants), start)

  def solve_hessian(gradient: _Gradient, at: PyTree, right: PyTree) -> PyTree:
    _, curvature = jax.linearize(gradient, at)

    def product(direction: PyTree) -> PyTree:
      return jax.tree.map(
        lambda curved, straight: curved + damping * straight,
        curvature(direction),
        direction,
      )

    return cg(product, right, tol=tolerance, maxiter=max_iterations)[0]

  minimum = with_rule(
    found,
    _keep_the_minimum(found),
    _implicit_function_theorem(pure, solve_hessian),
  )
  result: tuple[PyTree, PyTree] = minimum(start, hoisted.constants)
  return result


def _keep_the_minimum(found: Callable[..., PyTree]) -> Callable[..., Any]:
  """The forward rule: of the way to the minimum nothing is kept."""

  def forward(*inputs: PyTree) -> tuple[PyTree, PyTree]:
    start, constants = jax.tree.map(lambda leaf: leaf.value, inputs)
    varied, fixed = split_perturbed(inputs[1])
    params, info = found(start, constants)
    return (params, info), (params, varied, fixed)

  return forward


def _implicit_function_theorem(
  pure: Callable[..., jax.Array], solve_hessian: Callable[..., PyTree]
) -> Callable[..., Any]:
  """The backward rule: one linear system, one directional derivative."""

  def backward(kept: PyTree, cotangents: PyTree) -> tuple[PyTree, ...]:
    params, varied, fixed = kept
    cotangent, _ = cotangents

    def gradients(params: PyTree) -> tuple[PyTree, PyTree]:
      def loss(params: PyTree, varied: list) -> jax.Array:
        return pure(params, partition.merge(varied, fixed))

      return jax.grad(loss, argnums=(0, 1))(params, varied)

    direction = solve_hessian(
      lambda params: gradients(params)[0],
      params,
      jax.tree.map(instantiated, cotangent),
    )
    _, (_, change) = jax.jvp(gradients, (params,), (direction,))
    return None, jax.tree.map(jnp.negative, change)

  return backward
