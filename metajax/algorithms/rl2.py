r"""RL²: a policy with a memory, trained by PPO over whole trials.

.. math::
  \max_\psi \; E_{\text{task}} \, E_{\text{trial} \sim \pi_\psi}
    \sum_{t=1}^{T} \gamma^{t-1} r_t, \qquad
  \pi_\psi(a_t \mid x_1, \ldots, x_t)

The memory of a trial takes the place of adaptation: no gradient is taken on a
task, and what is optimised is the return of the whole trial, in which exploring
pays. Advantages go back over the ends of episodes.

A step of training is several passes of clipped policy gradients over
minibatches of the trials that it has played, all by an Adam of its own, which
persists beside the weights as Reptile's does. Where tasks are divided, over
devices or into chunks, each part takes the passes over its own trials, and the
places where they end are averaged.

References:
  Duan et al. (2016), RL²: fast reinforcement learning via slow reinforcement
  learning, https://arxiv.org/abs/1611.02779
  Schulman et al. (2017), Proximal policy optimization algorithms,
  https://arxiv.org/abs/1707.06347
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import (
  Adaptation,
  Batch,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
  num_tasks,
  task_keys,
)
from metajax.control.advantages import returns
from metajax.control.rollouts import Trajectory
from metajax.equality import by_value
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics

__all__ = ['LABELS', 'RL2Params', 'clipped_loss', 'rl2', 'trial_advantages']


class RL2Params(NamedTuple):
  """Meta-parameters of RL²."""

  params: PyTree  # of the memory
  optimizer_state: PyTree


# Trials, their advantages, and what values are to be.
_Data = tuple[Trajectory, jax.Array, jax.Array]

# For `metajax.outer_optimizer`, with plain descent of rate 1.
LABELS = RL2Params('weights', 'state')


@by_value
def rl2(
  model: Model,
  objective: Objective,
  learning_rate: float = 3e-3,
  *,
  passes: int = 1,
  minibatches: int = 1,
  clip: float = 0.2,
  discount: float = 0.99,
  trace: float = 0.3,
  value_weight: float = 0.5,
  entropy_weight: float = 0.05,
  largest_gradient: float = 0.5,
) -> MetaLearner:
  """RL² with PPO.

  Args:
    model: plays trials, made by `metajax.control.trial_model`.
    objective: only reported, of trials.
    learning_rate: of the Adam that takes the steps.
    passes: over the trials of a step.
    minibatches: of a pass; they divide the trials of a step, which are all
      queries of its tasks.
    clip: of the ratio of probabilities.
    discount: of rewards, over the whole trial.
    trace: lambda of the advantages.
    value_weight: of the squared error of values.
    entropy_weight: of the entropy of choices, which is to be high.
    largest_gradient: by whose norm gradients are cut off.

  Returns:
    A `MetaLearner` whose meta-parameters are `RL2Params`; its meta-gradient is
    the way back from where the passes end. Train it with
    `metajax.outer_optimizer(optax.sgd(1.0), LABELS)`.

  Raises:
    ValueError: if a number is out of its range; when it is used, if the model
      plays no trials, or if `minibatches` do not divide them.

  Example:
    >>> import jax, metajax
    >>> from metajax.control import BernoulliBandit, as_environment, returned
    >>> from metajax.control import num_scores, trial_model
    >>> from metajax.models.sequences import gru
    >>> world = as_environment(BernoulliBandit(5, 10))
    >>> memory = gru(num_scores(world), width=8)
    >>> learner = rl2(trial_model(memory, world, steps=10), returned)
  """
  refuse_key(model)
  _check(
    learning_rate, passes, minibatches, clip, discount, trace,
    value_weight, entropy_weight, largest_gradient,
  )  # fmt: skip
  loss = partial(
    clipped_loss, clip=clip, value_weight=value_weight,
    entropy_weight=entropy_weight,
  )  # fmt: skip
  optimizer = optax.chain(
    optax.clip_by_global_norm(largest_gradient),
    optax.adam(learning_rate, eps=1e-5),
  )

  def init(key: jax.Array, inputs: PyTree) -> RL2Params:
    params = model.init(key, inputs)
    return RL2Params(params, optimizer.init(params))

  def adapt(
    key: jax.Array, meta_params: RL2Params, support: Batch
  ) -> tuple[RL2Params, Adaptation]:
    del key, support  # nothing is learned but in the trial itself
    trajectory = jax.tree.map(lambda leaf: leaf[None], meta_params)
    return meta_params, Adaptation(jnp.zeros(0), trajectory)

  def predict(adapted: RL2Params, inputs: PyTree) -> Trajectory:
    played: Trajectory = model.apply(adapted.params, inputs)
    return played

  def one_step(carry: RL2Params, data: _Data) -> RL2Params:
    gradient = jax.grad(loss)(carry.params, model, *data)
    updates, state = optimizer.update(
      gradient, carry.optimizer_state, carry.params
    )
    return RL2Params(optax.apply_updates(carry.params, updates), state)

  def grad(
    key: jax.Array, meta_params: RL2Params, tasks: Task
  ) -> tuple[RL2Params, Metrics]:
    trials = jax.vmap(lambda task: predict(meta_params, task.query.inputs))(
      tasks
    )
    reported, metrics = jax.vmap(
      lambda trials, task: loss_and_metrics(
        objective, trials, task.query.targets
      )
    )(trials, tasks)
    flat: Trajectory = jax.tree.map(
      lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trials
    )
    gained, goals = trial_advantages(flat, discount, trace)
    scaled = (gained - jnp.mean(gained)) / (jnp.std(gained) + 1e-8)
    # One key, or one for each task.
    order_key = task_keys(key, num_tasks(tasks))[0]
    moved = _passes(
      one_step, meta_params, (flat, scaled, goals), order_key, passes,
      minibatches,
    )  # fmt: skip
    back = jax.tree.map(jnp.subtract, meta_params, moved)
    found = {'loss': reported, **metrics}
    return back, jax.tree.map(jnp.mean, found)

  return MetaLearner(init, adapt, predict, grad)


def _passes(
  step: Callable[[RL2Params, _Data], RL2Params],
  start: RL2Params,
  data: _Data,
  key: jax.Array,
  passes: int,
  minibatches: int,
) -> RL2Params:
  """Takes a step on each minibatch, pass after pass, in a new order each."""
  number = len(data[1])
  if number % minibatches:
    most = min(minibatches, number)
    near = max(part for part in range(1, most + 1) if number % part == 0)
    raise ValueError(
      f'minibatches is {minibatches}, which does not divide the {number} trials'
      ' of a step (or of a part of it, where tasks are divided); take a divisor'
      f' of {number}, such as {near}'
    )

  def on(carry: RL2Params, chosen: jax.Array) -> tuple[RL2Params, None]:
    return step(carry, jax.tree.map(lambda leaf: leaf[chosen], data)), None

  def one_pass(carry: RL2Params, key: jax.Array) -> tuple[RL2Params, None]:
    order = jax.random.permutation(key, number).reshape(minibatches, -1)
    return jax.lax.scan(on, carry, order)

  end, _ = jax.lax.scan(one_pass, start, jax.random.split(key, passes))
  return end


def clipped_loss(
  params: PyTree,
  model: Model,
  trials: Trajectory,
  advantages: jax.Array,
  goals: jax.Array,
  *,
  clip: float,
  value_weight: float,
  entropy_weight: float,
) -> jax.Array:
  r"""The loss of PPO: the clipped surrogate, errors of values, and entropy.

  .. math::
    -\overline{\min(\rho_t A_t, \mathrm{clip}(\rho_t, 1 \pm \epsilon) A_t)}
    + c_V \overline{(V_t - G_t)^2} - c_H \overline{H_t}, \qquad
    \rho_t = \frac{\pi(a_t | x_{1:t})}{\pi_\text{played}(a_t | x_{1:t})}

  Args:
    params: of the model.
    model: of trials.
    trials: that were played, leaves `[trials, steps, ...]`.
    advantages: `[trials, steps]`.
    goals: of the values, `[trials, steps]`.
    clip: epsilon.
    value_weight: of the errors.
    entropy_weight: of the entropy.
  """
  now = model.apply(params, trials)
  ratio = jnp.exp(now.log_probabilities - trials.behaviour)
  near = jnp.clip(ratio, 1 - clip, 1 + clip)
  gain = jnp.mean(jnp.minimum(ratio * advantages, near * advantages))
  logits, values = now.distribution
  error = jnp.mean(jnp.square(values - goals))
  entropy = -jnp.mean(jnp.sum(jnp.exp(logits) * logits, axis=-1))
  return value_weight * error - gain - entropy_weight * entropy


def trial_advantages(
  trials: Trajectory, discount: float, trace: float
) -> tuple[jax.Array, jax.Array]:
  r"""Advantages over whole trials, by the values that the policy has told.

  .. math::
    A_t = \sum_{k \ge 0} (\gamma \lambda)^k \delta_{t+k}, \qquad
    \delta_t = r_t + \gamma H v_{t+1} - H v_t, \qquad v_{T+1} = 0, \qquad
    H = \sum_{t < T} \gamma^t

  Values are told as a share of H, which is the return of a reward of 1 at each
  step: their errors are not to outweigh choices where trials are long.

  Args:
    trials: leaves `[trials, steps, ...]`, with `Scores`.
    discount: gamma.
    trace: lambda.

  Returns:
    Advantages, and what values are to be, `[trials, steps]`, without a
    derivative.
  """
  steps = trials.rewards.shape[1]
  horizon = sum(discount**step for step in range(steps))
  values = horizon * trials.distribution.values
  later = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
  errors = trials.rewards + discount * later - values
  found = returns(errors, discount * trace)
  goals = (found + values) / horizon
  return jax.lax.stop_gradient((found, goals))


def _check(
  learning_rate: float,
  passes: int,
  minibatches: int,
  clip: float,
  discount: float,
  trace: float,
  *weights: float,
) -> None:
  for name, number in {'passes': passes, 'minibatches': minibatches}.items():
    if number < 1:
      raise ValueError(f'{name} must be 1 or more, got {number}')
  for name, value in {'discount': discount, 'trace': trace}.items():
    if not 0 <= value <= 1:
      raise ValueError(f'{name} must be from 0 to 1, got {value}')
  for name, value in {'learning_rate': learning_rate, 'clip': clip}.items():
    if not value > 0:
      raise ValueError(f'{name} must be above 0, got {value}')
  names = ('value_weight', 'entropy_weight', 'largest_gradient')
  for name, value in zip(names, weights, strict=True):
    if not value >= 0:
      raise ValueError(f'{name} must be 0 or more, got {value}')
