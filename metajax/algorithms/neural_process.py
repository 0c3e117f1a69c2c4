r"""Neural processes: the support set is encoded, and the code is decoded.

.. math::
  r_i = e(x_i, y_i), \qquad o(x) = d(x, r(x))

The conditional neural process decodes the mean of all codes, the attentive one
(here without the latent path) those that keys and queries choose:

.. math::
  r = \frac{1}{|S|} \sum_i r_i \qquad \text{or} \qquad
  r(x) = \sum_i \mathrm{softmax}(k(x)^T k(x_i) / \sqrt{d}) \, r_i

References:
  Garnelo et al. (2018), Conditional neural processes,
  https://arxiv.org/abs/1807.01613
  Kim et al. (2019), Attentive neural processes,
  https://arxiv.org/abs/1901.05761
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import are_numbers, one_step
from metajax.base import (
  EXCLUDED,
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  values_and_weights,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.models import mlp
from metajax.models.modes import refuse_key
from metajax.objectives import weighted_mean, without_padding
from metajax.precision import drawn_like_inputs

__all__ = [
  'Process',
  'ProcessParams',
  'dot_product_attention',
  'gaussian_likelihood',
  'neural_process',
]


class ProcessParams(NamedTuple):
  """Meta-parameters of a neural process."""

  params: PyTree  # of the decoder
  encoder: PyTree
  attention: PyTree  # () without attention


class Process(NamedTuple):
  """What a neural process knows of a task."""

  meta_params: ProcessParams
  keys: jax.Array  # [codes, features]
  codes: jax.Array  # [codes, features]; their mean alone without attention
  weights: jax.Array  # [codes]


@by_value
def neural_process(
  model: Model,
  objective: Objective,
  *,
  encoder: Model | None = None,
  attention: Model | None = None,
  heads: int = 4,
  num_targets: int = 1,
) -> MetaLearner:
  """A conditional neural process, or with `attention` an attentive one.

  Before adaptation the code is zero.

  Args:
    model: the decoder, from inputs with a code behind them, `[examples,
      inputs + features]`, to what the objective takes: with
      `mean_squared_error` as many outputs as targets, with
      `gaussian_likelihood` twice as many.
    objective: judges the outputs for the queries.
    encoder: from inputs with targets behind them, `[examples, inputs +
      targets]`, to codes; `mlp([128, 128], 128)` by default.
    attention: from inputs to keys `[examples, features]`; codes are averaged
      without it.
    heads: of the attention, which divide the numbers of features of keys and
      codes.
    num_targets: of an example.

  Returns:
    A `MetaLearner` whose meta-parameters are `ProcessParams`.

  Raises:
    ValueError: if `heads` or `num_targets` is not positive; in `adapt`, if
      targets are not as many numbers.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = neural_process(mlp([40], 1), metajax.mean_squared_error)
    >>> task = sinusoid(shots=10, queries=15)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = learner.adapt(jax.random.key(2), phi, task.support)
    >>> learner.predict(adapted, task.query.inputs).shape
    (15, 1)
  """
  for name, value in (('heads', heads), ('num_targets', num_targets)):
    if value < 1:
      raise ValueError(f'{name} must be 1 or more, got {value}')
  for network in (model, encoder, attention):
    if network is not None:
      refuse_key(network)
  encode = drawn_like_inputs(encoder or mlp([128, 128], 128))
  attend = None if attention is None else drawn_like_inputs(attention)

  def init(key: jax.Array, inputs: jax.Array) -> ProcessParams:
    keys = jax.random.split(key, 3)
    targets = jnp.zeros((inputs.shape[0], num_targets), inputs.dtype)
    examples = jnp.concatenate([inputs, targets], axis=1)
    params = encode.init(keys[1], examples)
    shapes = jax.eval_shape(encode.apply, params, examples)
    codes = jnp.zeros(shapes.shape, inputs.dtype)
    return ProcessParams(
      model.init(keys[0], jnp.concatenate([inputs, codes], axis=1)),
      params,
      () if attend is None else attend.init(keys[2], inputs),
    )

  def adapt(
    key: jax.Array, meta_params: ProcessParams, support: Batch
  ) -> tuple[Process, Adaptation]:
    del key  # deterministic
    inputs, targets = support
    values, weights = values_and_weights(targets)
    if not are_numbers(targets) or values.shape[1] != num_targets:
      raise ValueError(
        f'this neural process wants {num_targets} numbers per example as'
        f' targets; got {values.dtype} of shape {values.shape}'
      )
    codes = encode.apply(
      meta_params.encoder,
      jnp.concatenate(
        [inputs, without_padding('neural_process', values, weights)], axis=1
      ),
    )
    if weights is None:
      weights = jnp.ones(codes.shape[:1], codes.dtype)
    if attend is None:
      codes = jax.vmap(weighted_mean, in_axes=(1, None))(codes, weights)[None]
      keys = jnp.zeros_like(codes)
      weights = jnp.ones((1,), codes.dtype)
    else:
      keys = attend.apply(meta_params.attention, inputs)
    adapted = Process(meta_params, keys, codes, weights.astype(codes.dtype))
    return adapted, one_step(
      adapted._replace(codes=jnp.zeros_like(codes)), adapted
    )

  def predict(adapted: Process, inputs: jax.Array) -> PyTree:
    meta_params, keys, codes, weights = adapted
    if attend is None:
      chosen = jnp.broadcast_to(codes, (inputs.shape[0], codes.shape[1]))
    else:
      queries = attend.apply(meta_params.attention, inputs)
      chosen = dot_product_attention(queries, keys, codes, heads, weights)
    both = jnp.concatenate([inputs, chosen], axis=1)
    return model.apply(meta_params.params, both)

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def dot_product_attention(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  heads: int,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Means of values, weighted by the softmax of products of keys and queries.

  Args:
    queries: `[queries, features]`.
    keys: `[examples, features]`.
    values: `[examples, values]`.
    heads: into how many parts features and values are cut, each part with
      weights of its own.
    weights: `[examples]`, factors of the exponentials in the softmax; 0 leaves
      an example out.

  Returns:
    `[queries, values]`.

  Raises:
    ValueError: if the heads do not divide features and values.
  """
  for width in (keys.shape[1], values.shape[1]):
    if width % heads:
      raise ValueError(f'{heads} heads do not divide a width of {width}')
  queries, keys, parts = (
    leaf.reshape(leaf.shape[0], heads, -1) for leaf in (queries, keys, values)
  )
  scores = jnp.einsum('qhd,khd->hqk', queries, keys) / keys.shape[-1] ** 0.5
  shares = jax.nn.softmax(
    scores if weights is None else scores + _logarithms(weights)[None, None]
  )
  chosen = jnp.einsum('hqk,khd->qhd', shares, parts)
  return chosen.reshape(queries.shape[0], -1)


