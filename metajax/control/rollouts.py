"""Rollouts: acting is what the `apply` of a model does.

The inputs of such a model are episodes that are to be played, `Episodes`: keys,
and the environment's parameters, with a leading axis of episodes. Its outputs
are what happened, a `Trajectory`. Support and query of a task are rollouts
before and after adaptation, and every method whose way to adapt is a gradient
runs on them as it is.

Inputs may also be a `Trajectory`: then nothing is played, and its actions are
given the probabilities that they have by the parameters at hand. That is what
takes several steps on the same data (`metajax.control.trust_region`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Batch, Model, PyTree, Task, as_key
from metajax.control.environments import Environment
from metajax.control.policies import Policy
from metajax.equality import by_value

__all__ = [
  'Act',
  'Episodes',
  'Trajectory',
  'episode_tasks',
  'play',
  'rollout_model',
]

# (observation, noise, the environment's parameters) -> action
Act = Callable[[jax.Array, jax.Array, PyTree], jax.Array]


class Episodes(NamedTuple):
  """Episodes that are to be played; every leaf has an axis of them.

  Keys are their data (`jax.random.key_data`), since batches are of numbers.
  """

  keys: jax.Array  # [episodes, 2], of actions and of what happens
  starts: jax.Array  # [episodes, 2], of resets
  parameters: PyTree  # leaves [episodes, ...], of the environment


class Trajectory(NamedTuple):
  """What happened; all but `log_probabilities` and `distribution` is fixed."""

  # [episodes, steps, ...], before each action; 0 after the end
  observations: jax.Array
  actions: jax.Array  # [episodes, steps, ...]
  rewards: jax.Array  # [episodes, steps], 0 after the end
  active: jax.Array  # [episodes, steps], 1 up to the end and 0 after it
  behaviour: jax.Array  # [episodes, steps], log-probabilities when it was done
  log_probabilities: jax.Array  # [episodes, steps], by the parameters at hand
  distribution: PyTree  # leaves [episodes, steps, ...], of which actions are


def play(
  environment: Environment,
  act: Act,
  episodes: Episodes,
  noise: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Plays episodes; nothing of it has a derivative.

  Args:
    environment: in which it happens.
    act: chooses actions.
    episodes: to be played.
    noise: `key -> [steps, ...]`, what `act` draws from; its length is that of
      an episode.

  Returns:
    Observations, actions, rewards and `active`, as `Trajectory` has them.
  """

  def of_episode(episode: Episodes) -> Any:
    noise_key, world_key = jax.random.split(as_key(episode.keys))
    draws = noise(noise_key)
    keys = jax.random.split(world_key, len(draws))
    first = environment.reset(as_key(episode.starts), episode.parameters)

    def step(carry: Any, drawn: Any) -> tuple[Any, Any]:
      (observation, state), active = carry
      draw, key = drawn
      # Not products: what comes after the end may be no number.
      observation = jnp.where(active > 0, observation, 0)
      action = act(observation, draw, episode.parameters)
      seen, state, reward, ended = environment.step(
        key, state, action, episode.parameters
      )
      out = (
        observation, action, jnp.where(active > 0, reward, 0.0), active
      )  # fmt: skip
      return ((seen, state), jnp.where(ended, 0.0, active)), out

    return jax.lax.scan(step, (first, jnp.ones(())), (draws, keys))[1]

  return jax.lax.stop_gradient(jax.vmap(of_episode)(episodes))


