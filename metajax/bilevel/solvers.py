r"""Inner problems that are solved, and five ways to differentiate the solution.

With J the inner loss, :math:`\theta_{t+1} = \Phi(\theta_t, \eta)` a step of the
inner optimiser, H the Hessian of J at the solution and v the gradient of the
outer loss there, the hyper-gradient through the solution is

.. math::
  \text{unrolled:}\; v^\top \frac{d\theta_T}{d\eta}, \qquad
  \text{truncated:}\; \sum_{k=0}^{K-1} v^\top
    \Big(\prod_{t > T-1-k} \partial_\theta \Phi_t\Big)
    \partial_\eta \Phi_{T-1-k}, \qquad
  \text{one step:}\; v^\top \partial_\eta \Phi_{T-1},

.. math::
  \text{implicit:}\; -v^\top H^{-1} \nabla^2_{\theta\eta} J, \qquad
  \text{Neumann:}\; -v^\top \rho \sum_{k=0}^{K} (I - \rho H)^k \,
    \nabla^2_{\theta\eta} J.

References:
  Pedregosa (2016), Hyperparameter optimization with approximate gradient,
  https://arxiv.org/abs/1602.02355
  Shaban, Cheng, Hatch, Boots (2019), Truncated back-propagation for bilevel
  optimization, https://arxiv.org/abs/1810.10667
  Lorraine, Vicol, Duvenaud (2020), Optimizing millions of hyperparameters by
  implicit differentiation, https://arxiv.org/abs/1911.02590
  Bolte, Pauwels, Vaiter (2023), One-step differentiation of iterative
  algorithms, https://arxiv.org/abs/2305.13768
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.base import Adaptation, PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import check_num_steps, descend
from metajax.inner.implicit import (
  LinearSolve,
  Loss,
  check_solver,
  implicit_minimum,
)
from metajax.inner.optimizers import check_optimizer
from metajax.inner.second_order import SecondOrder

__all__ = [
  'LAST_STEPS',
  'SOLVES',
  'SolveName',
  'Solved',
  'Solver',
  'check_real',
  'checked_loss',
  'inner_solver',
  'neumann_series',
]

SolveName = Literal['unrolled', 'truncated', 'one_step', 'implicit', 'neumann']
SOLVES: tuple[str, ...] = get_args(SolveName)

# The options that each has.
_OPTIONS: dict[str, tuple[str, ...]] = {
  'unrolled': ('checkpoint',),
  'truncated': ('last_steps', 'checkpoint'),
  'one_step': (),
  'implicit': ('max_iterations', 'solver_tolerance', 'damping'),
  'neumann': ('terms', 'step_size'),
}
LAST_STEPS = 10  # of truncated, where nothing is said


class Solved(NamedTuple):
  """How an inner problem was solved; it has no derivative."""

  residual: jax.Array  # [], the norm of the inner gradient at the end
  adaptation: Adaptation  # the inner losses, and parameters after each step


class Solver(Protocol):
  """Finds parameters of low loss, differentiable in its own way.

  `probe` counts nothing, and its gradient is the residual of the linear system
  where there is one (`metajax.implicit_minimum`), 0 elsewhere.
  """

  def __call__(
    self, loss: Loss, start: PyTree, probe: jax.Array | float, /
  ) -> tuple[PyTree, Solved]: ...


@by_value
def inner_solver(
  optimizer: optax.GradientTransformation,
  num_steps: int,
  solve: SolveName = 'unrolled',
  **options: Any,
) -> Solver:
  """Descends an inner loss, and differentiates the end of it as `solve` says.

  Args:
    optimizer: of the inner problem, any optax transformation.
    num_steps: inner steps, on all of the data.
    solve: `'unrolled'`, through all steps: exact for what the steps compute,
      converged or not, and for starts that depend on hyper-parameters; its
      memory grows with the steps. `'truncated'`, through the last ones: right
      where those before have no say, as near a strongly convex minimum, to
      which it converges geometrically in `last_steps`. `'one_step'`, through
      the last one: right where a step goes nearly all the way (Newton), else
      too short, though often of the right sign. `'implicit'`: exact at a
      minimum whose Hessian is positive definite, wrong before it; memory is
      that of one step. `'neumann'`: the same with a truncated series for the
      inverse Hessian, shorter along directions of little curvature.
    **options: of the way that is taken, each with a default:
      `checkpoint` ('none'; unrolled and truncated), see `metajax.descend`;
      `last_steps` (10, or all if there are fewer; truncated), those that are
      differentiated;
      `max_iterations` (100), `solver_tolerance` (1e-6) and `damping` (0) of
      conjugate gradients (implicit), see `metajax.implicit_minimum`;
      `terms` (10) beyond the first and `step_size` (0.1; neumann), which has
      to be below 2 by the largest curvature of the inner loss.

  Returns:
    The solver.

  Raises:
    ValueError: if there is no such way or option, if the way has no such
      option, or if a number is out of range.

  Example:
    >>> import jax, optax
    >>> solve = inner_solver(optax.sgd(0.25), 50, 'implicit')
    >>> def minimum(y):  # where 3 x = y
    ...   return solve(lambda x: x**2 + (x - y) ** 2 / 2, 0.0, 0.0)[0]
    >>> round(float(jax.grad(minimum)(6.0)), 4)
    0.3333
  """
  check_optimizer(optimizer)
  check_num_steps(num_steps)
  _check_solve(solve, options)
  if solve == 'truncated':
    last = min(LAST_STEPS, num_steps)
    if 'last_steps' in options:
      last = _whole('last_steps', options['last_steps'])
    if last > num_steps:
      raise ValueError(
        f'last_steps must be at most the number of inner steps, {num_steps},'
        f' got {last}'
      )
    return _through_last(optimizer, num_steps, last, options)
  if solve == 'one_step':
    return _through_last(optimizer, num_steps, min(1, num_steps), options)
  if solve == 'unrolled':
    return _through_last(optimizer, num_steps, num_steps, options)
  if solve == 'implicit':
    solving = {
      'max_iterations': options.get('max_iterations', 100),
      'tolerance': options.get('solver_tolerance', 1e-6),
      'damping': options.get('damping', 0.0),
    }
    check_solver(**solving)
  else:
    series = neumann_series(
      options.get('terms', 10), options.get('step_size', 0.1)
    )
    solving = {'linear_solve': series}
  return _at_minimum(optimizer, num_steps, solving)


def neumann_series(terms: int, step_size: float) -> LinearSolve:
  r"""A truncated series in place of the inverse of a positive definite matrix.

  .. math:: A^{-1} v \approx \rho \sum_{k=0}^{K} (I - \rho A)^k v

  It converges where the largest eigenvalue of A is below :math:`2 / \rho`.

  Args:
    terms: those beyond the first, K; 0 is `step_size` times v.
    step_size: rho.

  Returns:
    `(product, v) -> u`, as `metajax.implicit_minimum` takes it.

  Raises:
    ValueError: if `terms` is negative, or `step_size` not above 0.

  Example:
    >>> import jax.numpy as jnp
    >>> solve = neumann_series(terms=1, step_size=0.5)
    >>> solve(lambda x: x, jnp.ones(1))  # 0.5 (1 + 0.5)
    Array([0.75], dtype=float32)
  """
  _whole('terms', terms, 0)
  if not 0 < step_size < float('inf'):
    raise ValueError(f'step_size must be above 0, got {step_size}')

  def solve(product: Callable[[PyTree], PyTree], right: PyTree) -> PyTree:
    def add(_: Any, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
      total, term = carry
      term = jax.tree.map(lambda a, b: a - step_size * b, term, product(term))
      return optax.tree.add(total, term), term

    total, _ = jax.lax.fori_loop(0, terms, add, (right, right))
    return jax.tree.map(lambda leaf: step_size * leaf, total)

  return solve


def check_real(name: str, tree: PyTree) -> None:
  """Refuses what has nothing to be differentiated by."""
  if not jax.tree.leaves(partition.split_learned(tree)[0]):
    kinds = sorted(
      {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)}
    )
    raise ValueError(
      f'{name} must have floating-point numbers, got'
      f' {" and ".join(kinds) or "no numbers"}; whole numbers are not'
      ' differentiated: give 1.0 in place of 1'
    )


def checked_loss(name: str, value: Any) -> jax.Array:
  """A loss that a function of the user's has returned.

  Raises:
    ValueError: if it is no single real number; the message has the name.
  """
  if not isinstance(value, jax.Array | np.ndarray | np.generic | float | int):
    got = f'a {type(value).__name__}'
  elif jnp.shape(value) != ():
    got = f'an array of shape {jnp.shape(value)}; take its mean or sum'
  elif not jnp.issubdtype(jnp.result_type(value), jnp.floating):
    got = f'a number of type {jnp.result_type(value)}'
  else:
    return jnp.asarray(value)
  raise ValueError(f'{name} must return a loss, one real number; got {got}')


def _check_solve(solve: Any, options: dict[str, Any]) -> None:
  if solve not in SOLVES:
    raise ValueError(f'solve must be one of {", ".join(SOLVES)}; got {solve!r}')
  for name in options:
    if name not in _OPTIONS[solve]:
      has = ', '.join(_OPTIONS[solve]) or 'none'
      of = [way for way, names in _OPTIONS.items() if name in names]
      whose = f'is an option of {" and ".join(of)}' if of else 'is no option'
      raise ValueError(
        f'{name} {whose}, and solve is {solve!r}, whose options are: {has}'
      )


def _whole(name: str, value: Any, least: int = 1) -> int:
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise ValueError(f'{name} must be a whole number from {least}, got {value}')
  return value


def _through_last(
  optimizer: optax.GradientTransformation,
  num_steps: int,
  last_steps: int,
  options: dict[str, Any],
) -> Solver:
  """Differentiates the last steps; those before are a start that is fixed."""
  before = num_steps - last_steps
  checkpoint = options.get('checkpoint', 'none')

  def solver(
    loss: Loss, start: PyTree, probe: jax.Array | float
  ) -> tuple[PyTree, Solved]:
    del probe  # there is no linear system
    params, state, parts = start, None, []
    runs: list[tuple[int, SecondOrder]] = [(last_steps, 'mixed')]
    if before:
      runs = [(before, 'none'), *runs]
      params = jax.lax.stop_gradient(start)
    for steps, second_order in runs:
      params, descent = descend(
        lambda params, step: loss(params), params, optimizer, steps,
        optimizer_state=state, second_order=second_order,
        checkpoint='none' if second_order == 'none' else checkpoint,
      )  # fmt: skip
      state = descent.optimizer_state
      parts.append((descent.losses, descent.trajectory))
      if second_order == 'none':
        params, state = jax.lax.stop_gradient((params, state))
    return params, _solved(loss, params, parts)

  return solver


def _at_minimum(
  optimizer: optax.GradientTransformation,
  num_steps: int,
  solving: dict[str, Any],
) -> Solver:
  """Differentiates the minimum by what it is."""

  def find(loss: Loss, start: PyTree) -> tuple[PyTree, Adaptation]:
    params, descent = descend(
      lambda params, step: loss(params),
      start,
      optimizer,
      num_steps,
      second_order='none',
    )
    return params, Adaptation(descent.losses, descent.trajectory)

  def solver(
    loss: Loss, start: PyTree, probe: jax.Array | float
  ) -> tuple[PyTree, Solved]:
    learned, buffers = partition.split_learned(start)
    params, solution = implicit_minimum(
      lambda learned: loss(partition.merge(learned, buffers)),
      find,
      learned,
      probe=probe,
      **solving,
    )
    return partition.merge(params, buffers), Solved(
      solution.residual, solution.info
    )

  return solver


def _solved(loss: Loss, params: PyTree, parts: list[Any]) -> Solved:
  """Puts what was descended in parts together; nothing of it has a slope."""
  learned, buffers = partition.split_learned(params)
  slope = jax.grad(lambda learned: loss(partition.merge(learned, buffers)))(
    jax.lax.stop_gradient(learned)
  )
  losses, trajectory = parts[0]
  for more, later in parts[1:]:
    losses = jnp.concatenate([losses, more])
    trajectory = jax.tree.map(
      lambda a, b: jnp.concatenate([a, b[1:]]), trajectory, later
    )
  # The norm has no slope at 0, so it is held constant before it is taken.
  residual = optax.tree.norm(jax.lax.stop_gradient(slope))
  return Solved(
    *jax.lax.stop_gradient((residual, Adaptation(losses, trajectory)))
  )
