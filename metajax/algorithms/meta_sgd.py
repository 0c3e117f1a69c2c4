r"""Meta-SGD: learn the rate of every parameter along with its start.

.. math::
  \theta_i^{t+1} = \theta_i^t - \alpha \circ \nabla L(\theta_i^t, S_i),
  \qquad \alpha = \alpha_0 \, e^{\psi}

with a rate for every single weight, learned as its logarithm. The authors'
rates are free numbers. Those may well change their sign, after which steps
climb, and nothing bounds what an adaptation then does to the meta-gradient:
such runs end in NaN.

References:
  Li, Zhou, Chen, Li (2017), Meta-SGD: learning to learn quickly for few-shot
  learning, https://arxiv.org/abs/1707.09835
"""

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.adaptation.learned_descent import learned_descent
from metajax.base import MetaLearner, Model, Objective, PyTree
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = ['meta_sgd']


@by_value
def meta_sgd(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.4,
  num_steps: int = 1,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  adapts: partition.Select = partition.everything,
) -> MetaLearner:
  """Meta-SGD, with rates that stay positive.

  Before it has learned it equals `maml`. (The authors draw the first rates
  from [0.005, 0.1].)

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: every rate at first, for a loss that is a mean.
    num_steps: inner steps; the authors take 1.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    adapts: which parameters adapt; the others are learned outside only.

  Returns:
    A `MetaLearner` whose meta-parameters are `LearnedDescent`, with the
    logarithms of the rates.

  Raises:
    ValueError: if `inner_lr` is not positive, `num_steps` is negative, or
      `second_order` or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.meta_sgd(conv4(5), metajax.cross_entropy)
  """
  check_inner_loop(inner_lr, num_steps)

  def init_rates(key: jax.Array, params: PyTree) -> PyTree:
    del key  # all alike
    return jax.tree.map(
      lambda leaf: jnp.full_like(leaf, jnp.log(inner_lr)), params
    )

  def optimizer(rates: PyTree) -> optax.GradientTransformation:
    return optax.stateless(
      lambda gradient, params: jax.tree.map(
        lambda rate, leaf: -jnp.exp(rate) * leaf, rates, gradient
      )
    )

  learner = learned_descent(
    model,
    objective,
    num_steps,
    init_rates,
    optimizer,
    second_order=second_order,
    checkpoint=checkpoint,
    adapts=adapts,
  )
  return MetaLearner(*learner, grad=backprop(learner, objective))
