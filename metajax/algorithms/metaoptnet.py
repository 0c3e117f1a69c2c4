r"""MetaOptNet: a support vector machine on features that are learned.

.. math::
  \max_\alpha \; \sum_n \alpha_n^{y_n} - \frac{1}{2} \sum_k \lVert w_k \rVert^2
  - \frac{\rho}{2} \lVert \alpha \rVert^2, \quad
  w_k = \sum_n \alpha_n^k f_\phi(x_n), \\
  \text{with} \; \alpha_n^k \le C \, [k = y_n], \quad \sum_k \alpha_n^k = 0

the dual of the multi-class machine of Crammer and Singer, with the small rho
that the authors' code adds to the diagonal. It is solved twice. A fixed number
of accelerated projected gradient steps finds which bounds are met; nothing is
differentiated here. What is left is a linear system, whose solution is exact
and has exact derivatives.

References:
  Lee, Maji, Ravichandran, Soatto (2019), Meta-learning with differentiable
  convex optimization, https://arxiv.org/abs/1904.03758
  Crammer, Singer (2001), On the algorithmic implementation of multiclass
  kernel-based vector machines.
"""

import jax
import jax.numpy as jnp
from optax.projections import projection_simplex

from metajax.adaptation.classes import (
  Targets,
  check_num_classes,
  encode_classes,
  present,
)
from metajax.adaptation.solved_head import (
  solve_definite,
  solve_positive,
  solved_head_learner,
)
from metajax.base import EXCLUDED, MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.estimators import backprop

__all__ = ['metaoptnet', 'support_vector_machine']


@by_value
def metaoptnet(
  model: Model,
  objective: Objective,
  num_classes: int,
  *,
  limit: float = 0.1,
  ridge: float = 1.0,
  scale: float = 1.0,
  num_iterations: int = 300,
) -> MetaLearner:
  """A multi-class support vector machine on the features of the support set.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    limit: C, how much one example may weigh.
    ridge: rho, which makes the solution unique; learned from there.
    scale: initial factor of the logits.
    num_iterations: of the search for the bounds that are met.

  Returns:
    A `MetaLearner` whose meta-parameters are `HeadParams`.

  Raises:
    ValueError: if `num_classes` is less than 2, or another number is not
      positive; in `adapt`, if targets are not classes.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> embedding = conv4(None, downsample='max_pool', pool='flatten')
    >>> learner = metaoptnet(embedding, metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes, at_least=2)
  if not limit > 0:
    raise ValueError(f'limit must be above 0, got {limit}')
  if num_iterations < 1:
    raise ValueError(f'num_iterations must be 1 or more, got {num_iterations}')

  def encode(targets: jax.Array, dtype: jnp.dtype) -> Targets:
    return encode_classes(targets, num_classes, dtype)

  def solve(
    ridge: jax.Array,
    features: jax.Array,
    members: jax.Array,
    counts: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    # Padding has no features: what its alpha is makes no difference.
    limits = limit * jnp.where(counts > 0, counts, 1)
    dual = support_vector_machine(
      features @ features.T, members, limits, ridge, num_iterations
    )
    weights = features.T @ dual
    return jnp.stack([jnp.zeros_like(weights), weights]), jnp.zeros((0,))

  learner = solved_head_learner(model, solve, encode, ridge=ridge, scale=scale)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def support_vector_machine(
  kernel: jax.Array,
  members: jax.Array,
  limit: jax.Array | float,
  ridge: jax.Array | float,
  num_iterations: int = 300,
) -> jax.Array:
  """The dual solution of a multi-class support vector machine.

  It is a differentiable function of `kernel` and `ridge`.

  Args:
    kernel: inner products of the examples, `[examples, examples]`.
    members: `[examples, classes]`, 1 where an example is of a class, else 0.
    limit: C, how much one example may weigh; a number, or `[examples]`.
    ridge: added to the diagonal of the kernel, above 0.
    num_iterations: of the search for the bounds that are met.

  Returns:
    alpha, `[examples, classes]`.

  Example:
    >>> import jax.numpy as jnp
    >>> alpha = support_vector_machine(jnp.eye(2), jnp.eye(2), 0.1, 1.0)
    >>> [[round(value, 6) for value in row] for row in alpha.tolist()]
    [[0.1, -0.1], [-0.1, 0.1]]
  """
  limits = jnp.broadcast_to(jnp.asarray(limit, kernel.dtype), members.shape[:1])
  distances = _distances_to_bounds(
    jax.lax.stop_gradient(kernel),
    members,
    limits,
    jax.lax.stop_gradient(ridge),
    num_iterations,
  )
  return _solve_between_bounds(kernel, members, limits, ridge, distances > 0)


def _distances_to_bounds(
  kernel: jax.Array,
  members: jax.Array,
  limits: jax.Array,
  ridge: jax.Array | float,
  num_iterations: int,
) -> jax.Array:
  """How far alpha is below its bounds, by Nesterov's gradient method.

  The distances of one example are not negative and add up to its C, so a
  projection onto the constraints is one onto a simplex.
  """
  # No eigenvalue is above the largest sum of a row, and none below the ridge.
  steepest = jnp.max(jnp.sum(jnp.abs(kernel), axis=1)) + ridge
  root = jnp.sqrt(ridge / steepest)
  momentum = (1 - root) / (1 + root)
  # Classes that the task does not have stay at their bound.
  occurs = present(members, axis=0)[None]

  def project(distances: jax.Array) -> jax.Array:
    return jax.vmap(projection_simplex)(
      jnp.where(occurs, distances, EXCLUDED), limits
    )

  def step(
    _: int, state: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    previous, distances = state
    alpha = limits[:, None] * members - distances
    slope = kernel @ alpha + ridge * alpha - members
    following = project(distances + slope / steepest)
    return following, following + momentum * (following - previous)

  start = project(jnp.zeros_like(members))
  found, _ = jax.lax.fori_loop(0, num_iterations, step, (start, start))
  return found


def _solve_between_bounds(
  kernel: jax.Array,
  members: jax.Array,
  limits: jax.Array,
  ridge: jax.Array | float,
  free: jax.Array,
) -> jax.Array:
  """The alpha that is optimal where it is `free`, and at its bound elsewhere.

  With a multiplier for each example, whose alphas add up to 0, the classes are
  systems of their own: alpha_k = starts_k - responses_k @ multipliers.
  """
  free = free.astype(kernel.dtype)  # [examples, classes]
  bounds = limits[:, None] * members * (1 - free)
  slopes = free * (members - kernel @ bounds)

  def solve_class(
    free: jax.Array, slope: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    right = jnp.concatenate([slope[:, None], jnp.diag(free)], axis=1)
    within = free[:, None] * kernel * free[None, :]
    solved = solve_positive(within, right, ridge)
    return solved[:, 0], solved[:, 1:]

  starts, responses = jax.vmap(solve_class, in_axes=1)(free, slopes)
  sums = jnp.sum(starts, axis=0) + jnp.sum(bounds, axis=1)
  multipliers = solve_definite(jnp.sum(responses, axis=0), sums[:, None])[:, 0]
  between = starts - jnp.einsum('cnm,m->cn', responses, multipliers)
  return between.T + bounds
