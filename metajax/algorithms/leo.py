r"""LEO: latent embedding optimisation, inner steps in a space of codes.

.. math::
  z_k \sim N(\mu_k, \sigma_k^2), \quad
  (\mu_k, \sigma_k) = \frac{1}{|S_k|} \sum_{i \in S_k} \frac{1}{|S|} \sum_j
    g_r(g_e(x_i), g_e(x_j)), \qquad
  z \leftarrow z - \alpha \nabla_z L(w(z), S), \quad
  w_k(z) \sim N(g_d(z_k))

An encoder and a relation network make a code of every class, a decoder makes
weights of a linear head of it. The codes descend the support loss, through the
decoder; then so do the weights. All rates are learned. The outer loss is that
of the queries and

.. math::
  \beta \, KL(N(\mu, \sigma^2) \,\|\, N(0, I))
    + \gamma \, \lVert \mathrm{stop}(z') - z \rVert^2
    + \lambda \, \lVert C_d - I \rVert^2

with z' the code after its steps, and C_d the correlations of the rows of the
decoder. As in the authors' code each term is a mean over its elements, features
have length 1, and at test codes and weights are the means. The paper takes
features of a large network, trained to classify and then held fixed, with
dropout; here the embedding is trained with the rest.

References:
  Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero, Hadsell (2019),
  Meta-learning with latent embedding optimization,
  https://arxiv.org/abs/1807.05960
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.classes import (
  Classifier,
  Targets,
  check_num_classes,
  class_means,
  classify,
  encode_classes,
  rule_out_absent,
  unit_length,
)
from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of, query_loss
from metajax.inner import partition
from metajax.inner.descend import descend
from metajax.models import mlp
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics
from metajax.precision import drawn_like_inputs

__all__ = [
  'Codes',
  'Gaussian',
  'LeoParams',
  'correlation',
  'divergence',
  'encoder_penalty',
  'leo',
]

_FIRST_STDDEV = 0.1  # of codes, at first; the authors' is zero or a little more


class LeoParams(NamedTuple):
  """Meta-parameters of LEO."""

  params: PyTree  # of the embedding
  encoder: PyTree
  relation: PyTree
  decoder: PyTree
  log_code_rates: jax.Array  # [code_size]
  log_weight_rates: jax.Array  # [features]


class Gaussian(NamedTuple):
  """Independent normal variables."""

  mean: jax.Array
  stddev: jax.Array


class Codes(NamedTuple):
  """The codes of the classes of a task."""

  given: Gaussian  # [ways, code_size], by the relation network
  first: jax.Array  # [ways, code_size], drawn from it
  last: jax.Array  # [ways, code_size], after their steps


@by_value
def leo(
  model: Model,
  objective: Objective,
  num_classes: int,
  code_lr: float = 1.0,
  num_steps: int = 5,
  *,
  weight_lr: float = 1e-3,
  num_weight_steps: int = 5,
  code_size: int = 64,
  kl_weight: float = 1e-3,
  encoder_weight: float = 1e-9,
  orthogonality_weight: float = 0.1,
) -> MetaLearner:
  """Latent embedding optimisation, with the embedding trained as well.

  The trajectory starts with weights of zero, by which all classes are equally
  likely; those of the codes follow, then those after 1, 2, ... of their steps.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`, which are
      brought to length 1.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    code_lr: initial rate of the steps of the codes, for a mean loss.
    num_steps: steps of the codes.
    weight_lr: initial rate of the steps of the weights.
    num_weight_steps: steps of the weights (fine-tuning).
    code_size: dimensions of a code.
    kl_weight: beta.
    encoder_weight: gamma.
    orthogonality_weight: lambda.

  Returns:
    A `MetaLearner` whose meta-parameters are `LeoParams`.

  Raises:
    ValueError: if `num_classes`, `code_size` or a rate is not positive, or a
      number of steps is negative.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = leo(conv4(None), metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  refuse_key(model)
  check_inner_loop(code_lr, num_steps)
  check_inner_loop(weight_lr, num_weight_steps)
  if code_size < 1:
    raise ValueError(f'code_size must be 1 or more, got {code_size}')
  space = _latent_space(code_size, num_classes)

  def embed(params: PyTree, inputs: PyTree) -> jax.Array:
    return unit_length(model.apply(params, inputs), axis=1)

  def init(key: jax.Array, inputs: PyTree) -> LeoParams:
    keys = jax.random.split(key, 4)
    params = model.init(keys[0], inputs)
    shape = jax.eval_shape(model.apply, params, inputs)
    features = jnp.zeros((1, shape.shape[-1]), shape.dtype)
    code = jnp.zeros((1, code_size), shape.dtype)
    return LeoParams(
      params,
      *space.init(keys[1:], features, code),
      jnp.log(jnp.full_like(code[0], code_lr)),
      jnp.log(jnp.full_like(features[0], weight_lr)),
    )

  def adapt_by(
    key: jax.Array | None, meta_params: LeoParams, support: Batch
  ) -> tuple[Classifier, Adaptation, Codes]:
    """Adapts with codes and weights that are drawn, or without a key means."""
    features = embed(meta_params.params, support.inputs)
    return _adapt_in_space(
      key,
      space,
      objective,
      meta_params,
      support._replace(inputs=features),
      encode_classes(support.targets, num_classes, features.dtype),
      (num_steps, num_weight_steps),
    )

  def adapt(
    key: jax.Array, meta_params: LeoParams, support: Batch
  ) -> tuple[Classifier, Adaptation]:
    del key  # it draws nothing outside of training
    adapted, adaptation, _ = adapt_by(None, meta_params, support)
    return adapted, adaptation

  def predict(adapted: Classifier, inputs: PyTree) -> jax.Array:
    return classify(adapted, embed(adapted.params, inputs))

  learner = Learner(init, adapt, predict)

  def task_loss(
    key: jax.Array, meta_params: LeoParams, task: Task
  ) -> tuple[jax.Array, Metrics]:
    adapted, _, codes = adapt_by(key, meta_params, task.support)
    loss, metrics = query_loss(learner, objective, adapted, task)
    decoding = meta_params.decoder['head']['kernel']
    return (
      loss
      + kl_weight * divergence(codes.given)
      + encoder_weight * encoder_penalty(codes)
      + orthogonality_weight * correlation(decoding)
    ), metrics

  return MetaLearner(*learner, grad=gradient_of(task_loss))


class _LatentSpace(NamedTuple):
  """The ways into the space of codes, and out of it."""

  # Draws parameters of encoder, relation network and decoder.
  init: Callable[..., tuple[PyTree, PyTree, PyTree]]
  # Maps features [examples, features] and their classes to codes of these.
  encode: Callable[[LeoParams, jax.Array, Targets], Gaussian]
  # Maps codes [ways, code_size] to weights [ways, features].
  decode: Callable[[LeoParams, jax.Array], Gaussian]


def _latent_space(code_size: int, num_classes: int) -> _LatentSpace:
  encoder = drawn_like_inputs(mlp([], code_size))
  relation = drawn_like_inputs(mlp([2 * code_size] * 2, 2 * code_size))

  def decoder(num_features: int) -> Model:
    return drawn_like_inputs(mlp([], 2 * num_features))

  def init(
    keys: jax.Array, features: jax.Array, code: jax.Array
  ) -> tuple[PyTree, PyTree, PyTree]:
    return (
      encoder.init(keys[0], features),
      relation.init(keys[1], jnp.concatenate([code, code], axis=1)),
      decoder(features.shape[1]).init(keys[2], code),
    )

  def encode(
    meta_params: LeoParams, features: jax.Array, targets: Targets
  ) -> Gaussian:
    codes = encoder.apply(meta_params.encoder, features)
    number = codes.shape[0]
    pairs = jnp.concatenate(
      [jnp.repeat(codes, number, axis=0), jnp.tile(codes, (number, 1))], axis=1
    )
    related = relation.apply(meta_params.relation, pairs)
    related = related.reshape(number, number, -1)
    with_all = jnp.mean(related, axis=1, where=targets.real[None, :, None])
    means = class_means(with_all, targets.members)
    return _as_gaussian(means, _FIRST_STDDEV)

  def decode(meta_params: LeoParams, codes: jax.Array) -> Gaussian:
    num_features = len(meta_params.log_weight_rates)
    outputs = decoder(num_features).apply(meta_params.decoder, codes)
    return _as_gaussian(outputs, math.sqrt(2 / (num_features + num_classes)))

  return _LatentSpace(init, encode, decode)


def _adapt_in_space(
  key: jax.Array | None,
  space: _LatentSpace,
  objective: Objective,
  meta_params: LeoParams,
  support: Batch,
  targets: Targets,
  num_steps: tuple[int, int],
) -> tuple[Classifier, Adaptation, Codes]:
  """Makes codes of the classes and lets them descend, and then the weights.

  Without a key codes and weights are the means of what would be drawn. Inputs
  of `support` are features, `targets` its targets encoded; `num_steps` are
  those of the codes and those of the weights.
  """
  features, dtype = support.inputs, support.inputs.dtype
  num_classes = targets.rows.shape[1]
  code_key, kernel_key = (key, key) if key is None else jax.random.split(key)
  before = Classifier(
    meta_params.params,
    jnp.zeros((features.shape[1], num_classes), dtype),
    jnp.zeros((num_classes,), dtype),
  )
  # There is no bias, but for the classes that a task does not have.
  bias = rule_out_absent(before.bias[None, :], targets.present)[0]
  # Draws all at once: inside of the steps it would be compiled again in each.
  shape = num_steps[0] + 1, num_classes, features.shape[1]
  noise = _noise(kernel_key, shape, dtype)

  def kernel_of(codes: jax.Array, step: jax.Array) -> jax.Array:
    mean, stddev = space.decode(meta_params, codes)
    return (mean + stddev * noise[step]).T

  def loss(kernel: jax.Array) -> jax.Array:
    logits = features @ kernel + bias[None, :]
    return loss_and_metrics(objective, logits, support.targets)[0]

  given = space.encode(meta_params, features, targets)
  first = given.mean + given.stddev * _noise(code_key, given.mean.shape, dtype)
  last, kernel, kernels, losses = _descend_twice(
    loss, kernel_of, first, meta_params, num_steps
  )
  adapted = Classifier(meta_params.params, kernel, bias)
  later = partition.nothing_of(adapted)._replace(
    kernel=kernels, bias=partition.repeat(bias, kernels.shape[0])
  )
  adaptation = Adaptation(
    partition.prepend(loss(before.kernel), losses),
    partition.prepend(before, later),
  )
  return adapted, adaptation, Codes(given, first, last)


def _descend_twice(
  loss: Callable[[jax.Array], jax.Array],
  kernel_of: Callable[[jax.Array, jax.Array], jax.Array],
  first: jax.Array,
  meta_params: LeoParams,
  num_steps: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Takes steps of the codes, then of the weights that are made of the last.

  It returns the last codes and kernel, all kernels, and all losses.
  """
  last, of_codes = descend(
    lambda codes, step: loss(kernel_of(codes, step)),
    first,
    _descent(meta_params.log_code_rates[None, :]),
    num_steps[0],
  )
  kernel, of_kernel = descend(
    lambda kernel, step: loss(kernel),
    kernel_of(last, jnp.int32(num_steps[0])),
    _descent(meta_params.log_weight_rates[:, None]),
    num_steps[1],
  )
  decoded = jax.vmap(kernel_of)(
    of_codes.trajectory[:-1], jnp.arange(num_steps[0])
  )
  return (
    last,
    kernel,
    jnp.concatenate([decoded, of_kernel.trajectory]),
    jnp.concatenate([of_codes.losses, of_kernel.losses]),
  )


def _as_gaussian(outputs: jax.Array, first_stddev: float) -> Gaussian:
  """Reads outputs as normal variables, of that deviation at outputs of 0.

  The authors' deviation is an exponential, which their clipped gradients keep
  from running away; a softplus cannot.
  """
  mean, raw = jnp.split(outputs, 2, axis=1)
  return Gaussian(mean, first_stddev * jax.nn.softplus(raw) / math.log(2))


def _noise(
  key: jax.Array | None, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
  """Draws normal numbers with a key; without one they are zero, the mean."""
  if key is None:
    return jnp.zeros(shape, dtype)
  return jax.random.normal(key, shape, dtype)


def _descent(log_rates: jax.Array) -> optax.GradientTransformation:
  """Gradient descent with a rate for every dimension of a code or feature."""
  return optax.stateless(lambda gradient, _: -jnp.exp(log_rates) * gradient)


def divergence(gaussian: Gaussian) -> jax.Array:
  """The mean of the divergences from N(0, 1), in nats."""
  squares = jnp.square(gaussian.mean) + jnp.square(gaussian.stddev)
  return jnp.mean((squares - 1) / 2 - jnp.log(gaussian.stddev + 1e-10))


def encoder_penalty(codes: Codes) -> jax.Array:
  """How far codes moved: their first place is to come near to the last."""
  return jnp.mean(jnp.square(jax.lax.stop_gradient(codes.last) - codes.first))


def correlation(kernel: jax.Array) -> jax.Array:
  """The mean square of what correlations of rows have beyond the identity."""
  rows = kernel / jnp.linalg.norm(kernel, axis=1, keepdims=True)
  beyond = rows @ rows.T - jnp.eye(len(rows), dtype=rows.dtype)
  return jnp.mean(jnp.square(beyond))
