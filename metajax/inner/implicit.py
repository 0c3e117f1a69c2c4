r"""Minima and roots that are differentiated by what they are.

How they are found does not matter.

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

A root of any function, :math:`f(\theta^*, \eta) = 0`, such as a fixed point of
:math:`f + \theta`, has likewise

.. math::
  v^\top \frac{d\theta^*}{d\eta} = -u^\top \frac{\partial f}{\partial \eta}
  \quad\text{where}\quad
  \left(\frac{\partial f}{\partial \theta}\right)^\top u = v.

Both are derivatives of the exact solution: where the search has not come to it
they are wrong without a sign of it, so what it missed by is returned.

References:
  Rajeswaran, Finn, Kakade, Levine (2019), Meta-learning with implicit
  gradients, https://arxiv.org/abs/1909.04630
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg, gmres

from metajax.base import PyTree
from metajax.inner import partition
from metajax.inner._hoisting import (
  hoist,
  instantiated,
  split_perturbed,
  with_rule,
)

__all__ = [
  'LinearSolve',
  'Loss',
  'Solution',
  'Solve',
  'check_solver',
  'implicit_minimum',
  'implicit_root',
]

Loss = Callable[[PyTree], jax.Array]
Solve = Callable[[Loss, PyTree], tuple[PyTree, PyTree]]
Function = Callable[[PyTree], PyTree]
# From the product with a matrix A, and v, a u with A u = v, or about so.
LinearSolve = Callable[[Callable[[PyTree], PyTree], PyTree], PyTree]
SolveRoot = Callable[[Function, PyTree], tuple[PyTree, PyTree]]


class Solution(NamedTuple):
  """How a search ended."""

  info: PyTree  # what `solve` returns beside the parameters
  # [], the norm of what is 0 at the exact solution: of the gradient at a
  # minimum, of the function at a root.
  residual: jax.Array


def implicit_minimum(
  loss: Loss,
  solve: Solve,
  start: PyTree,
  *,
  max_iterations: int = 20,
  tolerance: float = 1e-5,
  damping: float = 0.0,
  probe: jax.Array | float = 0.0,
  linear_solve: LinearSolve | None = None,
) -> tuple[PyTree, Solution]:
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
    probe: a number that counts nothing. Its gradient is the residual of the
      linear system relative to the cotangent, `|v - H u| / |v|`: how far from
      solved it was when the method ended.
    linear_solve: `(product, v) -> u` in place of conjugate gradients, which
      `max_iterations` and `tolerance` are of; it closes over nothing traced.

  Returns:
    The parameters that `solve` returns, and a `Solution`, of which there is no
    derivative. Where `residual`, the norm of the gradient of the loss, is not
    small, there is no minimum, and the derivative is none of what was computed.

  Raises:
    ValueError: if `max_iterations` is not positive, `tolerance` not from 0 to
      below 1, or `damping` negative.

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
  check_solver(max_iterations, tolerance, damping)
  hoisted = hoist(loss, start)

  def pure(params: PyTree, constants: list) -> jax.Array:
    value: jax.Array = hoisted.call(constants, params)
    return value

  def found(start: PyTree, constants: list, _: Any) -> tuple[PyTree, Solution]:
    def loss(params: PyTree) -> jax.Array:
      return pure(params, constants)

    params, info = solve(loss, start)
    return params, Solution(info, optax.tree.norm(jax.grad(loss)(params)))

  def gradients(params: PyTree, varied: list, fixed: list) -> Any:
    def loss(params: PyTree, varied: list) -> jax.Array:
      return pure(params, partition.merge(varied, fixed))

    return jax.grad(loss, argnums=(0, 1))(params, varied)

  def pull_back(
    at: PyTree, varied: list, fixed: list, right: PyTree
  ) -> tuple[list, PyTree]:
    _, curvature = jax.linearize(
      lambda params: gradients(params, varied, fixed)[0], at
    )

    def product(direction: PyTree) -> PyTree:
      return jax.tree.map(
        lambda curved, straight: curved + damping * straight,
        curvature(direction),
        direction,
      )

    if linear_solve is None:
      direction, _ = cg(product, right, tol=tolerance, maxiter=max_iterations)
    else:
      direction = linear_solve(product, right)
    _, (_, change) = jax.jvp(
      lambda params: gradients(params, varied, fixed), (at,), (direction,)
    )
    return change, optax.tree.sub(right, product(direction))

  return _solution(found, pull_back, start, hoisted.constants, probe)


def implicit_root(
  function: Function,
  solve: SolveRoot,
  start: PyTree,
  *,
  max_iterations: int = 20,
  tolerance: float = 1e-5,
  probe: jax.Array | float = 0.0,
) -> tuple[PyTree, Solution]:
  """A root, as a differentiable function of all that its function closes over.

  A fixed point of `step` is a root of `step(params) - params`. The derivative
  is that of the exact root, in reverse mode; it does not depend on `start`.

  Args:
    function: `(params) -> residuals` of the same structure and shapes, with a
      Jacobian at the root that can be inverted, symmetric or not. What it
      closes over may be traced.
    solve: `(function, start) -> (params, info)`; it closes over nothing traced.
    start: where it starts.
    max_iterations: of the generalised method of minimal residuals, as many
      vectors as it keeps.
    tolerance: it ends earlier where the residual is this part of the cotangent.
    probe: as for `implicit_minimum`.

  Returns:
    The parameters that `solve` returns, and a `Solution`, of which there is no
    derivative; `residual` is the norm of the function there.

  Raises:
    ValueError: if `max_iterations` is not positive, `tolerance` not from 0 to
      below 1, or if `function` returns what is not like its parameters.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> def solve(function, start):  # repeats x + function(x)
    ...   step = lambda _, x: x + function(x)
    ...   return jax.lax.fori_loop(0, 50, step, start), ()
    >>> def fixed_point(y):  # where x = (x + y) / 4
    ...   function = lambda x: (x + y) / 4 - x
    ...   return implicit_root(function, solve, 0.0)[0]
    >>> value, slope = jax.value_and_grad(fixed_point)(6.0)
    >>> round(float(value), 4), round(float(slope), 4)
    (2.0, 0.3333)
  """
  check_solver(max_iterations, tolerance)
  hoisted = hoist(function, start)
  if jax.tree.map(jnp.shape, hoisted.shapes) != jax.tree.map(jnp.shape, start):
    raise ValueError(
      'a root needs a function whose result is like its parameters; got'
      f' {jax.tree.map(jnp.shape, hoisted.shapes)} for'
      f' {jax.tree.map(jnp.shape, start)}'
    )

  def found(start: PyTree, constants: list, _: Any) -> tuple[PyTree, Solution]:
    def function(params: PyTree) -> PyTree:
      return hoisted.call(constants, params)

    params, info = solve(function, start)
    return params, Solution(info, optax.tree.norm(function(params)))

  def pull_back(
    at: PyTree, varied: list, fixed: list, right: PyTree
  ) -> tuple[list, PyTree]:
    _, pull = jax.vjp(
      lambda params, varied: hoisted.call(
        partition.merge(varied, fixed), params
      ),
      at,
      varied,
    )
    direction, _ = gmres(
      lambda direction: pull(direction)[0],
      right,
      tol=tolerance,
      restart=max_iterations,
      maxiter=1,
    )
    product, change = pull(direction)
    return change, optax.tree.sub(right, product)

  return _solution(found, pull_back, start, hoisted.constants, probe)


def check_solver(
  max_iterations: int, tolerance: float, damping: float = 0.0
) -> None:
  """Refuses what would end the linear solver before it has begun.

  Raises:
    ValueError: if `max_iterations` is not positive, `tolerance` not from 0 to
      below 1, or `damping` negative or infinite.
  """
  if max_iterations < 1:
    raise ValueError(f'max_iterations must be 1 or more, got {max_iterations}')
  if not 0 <= tolerance < 1:
    raise ValueError(f'tolerance must be from 0 to below 1, got {tolerance}')
  if not 0 <= damping < float('inf'):
    raise ValueError(f'damping must be 0 or more, got {damping}')


# From where it is, what of the constants is differentiated, the rest, and a
# cotangent v: the product of -v with the derivative by the constants, and what
# the linear system was missed by.
_PullBack = Callable[[PyTree, list, list, PyTree], tuple[list, PyTree]]


def _solution(
  found: Callable[..., tuple[PyTree, Solution]],
  pull_back: _PullBack,
  start: PyTree,
  constants: list,
  probe: jax.Array | float,
) -> tuple[PyTree, Solution]:
  """What is found, with the derivative that the implicit function has."""

  def forward(*inputs: PyTree) -> tuple[PyTree, PyTree]:
    values = jax.tree.map(lambda leaf: leaf.value, inputs)
    varied, fixed = split_perturbed(inputs[1])
    result = found(*values)
    return result, (result[0], varied, fixed)

  def backward(kept: PyTree, cotangents: PyTree) -> tuple[PyTree, ...]:
    params, varied, fixed = kept
    right = jax.tree.map(instantiated, cotangents[0])
    change, missed = pull_back(params, varied, fixed, right)
    size = optax.tree.norm(right)
    # Without a cotangent there is nothing to miss.
    relative = optax.tree.norm(missed) / jnp.where(size == 0, 1, size)
    return None, jax.tree.map(jnp.negative, change), relative

  ruled = with_rule(found, forward, backward)
  dtype = jnp.result_type(*jax.tree.leaves(start))
  result: tuple[PyTree, Solution] = ruled(
    start, constants, jnp.asarray(probe, dtype)
  )
  return result
