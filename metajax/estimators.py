"""Estimators of the meta-gradient.

Each takes a `Learner` and returns a function
`(key, meta_params, tasks) -> (meta_gradient, metrics)`, averaged over tasks.
"""

import jax
import jax.numpy as jnp

from metajax.base import (
  Learner,
  MetaGradient,
  Metrics,
  Objective,
  PyTree,
  Task,
  map_tasks,
)


def query_loss(
  learner: Learner, objective: Objective, adapted: PyTree, task: Task
) -> tuple[jax.Array, Metrics]:
  """The objective on the queries of a task, with `loss` among its metrics."""
  outputs = learner.predict(adapted, task.query.inputs)
  loss, metrics = objective(outputs, task.query.targets)
  return loss, {'loss': loss, **metrics}


def _mean_over_tasks(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)


def backprop(learner: Learner, objective: Objective) -> MetaGradient:
  r"""Differentiates the query loss through the adaptation.

  .. math::
    \nabla_\phi \frac{1}{|B|} \sum_{i \in B}
      L(\mathrm{adapt}(\phi, S_i), Q_i)

  How far the derivative reaches is the learner's business: second order if
  its inner gradients are differentiated, first order if it holds them
  constant.

  Args:
    learner: adapts differentiably.
    objective: judges the adapted learner on the queries.

  Returns:
    The estimator. Its metrics are `loss` and those of the objective, after
    adaptation, averaged over tasks.
  """

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    def mean_loss(meta_params: PyTree) -> tuple[jax.Array, Metrics]:
      def task_loss(key: jax.Array, task: Task) -> tuple[jax.Array, Metrics]:
        adapted, _ = learner.adapt(key, meta_params, task.support)
        return query_loss(learner, objective, adapted, task)

      return _mean_over_tasks(map_tasks(task_loss, key, tasks))

    return jax.grad(mean_loss, has_aux=True)(meta_params)

  return grad


def displacement(learner: Learner, objective: Objective) -> MetaGradient:
  r"""Moves the meta-parameters towards what adaptation makes of them.

  .. math::
    \phi - \frac{1}{|B|} \sum_{i \in B} \mathrm{adapt}(\phi, S_i)

  Gradient descent on it with rate 1 lands on the mean of the adapted
  parameters. Nothing is differentiated, so state that is not differentiable
  (a step counter, the moments of an inner optimiser) may be part of the
  meta-parameters.

  Args:
    learner: its `adapted` must have the structure of its meta-parameters.
    objective: only reported, on the queries.

  Returns:
    The estimator, with the metrics of `backprop`.

  References:
    Nichol, Achiam, Schulman (2018), On first-order meta-learning algorithms.
  """

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    def of_task(key: jax.Array, task: Task) -> tuple[PyTree, Metrics]:
      adapted, _ = learner.adapt(key, meta_params, task.support)
      _, metrics = query_loss(learner, objective, adapted, task)
      return jax.tree.map(jnp.subtract, meta_params, adapted), metrics

    return _mean_over_tasks(map_tasks(of_task, key, tasks))

  return grad
