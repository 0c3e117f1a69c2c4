r"""iMAML: the meta-gradient of MAML at the solution of its inner problem.

.. math::
  \theta_i = \arg\min_\theta L(\theta, S_i) + \frac{\lambda}{2}
    \lVert \theta - \phi \rVert^2, \qquad
  \frac{d\theta_i}{d\phi} = \left(I + \frac{1}{\lambda}
    \nabla^2 L(\theta_i, S_i)\right)^{-1}

The loss of a network is not convex: without damping, conjugate gradients meet
directions in which it curves down by more than the pull makes up for, and
training fails. The authors' code solves with
:math:`2 I + \nabla^2 L / (\lambda + 10)`, which for their
:math:`\lambda = 2` is the system of a damping of 22, but for a factor that
Adam does not see.

References:
  Rajeswaran, Finn, Kakade, Levine (2019), Meta-learning with implicit
  gradients, https://arxiv.org/abs/1909.04630
"""

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import InnerOptimizer, check_inner_loop
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
  num_tasks,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of, query_loss
from metajax.inner import partition
from metajax.inner.descend import descend
from metajax.inner.implicit import Loss, Solution, implicit_minimum
from metajax.models.modes import check_model, training
from metajax.objectives import loss_and_metrics

__all__ = ['imaml']


@by_value
def imaml(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.01,
  num_steps: int = 16,
  *,
  strength: float = 2.0,
  solver_iterations: int = 5,
  solver_tolerance: float = 1e-5,
  damping: float = 0.0,
  inner_optimizer: InnerOptimizer = optax.sgd,
) -> MetaLearner:
  """Implicit MAML: its memory does not grow with the number of inner steps.

  The meta-gradient is that of the solution of the inner problem, and as good
  as the inner steps come close to it; but for that, it is exact without
  `damping`. `Adaptation.losses` are those of the inner problem, and its
  trajectory is held constant.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps; they converge where it is less than 2 by
      the largest curvature of the loss and `strength` together.
    num_steps: inner steps.
    strength: of the pull to the meta-parameters, lambda.
    solver_iterations: of the method of conjugate gradients.
    solver_tolerance: relative residual at which it ends earlier.
    damping: of the linear system, beside `strength`; the larger, the closer to
      a first-order meta-gradient.
    inner_optimizer: makes the inner optimiser from its rate.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model. Two more
    metrics say how good its meta-gradient is: `inner_gradient_norm`, of the
    inner problem where the steps ended, and `solver_residual` of the linear
    system, relative to the gradient of the query loss. Where one is not small,
    take more or larger steps, more iterations, or `damping`.

  Raises:
    ValueError: if `inner_lr`, `strength` or `solver_iterations` is not
      positive, or `num_steps` or `damping` is negative.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> from metajax.tasks import sinusoid
    >>> learner = imaml(mlp([40, 40], 1), metajax.mean_squared_error)
    >>> task = sinusoid(shots=10, queries=10)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = learner.adapt(jax.random.key(2), phi, task.support)
    >>> learner.predict(adapted, task.query.inputs).shape
    (10, 1)
  """
  check_model(model)
  check_inner_loop(inner_lr, num_steps, inner_optimizer)
  if not strength > 0:
    raise ValueError(f'strength must be above 0, got {strength}')
  if solver_iterations < 1:
    raise ValueError(
      f'solver_iterations must be 1 or more, got {solver_iterations}'
    )
  if not damping >= 0:
    raise ValueError(f'damping must be 0 or more, got {damping}')

  def solve(loss: Loss, start: PyTree) -> tuple[PyTree, Adaptation]:
    params, descent = descend(
      lambda params, step: loss(params),
      start,
      inner_optimizer(inner_lr),
      num_steps,
      second_order='none',
    )
    return params, Adaptation(descent.losses, descent.trajectory)

  def adapt_with(
    probe: jax.Array | float,
    key: jax.Array,
    meta_params: PyTree,
    support: Batch,
  ) -> tuple[PyTree, Solution]:
    apply = training(model.apply, key)  # one loss, so one draw for all steps
    start, buffers = partition.split_learned(meta_params)

    def proximal_loss(params: PyTree) -> jax.Array:
      outputs = apply(partition.merge(params, buffers), support.inputs)
      loss, _ = loss_and_metrics(objective, outputs, support.targets)
      return loss + strength / 2 * _squared_distance(params, start)

    params, solution = implicit_minimum(
      proximal_loss,
      solve,
      start,
      max_iterations=solver_iterations,
      tolerance=solver_tolerance,
      damping=damping,
      probe=probe,
    )
    return partition.merge(params, buffers), solution

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    adapted, solution = adapt_with(0.0, key, meta_params, support)
    return adapted, solution.info

  learner = Learner(model.init, adapt, model.apply)

  def task_loss(
    key: jax.Array, probed: tuple[PyTree, jax.Array], task: Task
  ) -> tuple[jax.Array, Metrics]:
    meta_params, probe = probed
    adapted, solution = adapt_with(probe, key, meta_params, task.support)
    loss, metrics = query_loss(learner, objective, adapted, task, key)
    return loss, {**metrics, 'inner_gradient_norm': solution.residual}

  estimate = gradient_of(task_loss)

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    learned, _ = partition.split_learned(meta_params)
    dtype = jnp.result_type(*jax.tree.leaves(learned))
    probed = meta_params, jnp.zeros((), dtype)
    (gradient, missed), metrics = estimate(key, probed, tasks)
    # Each task adds its own.
    return gradient, {**metrics, 'solver_residual': missed / num_tasks(tasks)}

  return MetaLearner(*learner, grad=grad)


def _squared_distance(a: PyTree, b: PyTree) -> jax.Array:
  squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), a, b)
  return jax.tree.reduce(jnp.add, squares, jnp.zeros(()))
