r"""ANIL: almost no inner loop, MAML that adapts the last layer alone.

.. math::
  \theta_i^{t+1} = (\phi_{body},\;
    \theta_{head}^t - \alpha \nabla_{head} L(\theta_i^t, S_i))

References:
  Raghu, Raghu, Bengio, Vinyals (2020), Rapid learning or feature reuse?
  Towards understanding the effectiveness of MAML,
  https://arxiv.org/abs/1909.09157
"""

import optax

from metajax.adaptation.gradient_learner import InnerOptimizer
from metajax.algorithms.maml import maml
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = ['anil']


@by_value
def anil(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.4,
  num_steps: int = 5,
  first_order: bool = False,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  inner_optimizer: InnerOptimizer = optax.sgd,
) -> MetaLearner:
  """ANIL: `maml` that adapts only the layer called `head`.

  Args:
    model: the network, whose last layer is called `head`.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    first_order: hold the inner gradients constant, as `fomaml` does.
    second_order: how they are differentiated otherwise (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    inner_optimizer: makes the inner optimiser from its rate.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `inner_lr` is not positive, `num_steps` is negative, or
      `second_order` or `checkpoint` is unknown; while adapting, if the model
      has no such layer.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.anil(conv4(5), metajax.cross_entropy, 0.4, 1)
  """
  return maml(
    model,
    objective,
    inner_lr,
    num_steps,
    first_order,
    second_order=second_order,
    checkpoint=checkpoint,
    inner_optimizer=inner_optimizer,
    adapts=partition.head,
  )
