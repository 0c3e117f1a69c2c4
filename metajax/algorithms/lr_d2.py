r"""LR-D2: logistic regression by Newton's method, on features that are learned.

.. math::
  w^{t+1} = (X^T S X + \lambda I)^{-1} X^T S z, \quad
  z = X w^t + S^{-1} (y - \mu), \quad \mu = \sigma(X w^t), \quad
  S = \mathrm{diag}(\mu (1 - \mu))

one such regression per class against all others. Every step is a ridge
regression of weighted examples (iteratively reweighted least squares), so it is
solved in the smaller of its two forms, as R2D2 is.

References:
  Bertinetto, Henriques, Torr, Vedaldi (2019), Meta-learning with
  differentiable closed-form solvers, https://arxiv.org/abs/1805.08136. There
  it has two classes; one regression per class is the extension named there.
"""

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  Targets,
  check_num_classes,
  encode_classes,
)
from metajax.adaptation.solved_head import (
  ridge_regression,
  solved_head_learner,
  with_constant,
)
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.objectives import weighted_mean

__all__ = ['lr_d2', 'newton_step']


@by_value
def lr_d2(
  model: Model,
  objective: Objective,
  num_classes: int,
  num_steps: int = 5,
  *,
  ridge: float = 1.0,
  scale: float = 1.0,
) -> MetaLearner:
  """Logistic regressions on the features of the support set.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    num_steps: Newton steps.
    ridge: initial strength of the penalty on the weights.
    scale: initial factor of the logits.

  Returns:
    A `MetaLearner` whose meta-parameters are `HeadParams`.

  Raises:
    ValueError: if `num_classes`, `ridge` or `scale` is not positive, or
      `num_steps` is negative; in `adapt`, if targets are not classes.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> embedding = conv4(None, downsample='max_pool', pool='flatten')
    >>> learner = lr_d2(embedding, metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  if num_steps < 0:
    raise ValueError(f'num_steps must be 0 or more, got {num_steps}')

  def encode(targets: jax.Array, dtype: jnp.dtype) -> Targets:
    return encode_classes(targets, num_classes, dtype)

  def solve(
    strength: jax.Array,
    features: jax.Array,
    targets: jax.Array,
    counts: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    signs = 2 * targets - 1  # [examples, classes]

    def step(
      weights: jax.Array, _: None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
      losses = jax.nn.softplus(-signs * (features @ weights))
      loss = weighted_mean(losses, counts)
      weights = jax.vmap(
        newton_step, in_axes=(None, 1, 1, None, None), out_axes=1
      )(features, signs, weights, strength, counts)
      return weights, (weights, loss)

    start = jnp.zeros((features.shape[1], num_classes), features.dtype)
    _, (visited, losses) = jax.lax.scan(step, start, length=num_steps)
    return jnp.concatenate([start[None], visited]), losses

  learner = solved_head_learner(
    with_constant(model), solve, encode, ridge=ridge, scale=scale
  )
  return MetaLearner(*learner, grad=backprop(learner, objective))


def newton_step(
  features: jax.Array,
  signs: jax.Array,
  weights: jax.Array,
  strength: jax.Array | float,
  counts: jax.Array | None = None,
) -> jax.Array:
  r"""A Newton step down the loss of a logistic regression of two classes.

  .. math::
    \sum_n c_n \log(1 + \exp(-y_n x_n^T w))
      + \frac{\lambda}{2} \lVert w \rVert^2

  Args:
    features: x, `[examples, features]`.
    signs: y, 1 or -1, `[examples]`.
    weights: w, `[features]`.
    strength: lambda, above 0.
    counts: c, how much each example counts, `[examples]`; 1 by default.

  Returns:
    The next weights, `[features]`.
  """
  scores = features @ weights
  # Where mu is the probability of the class, these are the root of mu (1 - mu),
  # and what is missing to the label divided by it. Written with exponentials,
  # neither divides by the small numbers of examples that are surely classified.
  root = jnp.exp(-(jax.nn.softplus(scores) + jax.nn.softplus(-scores)) / 2)
  missing = signs * jnp.exp(-signs * scores / 2)
  next_weights = ridge_regression(
    root[:, None] * features,
    (root * scores + missing)[:, None],
    strength,
    counts,
  )
  return next_weights[:, 0]
