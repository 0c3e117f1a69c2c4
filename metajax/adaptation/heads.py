"""Heads on the features of an embedding, and fitting a new one to a task."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import one_step, unit_length
from metajax.adaptation.gradient_learner import gradient_learner
from metajax.base import (
  Adapt,
  Adaptation,
  Batch,
  Model,
  Objective,
  PyTree,
)
from metajax.equality import by_value
from metajax.models.modes import like, takes_key, with_key

__all__ = [
  'TransferParams',
  'cosine_head',
  'fit_head',
  'linear_head',
  'with_head',
]


class TransferParams(NamedTuple):
  """An embedding with a head: over all classes of training, or of a task."""

  params: PyTree  # of the embedding
  head: PyTree


@by_value
def with_head(model: Model, head: Model) -> Model:
  """A model of two: a head on the features of an embedding."""

  def init(key: jax.Array, inputs: PyTree) -> TransferParams:
    params_key, head_key = jax.random.split(key)
    params = model.init(params_key, inputs)
    features = jax.eval_shape(model.apply, params, inputs)
    return TransferParams(params, head.init(head_key, features))

  def apply(
    params: TransferParams, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    keys = (None, None) if key is None else jax.random.split(key)
    features = with_key(model.apply, keys[0])(params.params, inputs)
    return with_key(head.apply, keys[1])(params.head, features)

  takes = model.apply if takes_key(model.apply) else head.apply
  return Model(init, like(takes, apply))


@by_value
def fit_head(
  model: Model,
  head: Model,
  objective: Objective,
  inner_lr: float,
  num_steps: int,
) -> Adapt:
  """Adaptation by a new head, which is fitted to features that stay.

  Args:
    model: the embedding.
    head: of a task, on features.
    objective: of the support set.
    inner_lr: rate of the gradient descent.
    num_steps: its steps; the whole is one step of the adaptation.

  Returns:
    A function from `TransferParams`, of whatever head, to those of a task.

  Raises:
    ValueError: if `inner_lr` is not positive or `num_steps` is negative.
  """
  # Nobody differentiates the fit.
  fitter = gradient_learner(
    head, objective, inner_lr, num_steps, second_order='none'
  )

  def adapt(
    key: jax.Array, meta_params: TransferParams, support: Batch
  ) -> tuple[TransferParams, Adaptation]:
    head_key, fit_key = jax.random.split(key)
    features = model.apply(meta_params.params, support.inputs)
    start = head.init(head_key, features)
    fitted, _ = fitter.adapt(fit_key, start, support._replace(inputs=features))
    before, adapted = (
      TransferParams(meta_params.params, each) for each in (start, fitted)
    )
    return adapted, one_step(before, adapted)

  return adapt


@by_value
def linear_head(num_classes: int) -> Model:
  """Logits that are linear in the features; at first all are zero."""

  def init(key: jax.Array, features: jax.Array) -> PyTree:
    del key  # its loss has one minimum, wherever it starts
    return {
      'kernel': jnp.zeros((features.shape[-1], num_classes), features.dtype),
      'bias': jnp.zeros((num_classes,), features.dtype),
    }

  def apply(params: PyTree, features: jax.Array) -> jax.Array:
    return features @ params['kernel'] + params['bias'][None]

  return Model(init, apply)


@by_value
def cosine_head(
  num_classes: int, scale: float, learn_scale: bool = False
) -> Model:
  r"""Logits by the angle between features and a vector for each class.

  .. math:: o_k = s \, g_k \cos(f, w_k)

  The length of a class's vector is a parameter by itself, g, as the authors
  have it by weight normalisation; only the direction of w matters.

  Args:
    num_classes: how many there are.
    scale: s.
    learn_scale: make s a parameter, kept positive by its logarithm.

  Returns:
    A model of features.

  Raises:
    ValueError: if `scale` is not positive.
  """
  if not scale > 0:
    raise ValueError(f'the scale of cosines must be above 0, got {scale}')

  def init(key: jax.Array, features: jax.Array) -> PyTree:
    shape, dtype = (features.shape[-1], num_classes), features.dtype
    params = {
      'kernel': jax.random.normal(key, shape, dtype) / shape[0] ** 0.5,
      'length': jnp.ones((num_classes,), dtype),
    }
    if learn_scale:
      params['log_scale'] = jnp.log(jnp.asarray(scale, dtype))
    return params

  def apply(params: PyTree, features: jax.Array) -> jax.Array:
    factor = jnp.exp(params['log_scale']) if learn_scale else scale
    directions = unit_length(params['kernel'], axis=0)
    cosines = unit_length(features, axis=1) @ directions
    return factor * cosines * params['length'][None]

  return Model(init, apply)