@by_value
def rollout_model(
  policy: Policy, environment: Environment, steps: int
) -> Model:
  """A model that acts: `apply` plays the episodes that it is given.

  Args:
    policy: chooses actions; its parameters are those of the model.
    environment: in which it happens.
    steps: of an episode, the most.

  Returns:
    A model of inputs `Episodes` or `Trajectory`, with outputs `Trajectory`.
    With a key episodes are played anew, so that each of several inner steps
    has its own; without one all is drawn from the keys of the episodes.

  Raises:
    ValueError: if the policy is of other actions than the environment has, by
      their kind or their size, or if there are no steps.

  Example:
    >>> import jax
    >>> from metajax.control.environments import as_environment
    >>> from metajax.control.navigation import Navigation, draw_goal
    >>> from metajax.control.policies import policy_for
    >>> from metajax.models import mlp
    >>> world = as_environment(Navigation())
    >>> model = rollout_model(policy_for(world.actions, mlp([8], 2)), world, 10)
    >>> task = episode_tasks(draw_goal, 4, 4)(jax.random.key(0))
    >>> params = model.init(jax.random.key(1), task.support.inputs)
    >>> model.apply(params, task.support.inputs).rewards.shape
    (4, 10)
  """
  if policy.kind != environment.actions.kind:
    raise ValueError(
      f'the policy is of {policy.kind} actions, but {environment.name} has'
      f' {environment.actions.kind} ones; take'
      ' metajax.control.policies.policy_for'
    )
  if policy.size != environment.actions.size:
    raise ValueError(
      f'the policy is of size {policy.size}, but actions of'
      f' {environment.name} are of size {environment.actions.size}; take'
      ' metajax.control.policies.policy_for'
    )
  if steps < 1:
    raise ValueError(f'steps must be 1 or more, got {steps}')

  def init(key: jax.Array, inputs: Episodes) -> PyTree:
    del inputs  # all episodes have observations of one form
    seen = environment.observation
    return policy.init(key, jnp.zeros((1, *seen.shape), seen.dtype))

  def apply(
    params: PyTree,
    inputs: Episodes | Trajectory,
    key: jax.Array | None = None,
  ) -> Trajectory:
    if isinstance(inputs, Trajectory):
      return _judged_anew(policy, params, inputs)
    if key is not None:
      inputs = inputs._replace(keys=_folded(inputs.keys, key))
    fixed = jax.lax.stop_gradient(params)

    def act(observation: jax.Array, draw: jax.Array, _: PyTree) -> jax.Array:
      of = policy.distribution(fixed, observation[None])
      return policy.draw(jax.tree.map(lambda leaf: leaf[0], of), draw)

    played = play(
      environment, act, inputs, lambda key: policy.noise(key, steps)
    )
    distribution = _distribution(policy, params, played[0])
    found = policy.log_probability(distribution, played[1])
    return Trajectory(
      *played, jax.lax.stop_gradient(found), found, distribution
    )

  return Model(init, apply)


def _distribution(
  policy: Policy, params: PyTree, observations: jax.Array
) -> PyTree:
  """That of all actions at once: a network is quicker on one large batch."""
  episodes, steps, *shape = observations.shape
  flat = observations.reshape(episodes * steps, *shape)
  return jax.tree.map(
    lambda leaf: leaf.reshape(episodes, steps, *leaf.shape[1:]),
    policy.distribution(params, flat),
  )


def _judged_anew(
  policy: Policy, params: PyTree, trajectory: Trajectory
) -> Trajectory:
  fixed = jax.lax.stop_gradient(trajectory)
  distribution = _distribution(policy, params, fixed.observations)
  return fixed._replace(
    log_probabilities=policy.log_probability(distribution, fixed.actions),
    distribution=distribution,
  )


def _folded(keys: jax.Array, key: jax.Array) -> jax.Array:
  """Other keys for each episode, which follow from both."""
  number = jax.random.bits(key)
  folded = jax.vmap(lambda each: jax.random.fold_in(as_key(each), number))(keys)
  return jax.random.key_data(folded)


@by_value
def episode_tasks(
  draw: Callable[[jax.Array], PyTree],
  support: int,
  query: int,
  *,
  one_start: bool = False,
) -> Callable[[jax.Array], Task]:
  """Tasks of episodes: what differs is drawn once for each task.

  Args:
    draw: `key -> parameters` of the environment.
    support: episodes before adaptation.
    query: episodes after it.
    one_start: whether all episodes of a task are reset with one key, so that
      what a reset draws, such as a goal, is that of the task.

  Returns:
    The sampler. Batches have no targets: rewards are given while acting.

  Raises:
    ValueError: if there are no episodes.
  """
  if support < 1 or query < 1:
    raise ValueError(
      f'a task has one episode or more of each, got {support} and {query}'
    )

  def sample(key: jax.Array) -> Task:
    task_key, start_key, *keys = jax.random.split(key, 4)
    parameters = draw(task_key)

    def batch(key: jax.Array, number: int) -> Batch:
      acting, starting = jax.random.split(key)
      if one_start:
        starts = jnp.tile(jax.random.key_data(start_key), (number, 1))
      else:
        starts = jax.random.key_data(jax.random.split(starting, number))
      return Batch(
        Episodes(
          jax.random.key_data(jax.random.split(acting, number)),
          starts,
          jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (number, *jnp.shape(leaf))),
            parameters,
          ),
        ),
        (),
      )

    return Task(batch(keys[0], support), batch(keys[1], query))

  return sample
