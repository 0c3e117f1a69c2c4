r"""Multi-task learning: a shared trunk, and a head for each training task.

The classes of training are divided into tasks once and for all, and all tasks
are learned together,

.. math::
  \min_{\phi, W_1 \dots W_T} \; \sum_{t=1}^{T} \mathrm{E}_{(x, y) \in t} \,
    L(W_t f_\phi(x), y)

A new task gets a new head, fitted to features that stay as they are. It is
what meta-learning would be if it did not know that it will have to adapt.

References:
  Caruana (1997), Multitask learning.
  Wang, Zhao, Li (2021), Bridging multi-task learning and meta-learning:
  towards efficient training and effective adaptation,
  https://arxiv.org/abs/2106.09017
"""

import jax
import jax.numpy as jnp

from metajax.adaptation.heads import TransferParams, linear_head, with_head
from metajax.algorithms.maml import maml
from metajax.algorithms.transfer import baseline
from metajax.base import (
  Batch,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
)
from metajax.equality import by_value
from metajax.models.modes import like, with_key

__all__ = ['multi_task']


@by_value
def multi_task(
  model: Model,
  objective: Objective,
  num_classes: int,
  train_classes: int,
  inner_lr: float = 0.05,
  num_steps: int = 100,
) -> MetaLearner:
  """Multi-task training with a shared trunk and a head per task.

  Class c of training is class `c // T` of task `c % T`, with T tasks of
  `num_classes` classes: neighbours, which may be rotations of one sign, are
  in different tasks. Where `num_classes` does not divide `train_classes`, some
  tasks have a class less, of which there are no examples.

  (Joint training over all classes with one softmax, which others call
  multi-task too, is `baseline`; at test the two are the same.)

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task, at test and of the tasks of training.
    train_classes: all classes of training, which the targets of training tasks
      number (see `metajax.tasks.classification`).
    inner_lr: rate of the steps of a new head, for a loss that is a mean.
    num_steps: how many.

  Returns:
    A `MetaLearner` of `TransferParams`.

  Raises:
    ValueError: as for `baseline`.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = multi_task(conv4(None), metajax.cross_entropy, 5, 1200)
  """
  single = baseline(
    model, objective, num_classes, train_classes, inner_lr, num_steps
  )
  num_tasks = -(-train_classes // num_classes)
  trunk = with_head(model, linear_head(num_tasks * num_classes))

  def apply(
    params: TransferParams,
    inputs: tuple[PyTree, jax.Array],
    key: jax.Array | None = None,
  ) -> jax.Array:
    images, task = inputs
    logits = with_key(trunk.apply, key)(params, images)
    # A task's own logits stand side by side.
    own = task[:, None] * num_classes + jnp.arange(num_classes)[None]
    return jnp.take_along_axis(logits, own, axis=1)

  joint = maml(
    Model(trunk.init, like(trunk.apply, apply)), objective, num_steps=0
  )

  def by_task(batch: Batch) -> Batch:
    inputs = (batch.inputs, batch.targets % num_tasks)
    return Batch(inputs, batch.targets // num_tasks)

  def grad(
    key: jax.Array, meta_params: TransferParams, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    return joint.grad(key, meta_params, Task(*map(by_task, tasks)))

  return single._replace(init=trunk.init, grad=grad)
