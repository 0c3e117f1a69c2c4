r"""Distillation: a learner that learns from another one, which is larger.

.. math::
  (1 - \lambda) \, L(o_i, Q_i) + \lambda \, T^2 \,
    \mathrm{KL}\big(\mathrm{softmax}(t_i / T) \,\|\,
    \mathrm{softmax}(o_i / T)\big)

with o the outputs of the student and t those of the teacher for the queries of
a task, each after it adapted to the support set. The teacher may be any learner
that has been trained: a wide network, or an ensemble.

References:
  Hinton, Vinyals, Dean (2015), Distilling the knowledge in a neural network,
  https://arxiv.org/abs/1503.02531
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import check_classes
from metajax.base import (
  Learner,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  Task,
  map_tasks,
  values_and_weights,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.objectives import loss_and_metrics, weighted_mean

__all__ = ['distil', 'divergence']


class _Taught(NamedTuple):
  """Targets, and what the teacher makes of them."""

  targets: PyTree  # leaves [examples, ...]
  outputs: jax.Array  # [examples, classes]


@by_value
def distil(
  student: Learner | MetaLearner,
  teacher: Learner | MetaLearner,
  teacher_params: PyTree,
  objective: Objective,
  *,
  weight: float = 0.5,
  temperature: float = 4.0,
) -> MetaLearner:
  """Trains a student on the queries and on a teacher's predictions for them.

  The gradient is that of backpropagation through the student's adaptation, in
  place of the estimator that the student may have of its own.

  Args:
    student: any method that adapts differentiably, and whose meta-parameters
      hold no counts of steps, as those of MAML++ and Reptile do.
    teacher: any method whose outputs are logits of the same classes.
    teacher_params: its meta-parameters; they are not changed.
    objective: of the queries, for the student.
    weight: lambda, what the teacher counts, from 0 (nothing) to 1 (all).
    temperature: T; the higher it is, the more the classes count that the
      teacher thinks unlikely.

  Returns:
    A `MetaLearner` with the meta-parameters of the student. Its metrics have
    in addition `divergence`, the Kullback-Leibler term.

  Raises:
    ValueError: if `weight` is not in [0, 1] or `temperature` is not positive;
      in `grad`, if targets are not classes, or the student counts its steps.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> wide, narrow = (
    ...   metajax.maml(mlp([width], 5), metajax.cross_entropy, 0.4, 1)
    ...   for width in (64, 8))
    >>> trained = wide.init(jax.random.key(0), jax.numpy.zeros((5, 4)))
    >>> learner = distil(narrow, wide, trained, metajax.cross_entropy)
  """
  if not 0 <= weight <= 1:
    raise ValueError(f'weight must be from 0 to 1, got {weight}')
  if not temperature > 0:
    raise ValueError(f'temperature must be above 0, got {temperature}')
  learner = Learner(student.init, student.adapt, student.predict)

  def mixed(outputs: jax.Array, taught: _Taught) -> tuple[jax.Array, Metrics]:
    check_classes(taught.targets)
    loss, metrics = loss_and_metrics(objective, outputs, taught.targets)
    _, weights = values_and_weights(taught.targets)
    apart = divergence(taught.outputs, outputs, temperature, weights)
    both = (1 - weight) * loss + weight * temperature**2 * apart
    return both, {**metrics, 'divergence': apart}

  estimate = backprop(learner, mixed)

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    def teach(key: jax.Array, task: Task) -> Task:
      adapted, _ = teacher.adapt(key, teacher_params, task.support)
      outputs = teacher.predict(adapted, task.query.inputs)
      taught = _Taught(task.query.targets, outputs)
      return task._replace(query=task.query._replace(targets=taught))

    return estimate(key, meta_params, map_tasks(teach, key, tasks))

  return MetaLearner(*learner, grad=grad)


def divergence(
  teacher: jax.Array,
  student: jax.Array,
  temperature: float,
  weights: jax.Array | None = None,
) -> jax.Array:
  """The Kullback-Leibler divergence of softened predictions, in nats.

  Args:
    teacher: logits `[examples, classes]`.
    student: logits of the same shape.
    temperature: what both are divided by.
    weights: `[examples]`, how much each counts; all the same by default.

  Returns:
    The weighted mean over examples.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 0.0]])
    >>> float(divergence(logits, logits + 3, 2.0))
    0.0
  """
  expected, actual = (
    jax.nn.log_softmax(logits / temperature) for logits in (teacher, student)
  )
  terms = jnp.exp(expected) * (expected - actual)
  return weighted_mean(jnp.sum(terms, axis=-1), weights)
