r"""MAML: learn an initialisation that a few gradient steps adapt well.

.. math::
  \min_\phi \sum_i L(\theta_i^K, Q_i), \quad \theta_i^0 = \phi, \quad
  \theta_i^{t+1} = \theta_i^t - \alpha \nabla L(\theta_i^t, S_i)

References:
  Finn, Abbeel, Levine (2017), Model-agnostic meta-learning for fast
  adaptation of deep networks, https://arxiv.org/abs/1703.03400
"""

import optax

from metajax.adaptation.gradient_learner import (
  InnerOptimizer,
  gradient_learner,
)
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = ['maml']


@by_value
def maml(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.4,
  num_steps: int = 5,
  first_order: bool = False,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  inner_optimizer: InnerOptimizer = optax.sgd,
  adapts: partition.Select = partition.everything,
) -> MetaLearner:
  """Model-agnostic meta-learning, exact to second order.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    first_order: hold the inner gradients constant (this is `fomaml`).
    second_order: how they are differentiated otherwise (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    inner_optimizer: makes the inner optimiser from its rate, such as
      `optax.sgd` or `metajax.adam`; with `optax.adam` a meta-gradient grows out
      of bounds where an inner gradient is exactly 0 (see `descend`).
    adapts: which parameters adapt; the others are learned outside only.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `inner_lr` is not positive, `num_steps` is negative, or
      `second_order` or `checkpoint` is unknown.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = maml(mlp([40, 40], 1), metajax.mean_squared_error, 0.01, 1)
    >>> task = sinusoid(shots=10, queries=10)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = learner.adapt(jax.random.key(2), phi, task.support)
    >>> learner.predict(adapted, task.query.inputs).shape
    (10, 1)
  """
  learner = gradient_learner(
    model,
    objective,
    inner_lr,
    num_steps,
    second_order='none' if first_order else second_order,
    checkpoint=checkpoint,
    inner_optimizer=inner_optimizer,
    adapts=adapts,
  )
  return MetaLearner(*learner, grad=backprop(learner, objective))
