r"""ES-MAML: the initialisation of MAML, found by trying places around it.

.. math::
  g = \frac{1}{2 \sigma n} \sum_{j=1}^{n} \left(F(\phi + \sigma \epsilon_j) -
    F(\phi - \sigma \epsilon_j)\right) \epsilon_j, \qquad
  F(\phi) = L(\theta^K(\phi), Q)

with antithetic pairs of Gaussian steps. Nothing is differentiated through the
adaptation. The authors' policies adapt by evolution too, or by hill climbing;
where the support loss has a gradient, as here, adaptation descends it.

References:
  Song, Gao, Yang, Choromanski, Pacchiano, Tang (2020), ES-MAML: simple
  Hessian-free meta learning, https://arxiv.org/abs/1910.01215
"""

import optax

from metajax.adaptation.gradient_learner import InnerOptimizer, gradient_learner
from metajax.base import MetaLearner, Model, Objective
from metajax.equality import by_value
from metajax.estimators import evolution

__all__ = ['es_maml']


@by_value
def es_maml(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.4,
  num_steps: int = 1,
  *,
  num_pairs: int = 16,
  scale: float = 0.1,
  chunk_size: int = 1,
  inner_optimizer: InnerOptimizer = optax.sgd,
) -> MetaLearner:
  """MAML whose meta-gradient is estimated without a derivative.

  The error of the estimate grows with the root of the number of parameters, and
  falls with the root of the number of pairs of all tasks: this is for small
  networks, and for adaptations that have no derivative.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    num_pairs: antithetic pairs per task.
    scale: the standard deviation of a step, sigma.
    chunk_size: pairs that are vectorised together.
    inner_optimizer: makes the inner optimiser from its rate.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `inner_lr` or `scale` is not positive, `num_steps` is
      negative, or `num_pairs` is not a positive multiple of `chunk_size`.

  Example:
    >>> import metajax
    >>> from metajax.models import mlp
    >>> learner = es_maml(mlp([40, 40], 1), metajax.mean_squared_error, 0.01)
  """
  learner = gradient_learner(
    model, objective, inner_lr, num_steps, inner_optimizer=inner_optimizer
  )
  estimator = evolution(
    learner,
    objective,
    num_pairs=num_pairs,
    scale=scale,
    chunk_size=chunk_size,
  )
  return MetaLearner(*learner, grad=estimator)
