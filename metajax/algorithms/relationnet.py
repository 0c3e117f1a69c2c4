r"""Relation networks: learn to compare a query with a class.

.. math::
  o_k(x) = g_\psi([c_k, f_\phi(x)]), \qquad
  c_k = \frac{1}{|S_k|} \sum_{x \in S_k} f_\phi(x)

The relation module g sees the features of class and query one behind the other.
Its outputs are logits, of a softmax over classes with `cross_entropy`. The
paper's own loss takes them as those of a sigmoid for each class, and is here as
an objective, `relation_error`.

With more than one shot the paper adds up what is averaged here, so that its
features of a class grow with the shots.

The paper normalises by the batch inside of g too, and at test as in training,
so that what it says of a query depends on the other ones. Here g normalises
each position of each pair over its channels.

References:
  Sung, Yang, Zhang, Xiang, Torr, Hospedales (2018), Learning to compare:
  relation network for few-shot learning, https://arxiv.org/abs/1711.06025
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  check_num_classes,
  class_means,
  encode_classes,
  one_step,
  rule_out_absent,
)
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.models import Conv, LayerNorm, from_linen, max_pool
from metajax.models.modes import refuse_key
from metajax.objectives import cross_entropy, weighted_mean
from metajax.precision import drawn_like_inputs

__all__ = [
  'Relation',
  'RelationParams',
  'relation_error',
  'relation_module',
  'relationnet',
]


class RelationParams(NamedTuple):
  """Meta-parameters of a relation network."""

  params: PyTree  # of the embedding
  relation: PyTree


class Relation(NamedTuple):
  """What a relation network knows of a task."""

  meta_params: RelationParams
  means: jax.Array  # [ways, ...]
  present: jax.Array  # [ways], whether the class has support examples


class _Relation(nn.Module):
  width: int

  @nn.compact
  def __call__(self, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
    means, queries = inputs
    # A layer that sees both, one behind the other, is the sum of a layer for
    # each, which there are far fewer of than pairs.
    maps = queries.ndim == 4
    first = Conv if maps else nn.Dense
    hidden = (
      first(self.width, use_bias=False)(queries)[:, None]
      + first(self.width, use_bias=False)(means)[None]
    )
    pairs = hidden.shape[:2]
    hidden = hidden.reshape(-1, *hidden.shape[2:])
    if maps:
      hidden = _pooled(hidden)
      hidden = _pooled(Conv(self.width, use_bias=False)(hidden))
      hidden = hidden.reshape(hidden.shape[0], -1)
      hidden = nn.Dense(self.width, use_bias=False)(hidden)
    hidden = nn.relu(LayerNorm()(hidden))
    return nn.Dense(1)(hidden).reshape(pairs)


def _pooled(hidden: jax.Array) -> jax.Array:
  """Halves height and width where it can, and normalises every place."""
  if min(hidden.shape[1:3]) > 1:
    hidden = max_pool(hidden)
  return nn.relu(LayerNorm()(hidden))


def relation_module(width: int = 64) -> Model:
  """Compares features, maps of them with convolutions.

  Two 3x3 convolutions, each pooled and normalised, then two linear layers;
  for vectors the linear layers alone.

  Args:
    width: of all layers between. (The paper has 8 for the linear one, of which
      hardly any may happen to be alive.)

  Returns:
    A model of features of classes and of queries, `[ways, ...]` and
    `[queries, ...]`, with outputs `[queries, ways]`.
  """
  return drawn_like_inputs(from_linen(_Relation(width)))


@by_value
def relationnet(
  model: Model,
  objective: Objective,
  num_classes: int,
  *,
  relation: Model | None = None,
) -> MetaLearner:
  """A relation network.

  Before adaptation the features of every class are zero, and all classes are
  equally likely.

  Args:
    model: an embedding, `[examples, ...]` to features `[examples, features]`
      or to maps of them `[examples, height, width, channels]`.
    objective: takes logits: `cross_entropy`, or the paper's `relation_error`.
    num_classes: classes per task.
    relation: from features of classes and of queries, `(means, queries)`, to
      logits `[queries, ways]`; `relation_module()` by default.

  Returns:
    A `MetaLearner` whose meta-parameters are `RelationParams`.

  Raises:
    ValueError: if `num_classes` is not positive; in `adapt`, if targets are
      not classes.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> embedding = conv4(None, downsample='max_pool', pool='none', halvings=3)
    >>> learner = relationnet(embedding, metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  refuse_key(model)
  compare = relation or relation_module()
  refuse_key(compare)

  def init(key: jax.Array, inputs: PyTree) -> RelationParams:
    params = model.init(key, inputs)
    shapes = jax.eval_shape(model.apply, params, inputs)
    features = jnp.zeros(shapes.shape, shapes.dtype)
    relation = compare.init(jax.random.fold_in(key, 1), (features, features))
    return RelationParams(params, relation)

  def adapt(
    key: jax.Array, meta_params: RelationParams, support: Batch
  ) -> tuple[Relation, Adaptation]:
    del key  # deterministic
    features = model.apply(meta_params.params, support.inputs)
    targets = encode_classes(support.targets, num_classes, features.dtype)
    means = class_means(features, targets.members)
    adapted = Relation(meta_params, means, targets.present)
    before = Relation(
      meta_params, jnp.zeros_like(means), jnp.ones_like(targets.present)
    )
    return adapted, one_step(before, adapted)

  def predict(adapted: Relation, inputs: PyTree) -> jax.Array:
    params, relation = adapted.meta_params
    queries = model.apply(params, inputs)
    logits = compare.apply(relation, (adapted.means, queries))
    return rule_out_absent(logits, adapted.present)

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def relation_error(
  outputs: jax.Array, targets: PyTree
) -> tuple[jax.Array, Metrics]:
  r"""The loss of relation networks, an objective.

  .. math:: L = \frac{1}{nN} \sum_{i,k} (\sigma(o_{ik}) - [t_i = k])^2

  Args:
    outputs: logits `[examples, classes]`.
    targets: integer classes `[examples]`, or `Weighted` ones.

  Returns:
    The loss, and `accuracy` in [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> loss, metrics = relation_error(jnp.zeros((1, 2)), jnp.array([0]))
    >>> float(loss), float(metrics['accuracy'])
    (0.25, 1.0)
  """
  _, metrics = cross_entropy(outputs, targets)
  encoded = encode_classes(targets, outputs.shape[1], outputs.dtype)
  errors = jnp.square(jax.nn.sigmoid(outputs) - encoded.rows)
  return weighted_mean(jnp.mean(errors, axis=1), encoded.weights), metrics
