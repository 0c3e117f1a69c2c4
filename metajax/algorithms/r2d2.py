r"""R2D2: ridge regression, solved in closed form, on features that are learned.

.. math::
  W_i = X_i^T (X_i X_i^T + \lambda I)^{-1} Y_i, \qquad
  o(x) = \alpha f_\phi(x)^T W_i + \beta

with X the features of the support set and a constant; the embedding, lambda,
alpha and beta are learned.

References:
  Bertinetto, Henriques, Torr, Vedaldi (2019), Meta-learning with
  differentiable closed-form solvers, https://arxiv.org/abs/1805.08136
"""

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  Targets,
  are_numbers,
  check_num_classes,
  encode_targets,
)
from metajax.adaptation.solved_head import (
  ridge_regression,
  solved_head_learner,
  with_constant,
)
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.estimators import backprop

__all__ = ['r2d2']


@by_value
def r2d2(
  model: Model,
  objective: Objective,
  num_classes: int | None = None,
  *,
  ridge: float = 1.0,
  contrast: float = 10.0,
) -> MetaLearner:
  """A ridge regression on the features of the support set.

  Where targets are classes, they are regressed on as one-hot rows. Where they
  are numbers, this is few-shot regression, and they are taken as they are.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`, or predictions of
      targets `[examples, outputs]`, such as `mean_squared_error`.
    num_classes: classes per task; not needed where targets are numbers.
    ridge: initial strength of the penalty on the weights.
    contrast: what stands for 1 in a one-hot row. It is the initial factor of
      the logits, without which those of a perfect regression, 1 and 0, would
      be nearly equal probabilities.

  Returns:
    A `MetaLearner` whose meta-parameters are `HeadParams`.

  Raises:
    ValueError: if `num_classes`, `ridge` or `contrast` is not positive; in
      `adapt`, if targets are classes and `num_classes` was not given.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = r2d2(mlp([40], 40), metajax.mean_squared_error)
    >>> task = sinusoid(shots=10, queries=15)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = learner.adapt(jax.random.key(2), phi, task.support)
    >>> learner.predict(adapted, task.query.inputs).shape
    (15, 1)
  """
  if num_classes is not None:
    check_num_classes(num_classes)
  if not contrast > 0:
    raise ValueError(f'contrast must be above 0, got {contrast}')

  def encode(targets: jax.Array, dtype: jnp.dtype) -> Targets:
    encoded = encode_targets(targets, num_classes, dtype)
    if are_numbers(targets):
      return encoded
    return encoded._replace(rows=contrast * encoded.rows)

  def solve(
    strength: jax.Array,
    features: jax.Array,
    targets: jax.Array,
    counts: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    weights = ridge_regression(features, targets, strength, counts)
    return jnp.stack([jnp.zeros_like(weights), weights]), jnp.zeros((0,))

  learner = solved_head_learner(
    with_constant(model), solve, encode, ridge=ridge, scale=1.0
  )
  return MetaLearner(*learner, grad=backprop(learner, objective))
