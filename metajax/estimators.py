"""Estimators of the meta-gradient.

Each takes a `Learner` and returns a function
`(key, meta_params, tasks) -> (meta_gradient, metrics)`, averaged over tasks.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from metajax.base import (
  Learner,
  MetaGradient,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  Task,
  map_tasks,
  task_keys,
)
from metajax.equality import by_value
from metajax.inner import partition
from metajax.models.modes import with_key
from metajax.objectives import loss_and_metrics

__all__ = [
  'TaskLoss',
  'backprop',
  'displacement',
  'evolution',
  'evolution_of',
  'gradient_of',
  'query_loss',
]


# Folded into the key of a task: adaptation draws from what it folds in itself.
_OF_QUERIES = 1 << 17


class TaskLoss(Protocol):
  """What is to be low on a task, and metrics worth logging."""

  def __call__(
    self, key: jax.Array, meta_params: PyTree, task: Task, /
  ) -> tuple[jax.Array, Metrics]: ...


def query_loss(
  learner: Learner | MetaLearner,
  objective: Objective,
  adapted: PyTree,
  task: Task,
  key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
  """The objective on the queries of a task, with `loss` among its metrics.

  With a key the learner is in training (see `metajax.models.modes`).
  """
  if key is not None:
    key = jax.random.fold_in(key, _OF_QUERIES)
  predict = with_key(learner.predict, key)
  outputs = predict(adapted, task.query.inputs)
  loss, metrics = loss_and_metrics(objective, outputs, task.query.targets)
  return loss, {'loss': loss, **metrics}


def _mean_over_tasks(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)


@by_value
def gradient_of(task_loss: TaskLoss) -> MetaGradient:
  r"""Differentiates the mean over tasks of any loss of a task.

  .. math::
    \nabla_\phi \frac{1}{|B|} \sum_{i \in B} L(\phi, T_i)

  For what `backprop` is not enough for: losses with terms beyond that of the
  queries after adaptation.

  Args:
    task_loss: `(key, meta_params, task) -> (loss, metrics)`.

  Returns:
    The estimator. Buffers among the meta-parameters, integers for example (see
    `metajax.inner.partition`), have the gradient zero. It raises ValueError
    for the counts of steps that MAML++ and Reptile keep, which it could not
    move.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.tasks import sinusoid
    >>> tasks = jax.vmap(sinusoid(5, 5))(jax.random.split(jax.random.key(0)))
    >>> grad = gradient_of(lambda key, scale, task: (scale**2, {}))
    >>> float(grad(jax.random.key(1), 3.0, tasks)[0])
    6.0
  """

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    learned, buffers = _split(meta_params)

    def mean_loss(learned: PyTree) -> tuple[jax.Array, Metrics]:
      meta_params = partition.merge(learned, buffers)
      return _mean_over_tasks(
        map_tasks(
          lambda key, task: task_loss(key, meta_params, task), key, tasks
        )
      )

    gradient, metrics = jax.grad(mean_loss, has_aux=True)(learned)
    return _with_still(gradient, buffers), metrics

  return grad


def _with_still(gradient: PyTree, buffers: PyTree) -> PyTree:
  """The gradient of all parameters: buffers are not to move."""
  return partition.merge(gradient, jax.tree.map(jnp.zeros_like, buffers))


def _split(meta_params: PyTree) -> tuple[PyTree, PyTree]:
  """What is learned, and buffers; no counts, which would never be counted."""
  halves = partition.split_learned(meta_params)

  def refuse(path: str, leaf: jax.Array) -> None:
    if partition.is_count(path, leaf):
      raise ValueError(
        'this meta-gradient is a derivative by the meta-parameters, and has'
        f' none by {path}, which is {jnp.result_type(leaf)}; take a learner'
        ' that keeps no count, or give a buffer another name'
      )

  partition.map_with_path(refuse, meta_params)
  return halves


@by_value
def backprop(
  learner: Learner,
  objective: Objective,
  step_weights: jax.Array | None = None,
) -> MetaGradient:
  r"""Differentiates the query loss through the adaptation.

  .. math::
    \nabla_\phi \frac{1}{|B|} \sum_{i \in B}
      L(\mathrm{adapt}(\phi, S_i), Q_i)

  With weights of steps it is the loss on the whole way that is differentiated,
  :math:`\sum_t w_t L(\theta_i^t, Q_i)`. How far the derivative reaches is the
  learner's business: second order if its inner gradients are differentiated,
  first order if it holds them constant.

  Args:
    learner: adapts differentiably.
    objective: judges the adapted learner on the queries.
    step_weights: [steps], of the query losses after 1, 2, ... steps; by default
      only the adapted learner counts.

  Returns:
    The estimator. Its metrics are `loss` and those of the objective, after
    adaptation, averaged over tasks. It raises ValueError if there are not as
    many weights as steps.
  """

  def task_loss(
    key: jax.Array, meta_params: PyTree, task: Task
  ) -> tuple[jax.Array, Metrics]:
    adapted, adaptation = learner.adapt(key, meta_params, task.support)
    if step_weights is None:
      return query_loss(learner, objective, adapted, task, key)
    later = jax.tree.map(lambda leaf: leaf[1:], adaptation.trajectory)
    losses, metrics = jax.vmap(
      lambda place: query_loss(
        learner, objective, partition.merge(place, adapted), task, key
      )
    )(later)
    last = jax.tree.map(lambda leaf: leaf[-1], metrics)
    if jnp.shape(step_weights) != losses.shape:
      raise ValueError(
        'step_weights must be one number for each of the'
        f' {len(losses)} steps of the adaptation, [{len(losses)}]; got shape'
        f' {jnp.shape(step_weights)}'
      )
    return jnp.vdot(step_weights, losses), last

  return gradient_of(task_loss)


@by_value
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
      return jax.tree.map(_way_back, meta_params, adapted), metrics

    return _mean_over_tasks(map_tasks(of_task, key, tasks))

  return grad


def _way_back(start: jax.Array, end: jax.Array) -> jax.Array:
  if jnp.result_type(start) == jnp.bool_:  # a mask, which does not move
    return jnp.zeros_like(start)
  return jnp.subtract(start, end)


@by_value
def evolution(
  learner: Learner,
  objective: Objective,
  *,
  num_pairs: int = 16,
  scale: float = 0.1,
  chunk_size: int = 1,
) -> MetaGradient:
  r"""Tries the query loss at random places around the meta-parameters.

  .. math::
    \frac{1}{|B|} \sum_{i \in B} \frac{1}{n} \sum_{j=1}^{n}
      \frac{F_i(\phi + \sigma \epsilon_{ij}) - F_i(\phi - \sigma
      \epsilon_{ij})}{2 \sigma} \, \epsilon_{ij}, \qquad
    \epsilon_{ij} \sim N(0, I), \quad
    F_i(\phi) = L(\mathrm{adapt}(\phi, S_i), Q_i)

  Its mean is the gradient of the loss smoothed by the Gaussian. Nothing is
  differentiated but what an adaptation differentiates itself. Every task has
  directions of its own, and both ends of a pair adapt with the same key.

  Args:
    learner: buffers among its meta-parameters stay where they are; it must
      keep no count.
    objective: judges the adapted learner on the queries.
    num_pairs: pairs of places per task, n.
    scale: the standard deviation of a step, sigma.
    chunk_size: pairs that are vectorised together; memory is that of so many.

  Returns:
    The estimator, with the metrics of `backprop`, at the meta-parameters.

  Raises:
    ValueError: if `scale` is not positive, or if `num_pairs` is not a positive
      multiple of `chunk_size`.

  References:
    Song et al. (2020), ES-MAML: simple Hessian-free meta learning.
  """

  def task_loss(
    key: jax.Array, meta_params: PyTree, task: Task
  ) -> tuple[jax.Array, Metrics]:
    adapted, _ = learner.adapt(key, meta_params, task.support)
    return query_loss(learner, objective, adapted, task, key)

  return evolution_of(
    task_loss, num_pairs=num_pairs, scale=scale, chunk_size=chunk_size
  )


@by_value
def evolution_of(
  task_loss: TaskLoss,
  *,
  num_pairs: int = 16,
  scale: float = 0.1,
  chunk_size: int = 1,
) -> MetaGradient:
  """Tries any loss of a task at random places, as `gradient_of` derives it.

  Args:
    task_loss: `(key, meta_params, task) -> (loss, metrics)`; both ends of a
      pair have the same key.
    num_pairs: see `evolution`.
    scale: see `evolution`.
    chunk_size: see `evolution`.

  Returns:
    The estimator, of which `evolution` is a case.

  Raises:
    ValueError: see `evolution`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.tasks import sinusoid
    >>> tasks = jax.vmap(sinusoid(5, 5))(jax.random.split(jax.random.key(0)))
    >>> slope = evolution_of(lambda key, scale, task: (3 * scale, {}))
    >>> bool(slope(jax.random.key(1), jnp.float32(3.0), tasks)[0] > 0)
    True
  """
  if not scale > 0:
    raise ValueError(f'scale must be above 0, got {scale}')
  if chunk_size < 1 or num_pairs < 1 or num_pairs % chunk_size:
    raise ValueError(
      f'num_pairs must be a positive multiple of chunk_size, got {num_pairs}'
      f' and {chunk_size}'
    )

  def of_task(
    key: jax.Array, halves: tuple[PyTree, PyTree], task: Task
  ) -> tuple[PyTree, Metrics]:
    adapt_key, pairs_key = jax.random.split(key)
    learned, buffers = halves

    def loss(learned: PyTree) -> tuple[jax.Array, Metrics]:
      return task_loss(adapt_key, partition.merge(learned, buffers), task)

    def pair(key: jax.Array) -> tuple[jax.Array, PyTree]:
      direction = _normal_like(key, learned)
      ahead, behind = (
        loss(_step_along(direction, size, learned))[0]
        for size in (scale, -scale)
      )
      return (ahead - behind) / (2 * scale), direction

    def add(total: PyTree, keys: jax.Array) -> tuple[PyTree, None]:
      slopes, directions = jax.vmap(pair)(keys)
      return jax.tree.map(
        lambda total, leaf: (
          total + jnp.tensordot(slopes.astype(leaf.dtype), leaf, 1) / num_pairs
        ),
        total,
        directions,
      ), None

    keys = task_keys(pairs_key, num_pairs).reshape(-1, chunk_size)
    zeros = jax.tree.map(jnp.zeros_like, learned)
    gradient, _ = jax.lax.scan(add, zeros, keys)
    return _with_still(gradient, buffers), loss(learned)[1]

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    halves = _split(meta_params)
    return _mean_over_tasks(
      map_tasks(lambda key, task: of_task(key, halves, task), key, tasks)
    )

  return grad


def _normal_like(key: jax.Array, tree: PyTree) -> PyTree:
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(key, len(leaves))
  return jax.tree.unflatten(
    structure,
    [
      jax.random.normal(key, leaf.shape, leaf.dtype)
      for key, leaf in zip(keys, leaves, strict=True)
    ],
  )


def _step_along(direction: PyTree, size: float, params: PyTree) -> PyTree:
  return jax.tree.map(
    lambda leaf, along: leaf + size * along, params, direction
  )
