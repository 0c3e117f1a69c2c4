"""A bilevel problem as a learner, so that what trains learners solves it."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from metajax.base import (
  Adaptation,
  Batch,
  InitLearner,
  Learner,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  Task,
  num_tasks,
)
from metajax.bilevel.solvers import (
  Solved,
  SolveName,
  check_real,
  checked_loss,
  inner_solver,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of, query_loss
from metajax.inner import partition

__all__ = ['Problem', 'Trained', 'bilevel_learner']


class Start(Protocol):
  """Where the inner problem starts; it may depend on hyper-parameters."""

  def __call__(
    self, key: jax.Array, hyperparams: PyTree, inputs: PyTree, /
  ) -> PyTree: ...


class Inner(Protocol):
  """What is low where the inner problem is solved."""

  def __call__(
    self, params: PyTree, hyperparams: PyTree, support: Batch, /
  ) -> jax.Array: ...


class PredictWith(Protocol):
  """Outputs of parameters that the inner problem was solved by."""

  def __call__(
    self, params: PyTree, hyperparams: PyTree, inputs: PyTree, /
  ) -> PyTree: ...


class Problem(NamedTuple):
  """A bilevel problem but for its data, and for what judges on validation."""

  init: InitLearner  # `(key, inputs) -> hyperparams`
  start: Start
  inner: Inner
  predict: PredictWith


class Trained(NamedTuple):
  """What a learner of a bilevel problem adapts to."""

  params: PyTree
  hyperparams: PyTree


@by_value
def bilevel_learner(
  problem: Problem,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  solve: SolveName = 'unrolled',
  **options: Any,
) -> MetaLearner:
  r"""A learner whose meta-parameters are hyper-parameters.

  .. math::
    \nabla_\eta \frac{1}{|B|} \sum_{i \in B} F(\theta_i(\eta), \eta, Q_i),
    \qquad \theta_i(\eta) \approx \arg\min_\theta J(\theta, \eta, S_i)

  A task is a data set: its support set is trained on, its queries validate. One
  data set is a task distribution that draws the same task each time.

  Args:
    problem: hyper-parameters, the start, the inner loss and its model.
    objective: the outer loss, of outputs for the queries.
    optimizer: of the inner problem.
    num_steps: its steps.
    solve: how the solution is differentiated, see `inner_solver`.
    **options: of `solve`, see `inner_solver`.

  Returns:
    A `MetaLearner`. Its metrics have `inner_gradient_norm`, how far from solved
    inner problems are, and `solver_residual` of the linear systems, 0 where
    none is solved; both are means over tasks. Where they are not small, a way
    other than `'unrolled'` is wrong.

  Raises:
    ValueError: as `inner_solver` does.

  Example:
    >>> import jax, jax.numpy as jnp, metajax, optax
    >>> from metajax.tasks import sinusoid
    >>> linear = Problem(  # with a learned weight decay
    ...   init=lambda key, inputs: jnp.zeros(()),
    ...   start=lambda key, decay, inputs: jnp.zeros((1, 1)),
    ...   inner=lambda w, decay, batch: jnp.mean(
    ...     (batch.inputs @ w - batch.targets) ** 2
    ...   ) + jnp.exp(decay) * jnp.sum(w**2),
    ...   predict=lambda w, decay, inputs: inputs @ w,
    ... )
    >>> learner = bilevel_learner(
    ...   linear, metajax.mean_squared_error, optax.sgd(0.05), 20
    ... )
    >>> train = metajax.make_train_step(
    ...   learner, optax.adam(0.1), sinusoid(5, 5), tasks_per_step=4
    ... )
    >>> state, metrics = train.run(train.init(jax.random.key(0)), 10)
    >>> sorted(metrics)
    ['inner_gradient_norm', 'loss', 'mse', 'skipped', 'solver_residual']
  """
  solver = inner_solver(optimizer, num_steps, solve, **options)

  def solved(
    key: jax.Array,
    hyperparams: PyTree,
    support: Batch,
    probe: jax.Array | float,
  ) -> tuple[Trained, Solved]:
    start = problem.start(key, hyperparams, support.inputs)
    check_real('start', start)
    params, found = solver(
      lambda params: checked_loss(
        'inner', problem.inner(params, hyperparams, support)
      ),
      start,
      probe,
    )
    return Trained(params, hyperparams), found

  def adapt(
    key: jax.Array, hyperparams: PyTree, support: Batch
  ) -> tuple[Trained, Adaptation]:
    trained, found = solved(key, hyperparams, support, 0.0)
    losses, trajectory = found.adaptation
    stay = jax.tree.map(lambda leaf: None, hyperparams)
    return trained, Adaptation(losses, Trained(trajectory, stay))

  def predict(trained: Trained, inputs: PyTree) -> PyTree:
    return problem.predict(trained.params, trained.hyperparams, inputs)

  learner = Learner(problem.init, adapt, predict)

  def task_loss(
    key: jax.Array, probed: tuple[PyTree, jax.Array], task: Task
  ) -> tuple[jax.Array, Metrics]:
    hyperparams, probe = probed
    trained, found = solved(key, hyperparams, task.support, probe)
    loss, metrics = query_loss(learner, objective, trained, task)
    return loss, {**metrics, 'inner_gradient_norm': found.residual}

  estimate = gradient_of(task_loss)

  def grad(
    key: jax.Array, hyperparams: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    check_real('hyperparams', hyperparams)
    learned, _ = partition.split_learned(hyperparams)
    dtype = jnp.result_type(*jax.tree.leaves(learned))
    probed = hyperparams, jnp.zeros((), dtype)
    (slope, missed), metrics = estimate(key, probed, tasks)
    # Each task adds its own.
    return slope, {**metrics, 'solver_residual': missed / num_tasks(tasks)}

  return MetaLearner(*learner, grad=grad)