def _logarithms(weights: jax.Array) -> jax.Array:
  """Those of weights that are not 0, and what leaves the others out."""
  real = weights > 0
  return jnp.where(real, jnp.log(jnp.where(real, weights, 1)), EXCLUDED)


def gaussian_likelihood(
  outputs: jax.Array, targets: PyTree
) -> tuple[jax.Array, Metrics]:
  r"""Minus the mean log-likelihood of a normal distribution, in nats.

  .. math::
    L = \frac{1}{2 n d} \sum_{i,j} \log 2 \pi + v_{ij} +
      e^{-v_{ij}} (t_{ij} - m_{ij})^2

  Args:
    outputs: means m, and behind them the logarithms v of variances,
      `[examples, 2 * targets]`.
    targets: `[examples, targets]`, or `Weighted` ones.

  Returns:
    The loss, and `mse`, the mean squared error of the means.

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> loss, metrics = gaussian_likelihood(jnp.zeros((1, 2)), jnp.ones((1, 1)))
    >>> round(float(loss), 4), float(metrics['mse'])
    (1.4189, 1.0)
  """
  values, weights = values_and_weights(targets)
  if outputs.shape != (len(values), 2 * values.shape[-1]):
    raise ValueError(
      'gaussian_likelihood wants a mean and a log-variance for each target;'
      f' got outputs {outputs.shape} and targets {values.shape}'
    )
  mean, log_variance = jnp.split(outputs, 2, axis=-1)
  values = without_padding('gaussian_likelihood', values, weights)
  squares = jnp.square(values - mean)
  scaled = log_variance + jnp.exp(-log_variance) * squares
  loss = weighted_mean(jnp.log(2 * jnp.pi) + scaled, weights) / 2
  return loss, {'mse': weighted_mean(squares, weights)}
