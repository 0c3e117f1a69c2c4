r"""A linear head that is solved for each task, on features that are learned.

.. math::
  W_i = \mathrm{solve}(f_\phi(X_i), Y_i), \qquad
  o(x) = \alpha f_\phi(x)^T W_i + \beta

What R2D2, LR-D2 and MetaOptNet have in common. They differ in what they solve.

References:
  Bertinetto, Henriques, Torr, Vedaldi (2019), Meta-learning with
  differentiable closed-form solvers, https://arxiv.org/abs/1805.08136
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import Targets, rule_out_absent
from metajax.base import Adaptation, Batch, Learner, Model, PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.models.modes import like, refuse_key, with_key

__all__ = [
  'HeadParams',
  'Solve',
  'SolvedHead',
  'ridge_regression',
  'solve_definite',
  'solve_positive',
  'solved_head_learner',
  'with_constant',
]


class HeadParams(NamedTuple):
  """Meta-parameters of a method whose head is solved."""

  params: PyTree  # of the embedding
  log_ridge: jax.Array  # [], of the strength of the solver's regularisation
  log_scale: jax.Array  # [], of the factor of the outputs
  shift: jax.Array  # [], added to all outputs; a softmax does not see it


class SolvedHead(NamedTuple):
  """What such a method knows of a task."""

  meta_params: HeadParams
  weights: jax.Array  # [features, outputs]
  present: jax.Array  # [outputs], whether the class has support examples


# Maps the strength of regularisation, features [examples, features] and targets
# [examples, outputs], and how much each example counts, to weights [steps + 1,
# features, outputs], the first ones zero, and the losses [steps] before each
# step. What does not count has features and targets of 0.
Solve = Callable[
  [jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
]


@by_value
def solved_head_learner(
  model: Model,
  solve: Solve,
  encode: Callable[[jax.Array, jnp.dtype], Targets],
  *,
  ridge: float,
  scale: float,
) -> Learner:
  """A learner that adapts by solving for a linear head.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    solve: computes the weights of the head.
    encode: makes rows of the given type of the targets of a task.
    ridge: initial strength of the regularisation, learned.
    scale: initial factor of the outputs, learned.

  Returns:
    A `Learner` of meta-parameters `HeadParams`.

  Raises:
    ValueError: if `ridge` or `scale` is not positive.
  """
  for name, value in (('ridge', ridge), ('scale', scale)):
    if not value > 0:
      raise ValueError(f'{name} must be above 0, got {value}')
  refuse_key(model)

  def init(key: jax.Array, inputs: PyTree) -> HeadParams:
    params = model.init(key, inputs)
    dtype = jax.eval_shape(model.apply, params, inputs).dtype
    return HeadParams(
      params,
      jnp.log(jnp.asarray(ridge, dtype)),
      jnp.log(jnp.asarray(scale, dtype)),
      jnp.zeros((), dtype),
    )

  def adapt(
    key: jax.Array, meta_params: HeadParams, support: Batch
  ) -> tuple[SolvedHead, Adaptation]:
    del key  # deterministic
    features = model.apply(meta_params.params, support.inputs)
    targets = encode(support.targets, features.dtype)
    present = targets.present
    # Padding has no features, and so no effect on any of the solutions.
    weights, losses = solve(
      jnp.exp(meta_params.log_ridge),
      jnp.where(targets.real[:, None], features, 0),
      targets.rows,
      targets.weights,
    )
    steps = len(weights) - 1
    trajectory = SolvedHead(
      partition.nothing_of(meta_params),
      weights,
      partition.prepend(
        jnp.ones_like(present), partition.repeat(present, steps)
      ),
    )
    adapted = SolvedHead(meta_params, weights[-1], trajectory.present[-1])
    return adapted, Adaptation(losses, trajectory)

  def predict(adapted: SolvedHead, inputs: PyTree) -> jax.Array:
    meta_params, weights, present = adapted
    features = model.apply(meta_params.params, inputs)
    scale = jnp.exp(meta_params.log_scale)
    outputs = scale * (features @ weights) + meta_params.shift
    return rule_out_absent(outputs, present)

  return Learner(init, adapt, predict)


@by_value
def with_constant(model: Model) -> Model:
  """The same embedding with a feature more that is always 1.

  The head's weight of it is its bias.
  """

  def apply(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> jax.Array:
    features = with_key(model.apply, key)(params, inputs)
    return jnp.pad(features, ((0, 0), (0, 1)), constant_values=1)

  return model._replace(apply=like(model.apply, apply))


def ridge_regression(
  features: jax.Array,
  targets: jax.Array,
  strength: jax.Array | float,
  weights: jax.Array | None = None,
) -> jax.Array:
  r"""Least squares with a penalty on the weights, in closed form.

  .. math::
    W = (X^T X + \lambda I)^{-1} X^T Y = X^T (X X^T + \lambda I)^{-1} Y

  The second form is that of Woodbury. The one with the smaller system is
  solved.

  Args:
    features: X, `[examples, features]`.
    targets: Y, `[examples, outputs]`.
    strength: lambda, above 0.
    weights: `[examples]`, how much the square of the error of each counts.

  Returns:
    Weights `[features, outputs]`.

  Example:
    >>> import jax.numpy as jnp
    >>> weights = ridge_regression(jnp.ones((1, 1)), jnp.ones((1, 1)), 1.0)
    >>> round(float(weights[0, 0]), 4)
    0.5
  """
  if weights is not None:
    root = jnp.sqrt(weights)[:, None]
    features, targets = root * features, root * targets
  examples, width = features.shape
  # A number that only a program will know is that of a few examples.
  if not isinstance(examples, int) or examples < width:
    gram = features @ features.T
    return features.T @ solve_positive(gram, targets, strength)
  gram = features.T @ features
  return solve_positive(gram, features.T @ targets, strength)


def solve_positive(
  matrix: jax.Array, right: jax.Array, strength: jax.Array | float
) -> jax.Array:
  """Solves for a positive semi-definite matrix plus `strength` times I."""
  regular = matrix + strength * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
  return solve_definite(regular, right)


def solve_definite(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves for a positive definite matrix, by elimination without pivots.

  A batch is eliminated at once, by operations that are XLA's own. JAX's solver
  is LAPACK on a CPU, which hands a batch to the threads of the pool that it
  runs in and waits for them: where every core is a device they can all wait,
  and nothing goes on for ever.

  Args:
    matrix: `[n, n]`.
    right: `[n, m]`.

  Returns:
    The solution `[n, m]`.

  Example:
    >>> import jax.numpy as jnp
    >>> solve_definite(2 * jnp.eye(2), jnp.ones((2, 1))).tolist()
    [[0.5], [0.5]]
  """
  size = matrix.shape[0]

  def eliminate(row: int, rows: jax.Array) -> jax.Array:
    pivot = rows[row] / rows[row, row]
    return (rows - rows[:, row, None] * pivot[None]).at[row].set(pivot)

  def solve(_: Callable[[jax.Array], jax.Array], right: jax.Array) -> jax.Array:
    rows = jnp.concatenate([matrix, right], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, rows)[:, size:]

  solution: jax.Array = jax.lax.custom_linear_solve(
    lambda vectors: matrix @ vectors, right, solve, symmetric=True
  )
  return solution
