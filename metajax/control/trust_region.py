r"""Outer steps by trust region, and several of them on the same episodes.

Both play the episodes of a batch of tasks once, before and after adaptation,
and then judge other meta-parameters on what was played: adaptation is repeated
on the recorded support set, and the recorded queries are given the
probabilities that they have then. Both are estimators that return how far the
meta-parameters are to move back, :math:`\phi - \phi'`, so the outer optimiser
is plain descent with rate 1 (as for `metajax.displacement`).

References:
  Schulman et al. (2015), Trust region policy optimization,
  https://arxiv.org/abs/1502.05477
  Schulman et al. (2017), Proximal policy optimization algorithms,
  https://arxiv.org/abs/1707.06347
  Rothfuss et al. (2019), ProMP: proximal meta-policy search,
  https://arxiv.org/abs/1810.06784
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax.base import (
  Batch,
  Learner,
  MetaGradient,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  Task,
  map_tasks,
)
from metajax.control.rollouts import Trajectory
from metajax.equality import by_value
from metajax.objectives import loss_and_metrics

__all__ = ['proximal', 'trust_region']

# (distribution before, distribution now) -> [episodes, steps]
Divergence = Callable[[PyTree, PyTree], jax.Array]


class _Recorded(NamedTuple):
  """What is asked again and again of the same episodes."""

  loss: Callable[[PyTree], jax.Array]  # mean over tasks, after adaptation
  # Mean divergences from what was played, before and after adaptation.
  divergences: Callable[[PyTree], tuple[jax.Array, jax.Array]]
  metrics: Metrics


@by_value
def trust_region(
  learner: Learner | MetaLearner,
  objective: Objective,
  divergence: Divergence,
  *,
  most: float = 0.01,
  damping: float = 1e-3,
  iterations: int = 10,
  attempts: int = 10,
  shrink: float = 0.7,
) -> MetaGradient:
  r"""A step of TRPO on the meta-parameters.

  .. math::
    \min_{\phi'} L(\phi') \quad \text{with} \quad
    \overline{\mathrm{KL}}(\pi_{\theta_i(\phi)} \Vert \pi_{\theta_i(\phi')})
    \le \epsilon

  along the natural gradient, found by conjugate gradients, as far as the loss
  falls and the divergence after adaptation stays within its bound.

  Args:
    learner: adapts differentiably in one inner step; its inner and this
      objective have to be ones that repeat (`SURROGATES`).
    objective: of the queries.
    divergence: of the policy, `Policy.divergence`.
    most: the bound, epsilon, in nats for an action.
    damping: added to the diagonal of the curvature.
    iterations: of conjugate gradients.
    attempts: lengths that are tried.
    shrink: the next length, as a share of the last.

  Returns:
    The estimator, with the metrics of the objective and `divergence`, that of
    the step which is taken; of none where no attempt was good.

  Raises:
    ValueError: if a number is not positive, or `shrink` not below 1.

  Example:
    >>> import metajax
    >>> from metajax import control
    >>> from metajax.models import mlp
    >>> world = control.as_environment(control.Navigation())
    >>> policy = control.policy_for(world.actions, mlp([8], 2))
    >>> ratio = control.surrogate_objective(
    ...   'likelihood_ratio', control.advantages())
    >>> learner = metajax.maml(
    ...   control.rollout_model(policy, world, 100), ratio, 0.5, 1)
    >>> grad = trust_region(learner, ratio, policy.divergence)
    >>> learner = learner._replace(grad=grad)  # its outer step is descent, by 1
  """
  _positive(most=most, iterations=iterations, attempts=attempts, shrink=shrink)
  if shrink >= 1 or not 0 <= damping < math.inf:
    raise ValueError(
      f'shrink must be below 1 and damping 0 or more, got {shrink} and'
      f' {damping}'
    )

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    recorded = _record(learner, objective, divergence, key, meta_params, tasks)
    flat, unravel = ravel_pytree(meta_params)

    def loss(flat: jax.Array) -> jax.Array:
      return recorded.loss(unravel(flat))

    def apart(flat: jax.Array) -> jax.Array:
      return recorded.divergences(unravel(flat))[1]

    start, slope = jax.value_and_grad(loss)(flat)

    def curvature(along: jax.Array) -> jax.Array:
      # Reverse over reverse: inner gradients allow no forward mode outside.
      times = jax.grad(lambda at: jnp.vdot(jax.grad(apart)(at), along))
      return times(flat) + damping * along

    natural, _ = jax.scipy.sparse.linalg.cg(
      curvature, slope, maxiter=iterations
    )
    length = jnp.sqrt(2 * most / jnp.vdot(natural, curvature(natural)))
    # Where there is no curvature to go by, nothing moves.
    whole = jnp.where(jnp.isfinite(length), length, 0.0) * natural

    def attempt(number: jax.Array) -> tuple[jax.Array, jax.Array]:
      at = flat - shrink**number * whole
      found = apart(at)
      return (loss(at) < start) & (found <= most), found

    def go_on(state: Any) -> jax.Array:
      number, good, _ = state
      return ~good & (number < attempts)

    def again(state: Any) -> Any:
      number = state[0]
      return (number + 1, *attempt(number))

    number, good, found = jax.lax.while_loop(
      go_on, again, (jnp.int32(0), jnp.bool_(False), jnp.zeros(()))
    )
    back = jnp.where(good, shrink ** (number - 1), 0.0) * whole
    moved = jnp.where(good, found, 0.0)
    return unravel(back), {**recorded.metrics, 'divergence': moved}

  return grad


@by_value
def proximal(
  learner: Learner | MetaLearner,
  objective: Objective,
  divergence: Divergence,
  optimizer: optax.GradientTransformation,
  *,
  updates: int = 5,
  penalty: float = 5e-4,
) -> MetaGradient:
  r"""Several updates on the same episodes: PPO, and with its penalty ProMP.

  .. math:: L(\phi') + \eta \,
    \overline{\mathrm{KL}}(\pi_\phi \Vert \pi_{\phi'})

  Args:
    learner: adapts differentiably in one inner step; its inner and this
      objective have to be ones that repeat (`SURROGATES`).
    objective: of the queries, `clipped` as published.
    divergence: of the policy, `Policy.divergence`.
    optimizer: of the updates; it begins anew with every batch of tasks.
    updates: how many.
    penalty: eta, of what the policy before adaptation moves.

  Returns:
    The estimator, with the metrics of the objective and `divergence`, that of
    the policy after adaptation, from all updates.

  Raises:
    ValueError: if there are no updates, or the penalty is negative.

  Example:
    >>> import metajax
    >>> from metajax import control
    >>> from metajax.models import mlp
    >>> world = control.as_environment(control.Navigation())
    >>> policy = control.policy_for(world.actions, mlp([8], 2))
    >>> ratio = control.surrogate_objective(
    ...   'likelihood_ratio', control.advantages())
    >>> learner = metajax.maml(
    ...   control.rollout_model(policy, world, 100), ratio, 0.5, 1)
    >>> clipped = control.surrogate_objective('clipped', control.advantages())
    >>> grad = proximal(learner, clipped, policy.divergence, optax.adam(1e-3))
    >>> learner = learner._replace(grad=grad)  # its outer step is descent, by 1
  """
  _positive(updates=updates)
  if not 0 <= penalty < math.inf:
    raise ValueError(f'penalty must be 0 or more, got {penalty}')

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    recorded = _record(learner, objective, divergence, key, meta_params, tasks)

    def loss(params: PyTree) -> jax.Array:
      return recorded.loss(params) + penalty * recorded.divergences(params)[0]

    def update(carry: PyTree, _: None) -> tuple[PyTree, None]:
      params, state = carry
      changes, state = optimizer.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, changes), state), None

    start = (meta_params, optimizer.init(meta_params))
    (params, _), _ = jax.lax.scan(update, start, None, updates)
    back = jax.tree.map(jnp.subtract, meta_params, params)
    moved = recorded.divergences(params)[1]
    return back, {**recorded.metrics, 'divergence': moved}

  return grad


def _positive(**numbers: float) -> None:
  for name, number in numbers.items():
    if not 0 < number < math.inf:
      raise ValueError(f'{name} must be above 0, and finite; got {number}')


def _record(
  learner: Learner | MetaLearner,
  objective: Objective,
  divergence: Divergence,
  key: jax.Array,
  meta_params: PyTree,
  tasks: Task,
) -> _Recorded:
  """Plays the episodes of all tasks, before and after adaptation."""

  def played(key: jax.Array, task: Task) -> tuple[Task, Metrics]:
    _, way = learner.adapt(key, meta_params, task.support)
    if len(way.losses) != 1:
      raise ValueError(
        'what repeats recorded episodes adapts in one inner step, got'
        f' {len(way.losses)}; set inner_steps to 1, or take Adam outside'
      )
    support, adapted = _before(learner, key, meta_params, task)
    query = learner.predict(adapted, task.query.inputs)
    _, metrics = loss_and_metrics(objective, query, task.query.targets)
    seen = Task(support, task.query._replace(inputs=query))
    return seen, metrics

  seen, metrics = jax.lax.stop_gradient(map_tasks(played, key, tasks))

  def of_task(
    key: jax.Array, params: PyTree, task: Task
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    before, after = _judged(learner, key, params, task)
    loss, _ = loss_and_metrics(objective, after, task.query.targets)
    return (
      loss,
      _apart(divergence, task.support.inputs, before),
      _apart(divergence, task.query.inputs, after),
    )

  def means(params: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
    found = map_tasks(lambda key, task: of_task(key, params, task), key, seen)
    loss, before, after = map(jnp.mean, found)
    return loss, before, after

  means_of_metrics = jax.tree.map(jnp.mean, metrics)
  return _Recorded(
    lambda params: means(params)[0],
    lambda params: means(params)[1:],
    {'loss': means(meta_params)[0], **means_of_metrics},
  )


def _before(
  learner: Learner | MetaLearner,
  key: jax.Array,
  meta_params: PyTree,
  task: Task,
) -> tuple[Batch, PyTree]:
  """What is played before adaptation, and what is adapted by that."""
  adapted, way = learner.adapt(key, meta_params, task.support)
  played = learner.predict(way.after(0, adapted), task.support.inputs)
  support = task.support._replace(inputs=played)
  return support, learner.adapt(key, meta_params, support)[0]


def _judged(
  learner: Learner | MetaLearner, key: jax.Array, params: PyTree, task: Task
) -> tuple[Trajectory, Trajectory]:
  """What was played, by other meta-parameters: before and after."""
  adapted, way = learner.adapt(key, params, task.support)
  before = learner.predict(way.after(0, adapted), task.support.inputs)
  return before, learner.predict(adapted, task.query.inputs)


def _apart(
  divergence: Divergence, then: Trajectory, now: Trajectory
) -> jax.Array:
  """The mean divergence of a step from what it was played by."""
  each = divergence(then.distribution, now.distribution) * then.active
  return jnp.sum(each) / jnp.sum(then.active)
