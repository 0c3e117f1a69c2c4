r"""Prototypical networks: classify by the nearest class mean of an embedding.

.. math::
  c_k = \frac{1}{|S_k|} \sum_{x \in S_k} f_\phi(x), \qquad
  p(y = k \mid x) \propto \exp(-\lVert f_\phi(x) - c_k \rVert^2)

References:
  Snell, Swersky, Zemel (2017), Prototypical networks for few-shot learning,
  https://arxiv.org/abs/1703.05175
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  check_num_classes,
  class_means,
  memberships,
  one_step,
  present,
  rule_out_absent,
)
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

__all__ = ['Prototypes', 'protonet']


class Prototypes(NamedTuple):
  """What a prototypical network knows of a task."""

  params: PyTree
  means: jax.Array  # [ways, features]
  present: jax.Array  # [ways], whether the class has support examples


@by_value
def protonet(
  model: Model, objective: Objective, num_classes: int
) -> MetaLearner:
  """A prototypical network with squared Euclidean distance.

  Adaptation is one closed step: before it there are no prototypes, and all
  classes are equally likely. After it, a class without support examples is
  never predicted.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `num_classes` is not positive.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> embedding = conv4(None, downsample='max_pool', pool='flatten')
    >>> learner = metajax.protonet(embedding, metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  refuse_key(model)

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Prototypes, Adaptation]:
    del key  # deterministic
    features = model.apply(meta_params, support.inputs)
    members = memberships(support.targets, num_classes, features.dtype)
    means = class_means(features, members)
    adapted = Prototypes(meta_params, means, present(members, axis=0))
    before = Prototypes(
      meta_params, jnp.zeros_like(means), jnp.ones((num_classes,), bool)
    )
    return adapted, one_step(before, adapted)

  def predict(adapted: Prototypes, inputs: PyTree) -> jax.Array:
    features = model.apply(adapted.params, inputs)
    difference = features[:, None, :] - adapted.means[None, :, :]
    logits = -jnp.sum(jnp.square(difference), axis=-1)
    return rule_out_absent(logits, adapted.present)

  learner = Learner(model.init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))
