r"""ALPaCA: Bayesian linear regression on features, whose prior is learned.

.. math::
  W_i \sim N(M, S \otimes I), \qquad
  \bar W_i = M + S X_i^T (X_i S X_i^T + \sigma^2 I)^{-1} (Y_i - X_i M), \qquad
  o(x) = f_\phi(x)^T \bar W_i

with X the features of the support set; the embedding, the mean M and the
covariance :math:`S = L L^T` of the prior, and the noise :math:`\sigma` are
learned. Features of an example are those of the network, the inputs
themselves and a constant, so a linear function of the columns of a table is in
it from the start: with M = 0 and S = I this is ridge regression.

The paper trains by the likelihood of the queries, and has one inverse of S; we
take the objective, and a triangular L, which is positive semi-definite at any
value.

References:
  Harrison, Sharma, Pavone (2018), Meta-learning priors for efficient online
  Bayesian regression, https://arxiv.org/abs/1807.08912
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import encode_targets, one_step
from metajax.adaptation.solved_head import solve_definite
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Model,
  Objective,
  PyTree,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.models.modes import refuse_key

__all__ = ['Posterior', 'PriorParams', 'alpaca']


class PriorParams(NamedTuple):
  """Meta-parameters: an embedding, and a prior of the weights on it."""

  params: PyTree  # of the embedding
  mean: jax.Array  # M, [features, outputs]
  factor: jax.Array  # L, lower triangular, [features, features]
  log_noise: jax.Array  # [], the logarithm of sigma


class Posterior(NamedTuple):
  """What is known of a task."""

  meta_params: PriorParams
  weights: jax.Array  # [features, outputs]


@by_value
def alpaca(
  model: Model,
  objective: Objective,
  *,
  num_outputs: int = 1,
  prior: float = 0.3,
  shift: float = 0.3,
  noise: float = 1.0,
) -> MetaLearner:
  """Bayesian linear regression whose prior is learned.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes predictions of targets `[examples, outputs]`, such as
      `mean_squared_error`.
    num_outputs: numbers to predict.
    prior: initial deviation of the weight of each feature.
    shift: the same of that of the constant.
    noise: initial deviation of the targets.

  Returns:
    A `MetaLearner` whose meta-parameters are `PriorParams`. Before it adapts,
    it predicts by the mean of the prior.

  Raises:
    ValueError: if one of them is not positive; when it adapts, if targets are
      not so many numbers.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> learner = alpaca(mlp([40], 40), metajax.mean_squared_error)
    >>> task = metajax.tasks.sinusoid(10, 15)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = learner.adapt(jax.random.key(2), phi, task.support)
    >>> learner.predict(adapted, task.query.inputs).shape
    (15, 1)
  """
  if not min(prior, shift, noise, num_outputs) > 0:
    raise ValueError(
      'prior, shift, noise and num_outputs must be above 0, got'
      f' {prior}, {shift}, {noise} and {num_outputs}'
    )
  refuse_key(model)

  def features_of(params: PyTree, inputs: jax.Array) -> jax.Array:
    features = model.apply(params, inputs)
    number = inputs.shape[0]  # a symbol, in a program that is exported
    flat = inputs.reshape(number, -1).astype(features.dtype)
    ones = jnp.ones((number, 1), features.dtype)
    return jnp.concatenate([features, flat, ones], axis=1)

  def init(key: jax.Array, inputs: PyTree) -> PriorParams:
    params = model.init(key, inputs)
    shape = jax.eval_shape(features_of, params, inputs)
    size = shape.shape[1]
    deviations = jnp.full((size,), prior, shape.dtype).at[-1].set(shift)
    return PriorParams(
      params,
      jnp.zeros((size, num_outputs), shape.dtype),
      jnp.diag(deviations),
      jnp.log(jnp.asarray(noise, shape.dtype)),
    )

  def adapt(
    key: jax.Array, meta_params: PriorParams, support: Batch
  ) -> tuple[Posterior, Adaptation]:
    del key  # deterministic
    features = features_of(meta_params.params, support.inputs)
    targets = encode_targets(support.targets, None, features.dtype)
    if targets.rows.shape[1] != num_outputs:
      raise ValueError(
        f'num_outputs is {num_outputs}, but an example has'
        f' {targets.rows.shape[1]} targets'
      )
    # An example that counts for less has more noise; padding has no features.
    root = jnp.sqrt(jnp.where(targets.real, targets.weights, 0))[:, None]
    factor = jnp.tril(meta_params.factor)
    seen = (root * features) @ factor
    errors = root * (targets.rows - features @ meta_params.mean)
    noise = jnp.exp(2 * meta_params.log_noise)
    gram = seen @ seen.T + noise * jnp.eye(seen.shape[0], dtype=seen.dtype)
    weights = meta_params.mean + factor @ (
      seen.T @ solve_definite(gram, errors)
    )
    adapted = Posterior(meta_params, weights)
    before = Posterior(meta_params, meta_params.mean)
    return adapted, one_step(before, adapted)

  def predict(adapted: Posterior, inputs: PyTree) -> jax.Array:
    return features_of(adapted.meta_params.params, inputs) @ adapted.weights

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))
