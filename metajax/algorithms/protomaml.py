r"""ProtoMAML: MAML whose last layer starts as a prototypical network.

.. math::
  W_k = 2 c_k, \quad b_k = -\lVert c_k \rVert^2, \qquad
  c_k = \frac{1}{|S_k|} \sum_{x \in S_k} f_\phi(x)

is the linear layer whose logits are minus the squared distances to the
prototypes, but for what is the same for all classes. Gradient descent goes on
from there, over the embedding and the layer, and the meta-gradient goes through
all of it, the prototypes too.

References:
  Triantafillou et al. (2020), Meta-Dataset: a dataset of datasets for learning
  to learn from few examples, https://arxiv.org/abs/1903.03096
"""

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.classes import (
  Classifier,
  check_num_classes,
  class_means,
  classify,
  encode_classes,
  rule_out_absent,
)
from metajax.adaptation.gradient_learner import InnerOptimizer, gradient_learner
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
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics

__all__ = ['protomaml']


@by_value
def protomaml(
  model: Model,
  objective: Objective,
  num_classes: int,
  inner_lr: float = 0.1,
  num_steps: int = 5,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  inner_optimizer: InnerOptimizer = optax.sgd,
) -> MetaLearner:
  """MAML from an embedding whose prototypes are the first linear layer.

  Building the layer from the prototypes is the first step of adaptation, as
  only it knows the labels: the trajectory starts with a layer of zeros, for
  which all classes are equally likely, then come the prototypes, and then
  `num_steps` steps of gradient descent.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: steps of gradient descent.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    inner_optimizer: makes the inner optimiser from its rate.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the embedding.

  Raises:
    ValueError: if `num_classes` or `inner_lr` is not positive, `num_steps` is
      negative, or `second_order` or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = protomaml(conv4(None), metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  refuse_key(model)

  def logits(classifier: Classifier, inputs: PyTree) -> jax.Array:
    return classify(classifier, model.apply(classifier.params, inputs))

  descender = gradient_learner(
    Model(model.init, logits),
    objective,
    inner_lr,
    num_steps,
    second_order=second_order,
    checkpoint=checkpoint,
    inner_optimizer=inner_optimizer,
  )

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Classifier, Adaptation]:
    features = model.apply(meta_params, support.inputs)
    targets = encode_classes(support.targets, num_classes, features.dtype)
    means = class_means(features, targets.members)
    squares = jnp.sum(jnp.square(means), axis=1)
    # A class that is as good as impossible has no gradient: it stays so.
    bias = rule_out_absent(-squares[None, :], targets.present)[0]
    start = Classifier(meta_params, 2 * means.T, bias)
    adapted, descent = descender.adapt(key, start, support)
    nothing = jnp.zeros((features.shape[0], num_classes), features.dtype)
    first_loss, _ = loss_and_metrics(objective, nothing, support.targets)
    before = Classifier(
      meta_params, jnp.zeros_like(start.kernel), jnp.zeros_like(start.bias)
    )
    return adapted, Adaptation(
      partition.prepend(first_loss, descent.losses),
      partition.prepend(before, descent.trajectory),
    )

  learner = Learner(model.init, adapt, logits)
  return MetaLearner(*learner, grad=backprop(learner, objective))
