r"""Trials: several episodes of one task, by a policy that remembers.

What a memory reads before each step is all that was seen: the observation, the
last action and its reward, and whether an episode has just begun. The reward
stands there once more at the place of the action, so that what an action has
brought can be summed up.

.. math::
  e_t = \mathrm{onehot}(a_t), \qquad
  x_t = (o_t,\ e_{t-1},\ r_{t-1} e_{t-1},\ r_{t-1},\ d_{t-1}), \qquad
  (m_t, (z_t, V_t)) = \mathrm{step}(\psi, m_{t-1}, x_t), \qquad
  a_t \sim \mathrm{softmax}(z_t)

The memory is empty at the start of a trial and is kept from one episode to the
next, so adapting to a task is what it does in a trial.

References:
  Duan et al. (2016), RL²: fast reinforcement learning via slow reinforcement
  learning, https://arxiv.org/abs/1611.02779
  Wang et al. (2016), Learning to reinforcement learn,
  https://arxiv.org/abs/1611.05763
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Metrics, Model, PyTree, as_key, values_and_weights
from metajax.control.environments import Environment
from metajax.control.rollouts import Episodes, Trajectory
from metajax.equality import by_value
from metajax.models.sequences import SequenceModel
from metajax.objectives import weighted_mean

__all__ = ['Scores', 'num_scores', 'returned', 'trial_model', 'unmoved']


class Scores(NamedTuple):
  """What a policy with a memory says at each step."""

  logits: jax.Array  # [..., choices], log-probabilities
  values: jax.Array  # [...], of the rest of the trial


def num_scores(environment: Environment) -> int:
  """Outputs that a memory needs: one for each choice, and the value.

  Raises:
    ValueError: if actions are no choices.
  """
  if environment.actions.kind != 'discrete':
    raise ValueError(
      f'a policy with a memory makes choices, but {environment.name} has'
      f' {environment.actions.kind} actions; take an environment with discrete'
      ' ones, such as bandit, or a method that adapts by gradient'
    )
  return environment.actions.size + 1


@by_value
def trial_model(
  memory: SequenceModel,
  environment: Environment,
  steps: int,
  episode_steps: int | None = None,
) -> Model:
  """A model that plays trials of one task each.

  Args:
    memory: of `num_scores(environment)` outputs.
    environment: in which it happens. All episodes of a trial start with the
      same key, so what a reset draws is that of the trial.
    steps: of a trial. An episode that ends before is followed by another.
    episode_steps: after which an episode is cut off; by default it goes on
      until it ends.

  Returns:
    A model of inputs `Episodes`, of which each is a trial, or `Trajectory`,
    with outputs `Trajectory`: observations are what the memory reads, `[trials,
    steps, channels]`, and the distribution is `Scores`. Of a `Trajectory` all
    steps are judged at once.

  Raises:
    ValueError: if actions are no choices, or episodes do not fill a trial.

  Example:
    >>> import jax
    >>> from metajax.control import BernoulliBandit, as_environment
    >>> from metajax.control import episode_tasks
    >>> from metajax.models.sequences import gru
    >>> bandit = BernoulliBandit(5, 10)
    >>> world = as_environment(bandit)
    >>> model = trial_model(gru(num_scores(world), width=8), world, steps=10)
    >>> task = episode_tasks(bandit.sample, 1, 4)(jax.random.key(0))
    >>> params = model.init(jax.random.key(1), task.query.inputs)
    >>> model.apply(params, task.query.inputs).rewards.shape
    (4, 10)
  """
  num_scores(environment)
  if steps < 1:
    raise ValueError(f'steps of a trial must be 1 or more, got {steps}')
  if episode_steps is not None and (episode_steps < 1 or steps % episode_steps):
    raise ValueError(
      f'a trial of {steps} steps is not a whole number of episodes of'
      f' {episode_steps}; take a multiple of {max(episode_steps, 1)}'
    )
  choices = environment.actions.size
  channels = int(np.prod(environment.observation.shape)) + 2 * choices + 2

  def init(key: jax.Array, inputs: Any) -> PyTree:
    del inputs  # all trials have observations of one form
    sequences = jnp.zeros((1, steps, channels))
    params = memory.init(key, sequences)
    outputs = jax.eval_shape(memory.apply, params, sequences).shape[-1]
    if outputs != choices + 1:
      raise ValueError(
        f'{environment.name} needs a memory of {choices + 1} outputs'
        f' (num_scores), one for each choice and the value; got {outputs}'
      )
    return params

  def apply(params: PyTree, inputs: Episodes | Trajectory) -> Trajectory:
    if isinstance(inputs, Trajectory):
      return _judged_anew(memory, params, inputs)
    play = _trial(memory, environment, params, steps, episode_steps)
    return jax.vmap(play)(inputs)

  return Model(init, apply)


class _Moment(NamedTuple):
  """Where a trial stands."""

  memory: PyTree
  observation: jax.Array
  state: PyTree  # of the environment
  last: jax.Array  # [2 * choices + 2], what the last step has brought
  time: jax.Array  # in the episode


def _trial(
  memory: SequenceModel,
  environment: Environment,
  params: PyTree,
  steps: int,
  episode_steps: int | None,
) -> Any:
  choices = environment.actions.size

  def of_trial(trial: Episodes) -> Trajectory:
    noise_key, world_key = jax.random.split(as_key(trial.keys))
    start = as_key(trial.starts)
    first = environment.reset(start, trial.parameters)

    def step(moment: _Moment, drawn: Any) -> tuple[_Moment, Trajectory]:
      noise, key = drawn
      read = jnp.concatenate(
        [moment.observation.ravel().astype(noise.dtype), moment.last]
      )
      remembered, outputs = memory.step(params, moment.memory, read)
      scores = _scores(outputs)
      action = jnp.argmax(jax.lax.stop_gradient(scores.logits) + noise)
      seen, state, reward, ended = environment.step(
        key, moment.state, action, trial.parameters
      )
      time = moment.time + 1
      if episode_steps is not None:
        ended = ended | (time >= episode_steps)
      seen, state = jax.tree.map(
        lambda new, old: jnp.where(ended, new, old), first, (seen, state)
      )
      done = jax.nn.one_hot(action, choices, dtype=noise.dtype)
      last = jnp.concatenate(
        [done, done * reward, jnp.stack([reward, ended.astype(noise.dtype)])]
      )
      found = _log_probability(scores, action)
      out = Trajectory(
        read, action, reward, jnp.ones_like(reward),
        jax.lax.stop_gradient(found), found, scores,
      )  # fmt: skip
      time = jnp.where(ended, 0, time)
      return _Moment(
        remembered, *jax.lax.stop_gradient((seen, state, last, time))
      ), out

    noise = jax.random.gumbel(noise_key, (steps, choices))
    beginning = _Moment(
      memory.start(params),
      *first,
      jnp.zeros(2 * choices + 2).at[-1].set(1.0),
      jnp.int32(0),
    )
    drawn = noise, jax.random.split(world_key, steps)
    return jax.lax.scan(step, beginning, drawn)[1]

  return of_trial


def _scores(outputs: jax.Array) -> Scores:
  return Scores(jax.nn.log_softmax(outputs[..., :-1]), outputs[..., -1])


def _log_probability(scores: Scores, actions: jax.Array) -> jax.Array:
  chosen = jnp.take_along_axis(scores.logits, actions[..., None], axis=-1)
  return chosen[..., 0]


def _judged_anew(
  memory: SequenceModel, params: PyTree, trials: Trajectory
) -> Trajectory:
  fixed = jax.lax.stop_gradient(trials)
  scores = _scores(memory.apply(params, fixed.observations))
  return fixed._replace(
    log_probabilities=_log_probability(scores, fixed.actions),
    distribution=scores,
  )


def returned(outputs: Trajectory, targets: PyTree) -> tuple[jax.Array, Metrics]:
  r"""An objective of trials, for methods that do not differentiate it.

  .. math:: L = -\frac{1}{n} \sum_i \sum_t r_{it}

  Args:
    outputs: trials.
    targets: `()`, or `Weighted` with a weight for each trial.

  Returns:
    The loss, and the metric `return`.
  """
  _, weights = values_and_weights(targets)
  total = weighted_mean(jnp.sum(outputs.rewards, axis=1), weights)
  return -total, {'return': total}


@by_value
def unmoved(num_outputs: int) -> SequenceModel:
  """A memory that keeps nothing: all choices are alike, whatever was seen."""

  def step(
    params: PyTree, memory: PyTree, inputs: jax.Array
  ) -> tuple[PyTree, jax.Array]:
    del params
    return memory, jnp.zeros(num_outputs, inputs.dtype)

  return SequenceModel(
    lambda key, inputs: (),
    lambda params, inputs: jnp.zeros((*inputs.shape[:2], num_outputs)),
    lambda params: (),
    step,
  )
