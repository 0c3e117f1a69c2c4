r"""Adaptation by gradient descent, from the meta-parameters.

.. math::
  \theta_i^0 = \phi, \qquad
  \theta_i^{t+1} = \theta_i^t - \alpha \nabla L(\theta_i^t, S_i)

It is the inner loop of MAML and of its relatives, of new heads, and of networks
that are trained from scratch.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  Model,
  Objective,
  PyTree,
)
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import Checkpoint, check_num_steps, descend
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import check_model, training
from metajax.objectives import loss_and_metrics

__all__ = ['InnerOptimizer', 'check_inner_loop', 'gradient_learner']

# Makes an optimiser from a rate, or from whatever is learned in its place.
InnerOptimizer = Callable[[Any], optax.GradientTransformation]


@by_value
def gradient_learner(
  model: Model,
  objective: Objective,
  inner_lr: Any,
  num_steps: int,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  inner_optimizer: InnerOptimizer = optax.sgd,
  adapts: partition.Select = partition.everything,
) -> Learner:
  """A learner that descends the support loss from its meta-parameters.

  Args:
    model: the network; one that takes a key is in training while it adapts.
    objective: of the support set.
    inner_lr: rate of the inner steps, for a loss that is a mean; or anything
      traced that `inner_optimizer` takes, such as learned rates (see
      `learned_descent`).
    num_steps: inner steps.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    inner_optimizer: makes the inner optimiser from `inner_lr`.
    adapts: which parameters adapt; the others stay as they are.

  Returns:
    A `Learner` whose meta-parameters are those of the model.

  Raises:
    ValueError: if `inner_lr` is a number that is not positive, `num_steps` is
      negative or no Python integer, `second_order` or `checkpoint` is
      unknown, or `inner_optimizer` is an optimiser itself.
  """
  check_model(model)
  check_inner_loop(inner_lr, num_steps, inner_optimizer)

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    adapted, rest = partition.split(meta_params, adapts)

    def loss(adapted: PyTree, step: jax.Array) -> jax.Array:
      params = partition.merge(adapted, rest)
      apply = training(model.apply, key, step)
      outputs = apply(params, support.inputs)  # the whole set, every time
      return loss_and_metrics(objective, outputs, support.targets)[0]

    adapted, descent = descend(
      loss,
      adapted,
      inner_optimizer(inner_lr),
      num_steps,
      second_order=second_order,
      checkpoint=checkpoint,
    )
    return partition.merge(adapted, rest), Adaptation(
      descent.losses, descent.trajectory
    )

  return Learner(model.init, adapt, model.apply)


def check_inner_loop(
  inner_lr: Any, num_steps: int, inner_optimizer: Any = optax.sgd
) -> None:
  """Refuses rates, step counts and optimisers that cannot be meant."""
  if not callable(inner_optimizer):
    raise ValueError(
      'inner_optimizer makes an optimiser from a rate, as optax.sgd does;'
      f' got {type(inner_optimizer).__name__}, which would not have inner_lr;'
      ' give lambda rate: ...'
    )
  if isinstance(inner_lr, (str, optax.GradientTransformation)):
    what = type(inner_lr).__name__
    raise ValueError(f'inner_lr must be a number above 0, got {what}')
  # A traced (learned) rate cannot be looked at.
  if isinstance(inner_lr, (int, float)) and not inner_lr > 0:
    raise ValueError(f'inner_lr must be above 0, got {inner_lr}')
  check_num_steps(num_steps)
