r"""FOMAML: MAML without the second derivatives.

.. math::
  g = \sum_i \nabla_\theta L(\theta_i^K, Q_i)

the query gradient at the adapted parameters, used as if it were taken at the
initialisation.

References:
  Finn, Abbeel, Levine (2017), Model-agnostic meta-learning for fast
  adaptation of deep networks, section 5.2, https://arxiv.org/abs/1703.03400
"""

import optax

from metajax.adaptation.gradient_learner import InnerOptimizer
from metajax.algorithms.maml import maml
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import Checkpoint

__all__ = ['fomaml']


@by_value
def fomaml(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.4,
  num_steps: int = 5,
  *,
  checkpoint: Checkpoint = 'none',
  inner_optimizer: InnerOptimizer = optax.sgd,
  adapts: partition.Select = partition.everything,
) -> MetaLearner:
  """First-order MAML: `maml` with `first_order=True`.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    checkpoint: what is computed again instead of kept (see `descend`).
    inner_optimizer: makes the inner optimiser from its rate.
    adapts: which parameters adapt; the others are learned outside only.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `inner_lr` is not positive, `num_steps` is negative, or
      `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.fomaml(conv4(5), metajax.cross_entropy, 0.4, 1)
  """
  return maml(
    model,
    objective,
    inner_lr,
    num_steps,
    first_order=True,
    checkpoint=checkpoint,
    inner_optimizer=inner_optimizer,
    adapts=adapts,
  )
