r"""Delta-encoder: carries the differences within one class over to another.

.. math::
  z = E(x_t, x_r), \quad \hat{x} = D(z, x_r), \qquad
  \min_{E, D} \sum_d w_d \lvert x_{t,d} - \hat{x}_d \rvert, \quad
  w_d \propto (x_{t,d} - \hat{x}_d)^2

for features of two examples of a class. A short code z can say no more than
how the one differs from the other. Codes of training classes, decoded at an
example of a new class, are more examples of that.

The paper keeps pairs of training examples, and draws codes from them at test.
Here the mean and the covariance of codes are kept, among the meta-parameters,
as running averages over the pairs of training tasks, and codes are drawn from
the normal distribution that has them. The paper's features are those of a
network that was trained before; here the embedding learns at the same time, by
the loss on the queries of the learner that takes the examples, and the encoder
and the decoder take its features as they are. The decoder learns by that loss
too, and adds what it makes of the code to the example.

References:
  Schwartz, Karlinsky, Shtok, Harary, Marder, Kumar, Feris, Giryes, Bronstein
  (2018), Delta-encoder: an effective sample synthesis method for few-shot
  object recognition, https://arxiv.org/abs/1806.04734
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.generators import Generator, change_of
from metajax.algorithms.hallucination import Hallucinated, hallucinate
from metajax.base import (
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
  values_and_weights,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of, query_loss
from metajax.models import mlp
from metajax.precision import drawn_like_inputs

__all__ = [
  'LABELS',
  'DeltaEncoder',
  'Moments',
  'Pairs',
  'delta_encoder',
  'draw_codes',
  'draw_pairs',
  'moments_of',
  'reconstruction_errors',
]


class Moments(NamedTuple):
  """The first two moments of the codes of training pairs."""

  first: jax.Array  # [code_size], the mean
  second: jax.Array  # [code_size, code_size], the mean of outer products


class DeltaEncoder(NamedTuple):
  """Meta-parameters of the generator."""

  encoder: PyTree
  decoder: PyTree
  moments: PyTree  # `Moments`


class Pairs(NamedTuple):
  """Features of two examples of a class, and how much a pair counts."""

  features: jax.Array  # [pairs, features]
  references: jax.Array  # [pairs, features]
  weights: jax.Array  # [pairs], of sum 1; 0 for what is padding


@by_value
def delta_encoder(
  embedding: Model,
  objective: Objective,
  learner: Learner | MetaLearner,
  num_extra: int = 16,
  *,
  code_size: int = 16,
  width: int = 256,
  reconstruction_weight: float = 1.0,
  averaging_rate: float = 0.1,
) -> MetaLearner:
  """Puts a delta-encoder in front of a learner on features.

  Train it with `metajax.outer_optimizer(optimizer, LABELS)`, which lets the
  moments average themselves.

  Args:
    embedding: `[examples, ...]` to `[examples, features]`.
    objective: judges the adapted learner on the queries.
    learner: any method on features, such as
      `protonet(identity, cross_entropy, 5)`.
    num_extra: new examples for each of the support set.
    code_size: dimensions of a code.
    width: of the hidden layers of encoder and decoder.
    reconstruction_weight: of the loss of the auto-encoder beside that of the
      queries.
    averaging_rate: how far the moments move to those of the tasks of a step.

  Returns:
    A `MetaLearner` whose meta-parameters are `Hallucinated`, with a
    `DeltaEncoder` as their generator.

  Raises:
    ValueError: if `num_extra` is negative, `code_size` is not positive, or
      `averaging_rate` is not in (0, 1].

  Example:
    >>> import metajax
    >>> from metajax.algorithms.hallucination import identity
    >>> from metajax.models import conv4
    >>> base = metajax.protonet(identity, metajax.cross_entropy, 5)
    >>> learner = delta_encoder(conv4(None), metajax.cross_entropy, base)
  """
  if code_size < 1:
    raise ValueError(f'code_size must be 1 or more, got {code_size}')
  if not 0 < averaging_rate <= 1:
    raise ValueError(
      f'averaging_rate must be above 0 and up to 1, got {averaging_rate}'
    )
  encoder = drawn_like_inputs(mlp([width], code_size))
  decoder = change_of(width)

  def init(key: jax.Array, features: jax.Array) -> DeltaEncoder:
    encoder_key, decoder_key = jax.random.split(key)
    code = jnp.zeros((features.shape[0], code_size), features.dtype)
    pair = jnp.concatenate([features, features], axis=1)
    return DeltaEncoder(
      encoder.init(encoder_key, pair),
      decoder.init(decoder_key, (features, code)),
      Moments(code[0], jnp.eye(code_size, dtype=features.dtype)),
    )

  def generate(
    key: jax.Array, params: DeltaEncoder, features: jax.Array
  ) -> jax.Array:
    codes = draw_codes(key, params.moments, features.shape[0])
    generated: jax.Array = decoder.apply(params.decoder, (features, codes))
    return generated

  whole = hallucinate(
    embedding, objective, learner, Generator(init, generate), num_extra
  )

  def of_pairs(
    params: DeltaEncoder, pairs: Pairs
  ) -> tuple[jax.Array, jax.Array]:
    """Computes the loss of the auto-encoder, and the step of the moments."""
    codes = encoder.apply(
      params.encoder,
      jnp.concatenate([pairs.features, pairs.references], axis=1),
    )
    decoded = decoder.apply(params.decoder, (pairs.references, codes))
    steps = jax.tree.map(
      lambda average, now: averaging_rate * _approach(average, now),
      params.moments,
      moments_of(codes, pairs.weights),
    )
    errors = reconstruction_errors(pairs.features, decoded)
    return pairs.weights @ errors, jax.tree.reduce(jnp.add, steps)

  def task_loss(
    key: jax.Array, meta_params: Hallucinated, task: Task
  ) -> tuple[jax.Array, Metrics]:
    adapt_key, pairs_key = jax.random.split(key)
    adapted, _ = whole.adapt(adapt_key, meta_params, task.support)
    loss, metrics = query_loss(whole, objective, adapted, task)
    fixed = jax.lax.stop_gradient(meta_params.params)
    support, query = (
      part._replace(inputs=embedding.apply(fixed, part.inputs)) for part in task
    )
    reconstruction, step = of_pairs(
      meta_params.generator, draw_pairs(pairs_key, support, query)
    )
    return loss + reconstruction_weight * reconstruction + step, metrics

  return MetaLearner(
    whole.init, whole.adapt, whole.predict, grad=gradient_of(task_loss)
  )


# The moments of codes are averages, of which the meta-gradient is the step.
LABELS = Hallucinated(
  'weights', DeltaEncoder('weights', 'weights', 'state'), 'weights'
)


def draw_codes(key: jax.Array, moments: Moments, number: int) -> jax.Array:
  """Codes `[number, code_size]` of a normal distribution with these moments."""
  first, second = jax.lax.stop_gradient(moments)
  covariance = second - first[:, None] * first[None, :]
  # This way of taking a root needs no covariance of full rank.
  return jax.random.multivariate_normal(
    key, first, covariance, (number,), first.dtype, method='svd'
  )


def moments_of(codes: jax.Array, weights: jax.Array) -> Moments:
  """The moments of codes `[pairs, code_size]`, with weights that sum to 1."""
  return Moments(weights @ codes, (codes * weights[:, None]).T @ codes)


def _approach(average: jax.Array, now: jax.Array) -> jax.Array:
  """Zero, with the derivative `average - now` for the average alone."""
  stop = jax.lax.stop_gradient
  return jnp.sum((average - stop(average)) * stop(average - now))


def reconstruction_errors(features: jax.Array, decoded: jax.Array) -> jax.Array:
  """Absolute errors weighted by their squares: what is far off counts most.

  Args:
    features: `[pairs, features]`.
    decoded: the same shape.

  Returns:
    The weighted mean over features, `[pairs]`.
  """
  errors = jnp.abs(features - decoded)
  squares = jax.lax.stop_gradient(jnp.square(errors))
  total = jnp.sum(squares, axis=1, keepdims=True)
  return jnp.sum(squares / (total + 1e-30) * errors, axis=1)


def draw_pairs(key: jax.Array, support: Batch, query: Batch) -> Pairs:
  """Pairs every query with a random support example of its class.

  A query whose class has none has no weight.
  """
  (known, known_weights), (asked, weights) = (
    values_and_weights(part.targets) for part in (support, query)
  )
  same = known[None, :] == asked[:, None]
  if known_weights is not None:
    same &= known_weights[None, :] > 0
  chosen = jax.random.categorical(key, jnp.where(same, 0.0, -jnp.inf), axis=1)
  if weights is None:
    weights = jnp.ones_like(asked)
  dtype = query.inputs.dtype
  weights = jnp.where(jnp.any(same, axis=1), weights.astype(dtype), 0)
  total = jnp.sum(weights)
  return Pairs(
    query.inputs,
    support.inputs[chosen],
    weights / jnp.where(total == 0, 1, total),
  )
