r"""A second loss beside that of any method, such as masked words.

.. math::
  L(\phi) + w \, A(\phi) \qquad \text{or} \qquad
  e^{-s_L} L(\phi) + e^{-s_A} A(\phi) + \tfrac{1}{2} (s_L + s_A)

with L the loss of the method, however it estimates its gradient, A another one
of the same meta-parameters, and s learned along with them: see
`metajax.wrappers.weighting`.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import (
  Adaptation,
  Batch,
  MetaLearner,
  Metrics,
  PyTree,
  Task,
)
from metajax.equality import by_value
from metajax.estimators import TaskLoss, gradient_of
from metajax.wrappers.weighting import uncertainty_weighted

__all__ = ['WeighedParams', 'with_auxiliary']


# Folded into the key of a task, which adaptation has for itself.
_OF_AUXILIARY = 1 << 18


class WeighedParams(NamedTuple):
  """Meta-parameters, and what the weights of two losses are made of."""

  params: PyTree  # of the method
  log_variances: dict[str, jax.Array]  # s by loss, `task` and `auxiliary`


@by_value
def with_auxiliary(
  learner: MetaLearner,
  auxiliary: TaskLoss,
  weight: float | Literal['learned'] = 0.1,
) -> MetaLearner:
  """Any method, trained on another loss beside its own.

  Args:
    learner: any method, whose meta-parameters hold no counts of steps, as those
      of MAML++ and Reptile do.
    auxiliary: `(key, meta_params, task) -> (loss, metrics)`, of the
      meta-parameters before adaptation; it is differentiated.
    weight: what it counts; `'learned'`: both weights are meta-parameters, which
      are 1 at first.

  Returns:
    A `MetaLearner` that adapts and predicts as before. Its meta-parameters are
    those of the method, or `WeighedParams` where weights are learned. Its
    metrics are those of both losses, and `task_loss` and `auxiliary_loss`, of
    which `loss` is the weighted sum; `task_weight` and `auxiliary_weight` where
    they are learned.

  Raises:
    ValueError: if `weight` is neither above 0 nor `'learned'`; in `grad`, if
      the learner counts its steps.

  Example:
    >>> import jax, jax.numpy as jnp, metajax
    >>> from metajax.models import mlp
    >>> def decay(key, params, task):
    ...   return sum(jnp.sum(x**2) for x in jax.tree.leaves(params)), {}
    >>> learner = metajax.maml(mlp([8], 5), metajax.cross_entropy, 0.4, 1)
    >>> learner = with_auxiliary(learner, decay, weight=1e-4)
  """
  if weight != 'learned' and not (
    isinstance(weight, int | float) and 0 < weight < math.inf
  ):
    raise ValueError(
      f"weight must be a number above 0, or 'learned'; got {weight!r}"
    )
  estimate = gradient_of(_with_its_loss(auxiliary))

  def both(
    key: jax.Array, params: PyTree, tasks: Task
  ) -> tuple[dict[str, PyTree], dict[str, jax.Array], Metrics]:
    """Gradients and losses by name, and what else was measured."""
    own, metrics = learner.grad(key, params, tasks)
    other, more = estimate(key, params, tasks)
    metrics, more = {**metrics}, {**more}
    losses = {'task': metrics.pop('loss'), 'auxiliary': more.pop('loss')}
    named = {f'{name}_loss': loss for name, loss in losses.items()}
    metrics = {**more, **metrics, **named}
    return {'task': own, 'auxiliary': other}, losses, metrics

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    gradients, losses, metrics = both(key, meta_params, tasks)
    assert not isinstance(weight, str)
    loss = losses['task'] + weight * losses['auxiliary']
    return _mixed(1.0, weight, gradients), {'loss': loss, **metrics}

  if weight != 'learned':
    return learner._replace(grad=grad)

  def init(key: jax.Array, inputs: PyTree) -> WeighedParams:
    names = ('task', 'auxiliary')
    return WeighedParams(
      learner.init(key, inputs), {name: jnp.zeros(()) for name in names}
    )

  def adapt(
    key: jax.Array, meta_params: WeighedParams, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    return learner.adapt(key, meta_params.params, support)

  def weighed_grad(
    key: jax.Array, meta_params: WeighedParams, tasks: Task
  ) -> tuple[WeighedParams, Metrics]:
    gradients, losses, metrics = both(key, meta_params.params, tasks)
    loss, of_variances = jax.value_and_grad(uncertainty_weighted, 1)(
      losses, meta_params.log_variances
    )
    weights = {
      name: jnp.exp(-each) for name, each in meta_params.log_variances.items()
    }
    gradient = _mixed(weights['task'], weights['auxiliary'], gradients)
    named = {f'{name}_weight': each for name, each in weights.items()}
    return WeighedParams(gradient, of_variances), {
      'loss': loss, **metrics, **named,
    }  # fmt: skip

  return MetaLearner(init, adapt, learner.predict, weighed_grad)


def _mixed(
  task: float | jax.Array,
  auxiliary: float | jax.Array,
  gradients: dict[str, PyTree],
) -> PyTree:
  """Both gradients, weighted; that of buffers is zero, of their own type."""
  return jax.tree.map(
    lambda own, other: (task * own + auxiliary * other).astype(own.dtype),
    gradients['task'],
    gradients['auxiliary'],
  )


def _with_its_loss(auxiliary: TaskLoss) -> TaskLoss:
  def task_loss(
    key: jax.Array, meta_params: PyTree, task: Task
  ) -> tuple[jax.Array, Metrics]:
    key = jax.random.fold_in(key, _OF_AUXILIARY)
    loss, metrics = auxiliary(key, meta_params, task)
    return loss, {**metrics, 'loss': loss}

  return task_loss
