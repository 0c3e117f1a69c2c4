r"""Reptile: move the initialisation towards the adapted parameters.

.. math::
  \phi \leftarrow \phi + \epsilon \, \frac{1}{|B|} \sum_i (\theta_i^K - \phi)

The state of the inner optimiser persists from task to task, as it does in the
authors' code, where Adam's slots are never reset. Here it is part of the
meta-parameters: every task of a step starts from it, and the step leaves the
mean of the final states behind. (The authors' tasks run one after the other,
each from the state that the last one left.)

References:
  Nichol, Achiam, Schulman (2018), On first-order meta-learning algorithms,
  https://arxiv.org/abs/1803.02999 and their supervised-reptile.
"""

from typing import NamedTuple

import jax
import optax

from metajax.adaptation.gradient_learner import InnerOptimizer, check_inner_loop
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
from metajax.estimators import displacement
from metajax.inner import partition
from metajax.inner.descend import descend
from metajax.models.modes import check_model, training
from metajax.objectives import loss_and_metrics

__all__ = [
  'LABELS',
  'ReptileParams',
  'authors_adam',
  'minibatches',
  'reptile',
]


class ReptileParams(NamedTuple):
  """Meta-parameters of Reptile."""

  params: PyTree
  optimizer_state: PyTree  # of the inner optimiser


# Folded into the key of a task: the orders of passes are split from it.
_OF_THE_MODEL = 1 << 16

# For `metajax.outer_optimizer`.
LABELS = ReptileParams('weights', 'state')


def authors_adam(inner_lr: float) -> optax.GradientTransformation:
  """The inner optimiser of the authors: Adam without momentum.

  Args:
    inner_lr: its rate.

  Returns:
    An optax transformation.
  """
  return optax.adam(inner_lr, b1=0.0)


@by_value
def reptile(
  model: Model,
  objective: Objective,
  inner_lr: float = 1e-3,
  num_steps: int = 3,
  *,
  inner_batch: int | None = None,
  inner_optimizer: InnerOptimizer = authors_adam,
) -> MetaLearner:
  """Reptile, with the authors' persistent inner optimiser.

  Train it with `metajax.outer_optimizer(optimizer, LABELS)`, which gives the
  inner optimiser's state the rate 1 that makes it persist; the authors'
  optimiser is SGD with a rate that falls linearly from 1 to 0.

  Args:
    model: the network.
    objective: of the support set; only reported on the queries.
    inner_lr: rate of the inner steps.
    num_steps: inner steps.
    inner_batch: examples per inner step, drawn by passes in random order over
      the support set; the whole set by default.
    inner_optimizer: makes the inner optimiser from its rate; by default Adam
      without momentum, as the authors have it.

  Returns:
    A `MetaLearner` whose meta-parameters are `ReptileParams`.

  Raises:
    ValueError: if `inner_lr` or `inner_batch` is not positive or `num_steps`
      is negative.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.reptile(
    ...   conv4(5, pool='flatten'), metajax.cross_entropy, inner_batch=25)
  """
  check_model(model)
  check_inner_loop(inner_lr, num_steps, inner_optimizer)
  if inner_batch is not None and inner_batch < 1:
    raise ValueError(f'inner_batch must be 1 or more, got {inner_batch}')
  optimizer = inner_optimizer(inner_lr)

  def init(key: jax.Array, inputs: PyTree) -> ReptileParams:
    params = model.init(key, inputs)
    learned, _ = partition.split_learned(params)
    return ReptileParams(params, optimizer.init(learned))

  def adapt(
    key: jax.Array, meta_params: ReptileParams, support: Batch
  ) -> tuple[ReptileParams, Adaptation]:
    batches = minibatches(key, support, num_steps, inner_batch)

    def loss(params: PyTree, step: jax.Array) -> jax.Array:
      batch = jax.tree.map(lambda leaf: leaf[step], batches)
      apply = training(model.apply, key, _OF_THE_MODEL, step)
      outputs = apply(params, batch.inputs)
      return loss_and_metrics(objective, outputs, batch.targets)[0]

    params, descent = descend(
      loss,
      meta_params.params,
      optimizer,
      num_steps,
      optimizer_state=meta_params.optimizer_state,
    )
    # Predictions do not need the optimiser's state, so the trajectory is none
    # of it.
    states = partition.nothing_of(descent.optimizer_state)
    return (
      ReptileParams(params, descent.optimizer_state),
      Adaptation(descent.losses, ReptileParams(descent.trajectory, states)),
    )

  def predict(adapted: ReptileParams, inputs: PyTree) -> PyTree:
    return model.apply(adapted.params, inputs)

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=displacement(learner, objective))


def minibatches(
  key: jax.Array, batch: Batch, num_batches: int, size: int | None
) -> Batch:
  """Cuts passes over a batch, each in a new random order, into minibatches.

  Args:
    key: of the orders.
    batch: leaves `[examples, ...]`.
    num_batches: how many minibatches.
    size: examples in each; a multiple of all examples, or `None`, stands for
      all of them once, since a mean does not change by repetition.

  Returns:
    Leaves `[num_batches, size, ...]`.
  """
  examples = jax.tree.leaves(batch)[0].shape[0]
  if size is None or size % examples == 0:
    return partition.repeat(batch, num_batches)
  passes = -(-num_batches * size // examples)
  order = jax.vmap(lambda key: jax.random.permutation(key, examples))(
    jax.random.split(key, passes)
  )
  chosen = order.reshape(-1)[: num_batches * size].reshape(num_batches, size)
  return jax.tree.map(lambda leaf: leaf[chosen], batch)
