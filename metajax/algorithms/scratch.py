r"""The baselines that need no training: from scratch, and pixel distance.

.. math::
  \theta_i^0 \sim \text{initialisation}, \quad
  \theta_i^{t+1} = \theta_i^t - \alpha \nabla L(\theta_i^t, S_i), \qquad
  \hat{y} = \arg\min_k \Bigl\lVert x - \frac{1}{|S_{ik}|}
    \sum_{x' \in S_{ik}} x' \Bigr\rVert

What meta-learning has to beat: the same network, drawn anew for every task and
fitted to its support set alone (here by any inner optimiser, Adam by default);
and the class whose mean image is nearest.

References:
  Nearest class mean in pixel space is reported for Omniglot by Vinyals et al.
  (2016), Matching networks for one shot learning, table 1,
  https://arxiv.org/abs/1606.04080
"""

import jax
import optax

from metajax.adaptation.gradient_learner import InnerOptimizer, gradient_learner
from metajax.algorithms.protonet import protonet
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

__all__ = ['from_scratch', 'nearest_class_mean']


@by_value
def from_scratch(
  model: Model,
  objective: Objective,
  inner_lr: float = 1e-3,
  num_steps: int = 50,
  *,
  inner_optimizer: InnerOptimizer = optax.adam,
) -> MetaLearner:
  """Fits new random parameters to every task; learns nothing between tasks.

  Args:
    model: the network.
    objective: of the support set.
    inner_lr: rate of the optimiser.
    num_steps: its steps.
    inner_optimizer: makes it from its rate; Adam by default.

  Returns:
    A `MetaLearner` with no meta-parameters.

  Raises:
    ValueError: if `inner_lr` is not positive or `num_steps` is negative.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = from_scratch(conv4(5), metajax.cross_entropy)
  """
  descender = gradient_learner(
    model, objective, inner_lr, num_steps, inner_optimizer=inner_optimizer
  )

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    del key, inputs  # nothing is shared between tasks
    return ()

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    del meta_params
    params_key, adapt_key = jax.random.split(key)
    params = model.init(params_key, support.inputs)
    return descender.adapt(adapt_key, params, support)

  learner = Learner(init, adapt, model.apply)
  return MetaLearner(*learner, grad=backprop(learner, objective))


@by_value
def nearest_class_mean(objective: Objective, num_classes: int) -> MetaLearner:
  """Classifies by Euclidean distance to the class means of the raw inputs.

  Args:
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.

  Returns:
    A `MetaLearner` with no meta-parameters.

  Raises:
    ValueError: if `num_classes` is not positive.

  Example:
    >>> import metajax
    >>> learner = nearest_class_mean(metajax.cross_entropy, 5)
  """

  def flatten(params: PyTree, inputs: jax.Array) -> jax.Array:
    del params
    return inputs.reshape(inputs.shape[0], -1)

  identity = Model(init=lambda key, inputs: (), apply=flatten)
  return protonet(identity, objective, num_classes)
