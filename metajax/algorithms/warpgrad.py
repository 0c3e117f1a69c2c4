r"""WarpGrad: layers that do not adapt, between those that do, warp the descent.

.. math::
  \theta_i^{t+1} = \theta_i^t - \alpha \nabla_\theta
    L(\theta_i^t, \phi; S_i), \qquad
  \min_\phi \sum_i \frac{1}{K} \sum_{t=0}^{K-1} L\bigl(\theta_i^t -
    \alpha \nabla_\theta L(\theta_i^t, \phi; S_i), \phi; Q_i\bigr)

The gradient of a layer :math:`\theta` runs through the warp layers :math:`\phi`
behind it, whose Jacobians precondition it. They are learned so that a step is a
good one from every place that a task passes, with the places held constant: no
derivative runs through more than one step, however many there are. This is the
authors' objective of the warps, online, on the ways of the tasks of every outer
step.

The start is learned from the same losses. Since the steps to a place are held
constant, its derivative by the start is the identity. (The authors learn the
start by another method beside it, MAML where there are few shots and Leap where
there are many steps, and have their warps behind each block; here they are
before its normalisation.)

References:
  Flennerhag, Rusu, Pascanu, Visin, Yin, Hadsell (2020), Meta-learning with
  warped gradient descent, https://arxiv.org/abs/1909.00025
"""

from functools import partial

import jax
import jax.numpy as jnp

from metajax.adaptation.gradient_learner import (
  check_inner_loop,
  gradient_learner,
)
from metajax.base import MetaLearner, Metrics, Model, Objective, PyTree, Task
from metajax.equality import by_value
from metajax.estimators import gradient_of, query_loss
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = ['task_layers', 'warpgrad']


def task_layers(path: str) -> bool:
  """Selects the layers whose names do not begin with `warp`."""
  return not any(part.startswith('warp') for part in path.split('/'))


@by_value
def warpgrad(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.1,
  num_steps: int = 5,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """WarpGrad, and a start that is learned beside it.

  Args:
    model: a network with layers called `warp...`, such as `conv4(5,
      warps=True)`; without any only the start is learned.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    second_order: how the gradient of a single step is differentiated (see
      `descend`); `'none'` is the authors' first-order approximation.
    checkpoint: what is computed again instead of kept (see `descend`).

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `inner_lr` or `num_steps` is not positive, or `second_order`
      or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> network = conv4(5, warps=True)
    >>> learner = metajax.warpgrad(network, metajax.cross_entropy)
  """
  check_inner_loop(inner_lr, num_steps)
  if num_steps < 1:
    raise ValueError(f'num_steps must be 1 or more, got {num_steps}')
  make = partial(
    gradient_learner,
    model,
    objective,
    inner_lr,
    checkpoint=checkpoint,
    adapts=task_layers,
  )
  learner = make(num_steps)
  to_the_last_step = make(num_steps - 1, second_order='none')
  one_step = make(1, second_order=second_order)

  def loss_on_the_way(
    key: jax.Array, meta_params: PyTree, task: Task
  ) -> tuple[jax.Array, Metrics]:
    end, way = to_the_last_step.adapt(key, meta_params, task.support)

    def after_a_step(place: PyTree) -> tuple[jax.Array, Metrics]:
      place = partition.merge(place, end)
      adapted, _ = one_step.adapt(key, place, task.support)
      return query_loss(learner, objective, adapted, task, key)

    losses, metrics = jax.vmap(after_a_step)(way.trajectory)
    return jnp.mean(losses), jax.tree.map(lambda leaf: leaf[-1], metrics)

  return MetaLearner(*learner, grad=gradient_of(loss_on_the_way))
