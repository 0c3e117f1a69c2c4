r"""BOIL: adapt the body and leave the last layer alone, ANIL's contrary.

.. math::
  \theta_i^{t+1} = (\theta_{body}^t - \alpha \nabla_{body} L(\theta_i^t, S_i),\;
    \phi_{head})

Classes have to be told apart by what the body makes of images: the
representation changes with the task instead of being used again.

References:
  Oh, Yoo, Kim, Yun (2021), BOIL: towards representation change for few-shot
  learning, https://arxiv.org/abs/2008.08882
"""

import optax

from metajax.adaptation.gradient_learner import InnerOptimizer
from metajax.algorithms.maml import maml
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = ['boil']


@by_value
def boil(
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
  """BOIL: `maml` that adapts all but the layer called `head`.

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
      has no other layer.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.boil(conv4(5), metajax.cross_entropy, 0.5, 1)
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
    adapts=partition.body,
  )
