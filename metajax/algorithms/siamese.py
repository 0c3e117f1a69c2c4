r"""Siamese networks: learn whether two examples are of one class.

.. math::
  \mathrm{logit}\, p(x \sim x') = b + \sum_j w_j
    \left| \sigma(f_\phi(x))_j - \sigma(f_\phi(x'))_j \right|

is trained by binary cross-entropy on pairs. A query is of the class of the
support example that it most likely shares its class with.

References:
  Koch, Zemel, Salakhutdinov (2015), Siamese neural networks for one-shot image
  recognition, https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  check_num_classes,
  encode_classes,
  memberships,
  one_step,
)
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
  Task,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics, weighted_mean

__all__ = ['Siamese', 'SiameseParams', 'pair_loss', 'siamese', 'verify']


class SiameseParams(NamedTuple):
  """Meta-parameters of a siamese network."""

  params: PyTree  # of the model
  weights: jax.Array  # [features], of the distances
  bias: jax.Array  # []


class Siamese(NamedTuple):
  """What a siamese network knows of a task."""

  meta_params: SiameseParams
  twins: jax.Array  # [examples, features], of the support set
  members: jax.Array  # [examples, ways], 1 where it may be of the class


@by_value
def siamese(
  model: Model, objective: Objective, num_classes: int
) -> MetaLearner:
  """A siamese network, trained on all pairs of different examples of a task.

  Pairs of one class and pairs of two count half each, as they do where they
  are drawn with equal probability. Nothing in training knows of support sets
  and queries, and the `loss` that is reported is the one of pairs.

  Args:
    model: `[examples, ...]` to `[examples, features]`, before the sigmoid.
    objective: takes logits; it is only reported, on the queries.
    num_classes: classes per task, 2 or more.

  Returns:
    A `MetaLearner` whose meta-parameters are `SiameseParams`.

  Raises:
    ValueError: if `num_classes` is less than 2, since one class alone has no
      pair to tell apart; in `adapt`, if targets are not classes.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = siamese(conv4(256), metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes, at_least=2)
  refuse_key(model)

  def init(key: jax.Array, inputs: PyTree) -> SiameseParams:
    params = model.init(key, inputs)
    features = jax.eval_shape(model.apply, params, inputs)
    # The more they differ, the less likely are they of one class.
    weights = jnp.full(features.shape[1:], -10, features.dtype)
    bias = jnp.zeros((), features.dtype)
    return SiameseParams(params, weights / len(weights), bias)

  def adapt(
    key: jax.Array, meta_params: SiameseParams, support: Batch
  ) -> tuple[Siamese, Adaptation]:
    del key  # deterministic
    twins = _twins(model, meta_params, support.inputs)
    members = memberships(support.targets, num_classes, twins.dtype)
    adapted = Siamese(meta_params, twins, members)
    before = adapted._replace(members=jnp.ones_like(members))
    return adapted, one_step(before, adapted)

  def predict(adapted: Siamese, inputs: PyTree) -> jax.Array:
    queries = _twins(model, adapted.meta_params, inputs)
    logits = _logits(adapted.meta_params, queries, adapted.twins)
    return _most_similar(logits, adapted.members)

  def task_loss(
    key: jax.Array, meta_params: SiameseParams, task: Task
  ) -> tuple[jax.Array, Metrics]:
    del key
    both = jax.tree.map(
      lambda *leaves: jnp.concatenate(leaves), task.support, task.query
    )
    twins = _twins(model, meta_params, both.inputs)
    classes, weights, _ = encode_classes(both.targets, num_classes, twins.dtype)
    logits = _logits(meta_params, twins, twins)
    loss = pair_loss(
      logits, classes @ classes.T > 0, weights[:, None] * weights[None, :]
    )
    first = len(jax.tree.leaves(task.support.targets)[0])  # of the queries
    members = jnp.where(weights[:first, None] > 0, classes[:first], 0)
    _, metrics = loss_and_metrics(
      objective,
      _most_similar(logits[first:, :first], members),
      task.query.targets,
    )
    return loss, {**metrics, 'loss': loss}

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=gradient_of(task_loss))


def verify(
  model: Model, meta_params: SiameseParams, first: PyTree, second: PyTree
) -> jax.Array:
  """Says whether the examples of each pair are of one class.

  Args:
    model: that of the siamese network. Where it normalises by the batch, the
      batch is all first examples, and all second ones.
    meta_params: of the siamese network.
    first: inputs `[pairs, ...]`.
    second: inputs `[pairs, ...]`.

  Returns:
    Logits `[pairs]`: above 0 where one class is more likely than two.
  """
  distances = jnp.abs(
    _twins(model, meta_params, first) - _twins(model, meta_params, second)
  )
  return distances @ meta_params.weights + meta_params.bias


def pair_loss(
  logits: jax.Array, same: jax.Array, weights: jax.Array
) -> jax.Array:
  """Binary cross-entropy of pairs; those of one class count half in all.

  Args:
    logits: `[examples, examples]`, symmetric; those of an example with itself
      are ignored.
    same: booleans of that shape, whether both are of one class.
    weights: of that shape, how much the pair counts.

  Returns:
    The loss; where there are no pairs of a kind, the other one's half.
  """
  once = jnp.triu(weights, k=1)
  losses = jax.nn.softplus(jnp.where(same, -logits, logits))
  kinds = jnp.where(same, once, 0), jnp.where(same, 0, once)
  alike, apart = (weighted_mean(losses, each) for each in kinds)
  return (alike + apart) / 2


def _twins(
  model: Model, meta_params: SiameseParams, inputs: PyTree
) -> jax.Array:
  return jax.nn.sigmoid(model.apply(meta_params.params, inputs))


def _logits(
  meta_params: SiameseParams, first: jax.Array, second: jax.Array
) -> jax.Array:
  """Compares every one of `first` with every one of `second`."""
  distances = jnp.abs(first[:, None, :] - second[None, :, :])
  return distances @ meta_params.weights + meta_params.bias


def _most_similar(logits: jax.Array, members: jax.Array) -> jax.Array:
  """Takes the largest logit of each class, of `[queries, examples]`."""
  # Members that are no numbers stay so.
  taken = jnp.where(jnp.isnan(members[None]), jnp.nan, logits[:, :, None])
  of_class = jnp.where(members[None] <= 0, EXCLUDED, taken)
  return jnp.max(of_class, axis=1)
