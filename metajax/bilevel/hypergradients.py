"""The gradient of a validation loss by what training depends on."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from metajax.base import PyTree
from metajax.bilevel.solvers import (
  SolveName,
  check_real,
  checked_loss,
  inner_solver,
)
from metajax.equality import by_value
from metajax.inner import partition

__all__ = ['Hypergradient', 'Info', 'hypergradient']

# `(params, hyperparams, data) -> scalar`.
BilevelLoss = Callable[[PyTree, PyTree, PyTree], jax.Array]


class Info(NamedTuple):
  """What stands beside a hyper-gradient, and says how good it is."""

  value: jax.Array  # [], the outer loss
  params: PyTree  # that the inner problem was solved by
  losses: jax.Array  # [steps], of the inner problem before each step
  residual: jax.Array  # [], the norm of the inner gradient at `params`
  # [], `|v - H u| / |v|` of the linear system; 0 where none is solved.
  solver_residual: jax.Array
  converged: jax.Array  # [], bool: whether `residual` is at most the tolerance


class Hypergradient(Protocol):
  """The gradient by hyper-parameters, and what says how good it is."""

  def __call__(
    self,
    hyperparams: PyTree,
    start: PyTree,
    training: PyTree,
    validation: PyTree,
    /,
  ) -> tuple[PyTree, Info]: ...


@by_value
def hypergradient(
  inner: BilevelLoss,
  outer: BilevelLoss,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  solve: SolveName = 'unrolled',
  *,
  tolerance: float = 1e-3,
  **options: Any,
) -> Hypergradient:
  r"""The gradient of an outer loss by what an inner loss depends on.

  .. math::
    \frac{d}{d\eta} F(\theta(\eta), \eta, V) \quad\text{where}\quad
    \theta(\eta) \approx \arg\min_\theta J(\theta, \eta, S)

  Args:
    inner: `(params, hyperparams, training) -> scalar`, J.
    outer: `(params, hyperparams, validation) -> scalar`, F.
    optimizer: of the inner problem.
    num_steps: its steps.
    solve: how the solution is differentiated, see `inner_solver`: `'unrolled'`
      for any inner loss and few steps, `'implicit'` for a strongly convex one
      and as many steps as it takes to converge.
    tolerance: the norm of the inner gradient up to which the inner problem
      counts as solved. All ways but `'unrolled'` are wrong, without another
      sign of it, where it is not.
    **options: of `solve`, see `inner_solver`.

  Returns:
    `(hyperparams, start, training, validation) -> (gradient, Info)`, to be
    compiled with `jax.jit`. Buffers among hyper-parameters have the gradient 0;
    where the outer loss is no finite number, that of the others is none.

  Raises:
    ValueError: if there is no such `solve`, or it has no such option, or if a
      number is out of range; when it is called, if there are no floating-point
      numbers among hyper-parameters, or in the start, or if a loss is no single
      real number.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> def inner(w, decay, batch):
    ...   return jnp.mean((w * batch[0] - batch[1]) ** 2) + decay * w**2
    >>> def outer(w, decay, batch):
    ...   return jnp.mean((w * batch[0] - batch[1]) ** 2)
    >>> by_decay = hypergradient(inner, outer, optax.sgd(0.3), 50, 'implicit')
    >>> x = jnp.ones(3)
    >>> slope, info = by_decay(1.0, 0.0, (x, 2 * x), (x, x / 2))
    >>> # w = 2 / (1 + decay) = 1, so (1 - 0.5)**2, and 2 (1 - 0.5) (-0.5)
    >>> round(float(info.value), 4), round(float(slope), 4)
    (0.25, -0.5)
    >>> bool(info.converged)
    True
  """
  if not tolerance > 0:
    raise ValueError(f'tolerance must be above 0, got {tolerance}')
  solver = inner_solver(optimizer, num_steps, solve, **options)

  def gradient(
    hyperparams: PyTree, start: PyTree, training: PyTree, validation: PyTree
  ) -> tuple[PyTree, Info]:
    check_real('hyperparams', hyperparams)
    check_real('start', start)
    learned, buffers = partition.split_learned(hyperparams)

    def value_of(learned: PyTree, probe: jax.Array) -> tuple[jax.Array, Any]:
      hyperparams = partition.merge(learned, buffers)
      params, solved = solver(
        lambda params: checked_loss(
          'inner', inner(params, hyperparams, training)
        ),
        start,
        probe,
      )
      value = checked_loss('outer', outer(params, hyperparams, validation))
      return value, (params, solved)

    dtype = jnp.result_type(*jax.tree.leaves(learned))
    (value, (params, solved)), (slope, missed) = jax.value_and_grad(
      value_of, argnums=(0, 1), has_aux=True
    )(learned, jnp.zeros((), dtype))
    # Of what diverged a linear solver may say 0, which looks like an optimum.
    slope = jax.tree.map(
      lambda leaf: jnp.where(jnp.isfinite(value), leaf, jnp.nan), slope
    )
    slope = partition.merge(slope, jax.tree.map(jnp.zeros_like, buffers))
    return slope, Info(
      value,
      params,
      solved.adaptation.losses,
      solved.residual,
      missed,
      solved.residual <= tolerance,
    )

  return gradient
