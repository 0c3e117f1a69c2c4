"""Meta reinforcement learning by the contract of any task: a model that acts.

  python examples/policy_gradient.py

A point is to go to a goal that it cannot see, only rewards tell; a task is a
goal. The inputs are what an episode needs, a goal and a key for the noise of
actions; `apply` plays, and returns log-probabilities and rewards. So support
and query set are episodes before and after adaptation, and all else is as ever.

The objective is DiCE (https://arxiv.org/abs/1802.05098): its value is minus the
mean return, and its first two derivatives are those of the expected return.
"""

import jax
import jax.numpy as jnp
import optax

import metajax
from metajax.models import mlp

HORIZON, STRIDE, NOISE = 10, 0.2, 0.5
NETWORK = mlp([32, 32], 2)  # from a place to the mean of an action


def goal_on_circle(key, episodes=20):
  """Draws one task; there is nothing to compare with."""
  goal_key, *keys = jax.random.split(key, 3)
  angle = jax.random.uniform(goal_key, maxval=2 * jnp.pi)
  goals = jnp.tile(jnp.array([jnp.cos(angle), jnp.sin(angle)]), (episodes, 1))
  support, query = (
    {'goal': goals, 'key': jax.random.split(key, episodes)} for key in keys
  )
  return metajax.Task(metajax.Batch(support, ()), metajax.Batch(query, ()))


def play(params, episodes):
  """Places and actions `[episodes, HORIZON, 2]`, and rewards."""

  def step(place, noise):
    action = NETWORK.apply(params, place) + NOISE * noise
    moved = place + STRIDE * jnp.clip(action, -1, 1)
    reward = -jnp.linalg.norm(moved - episodes['goal'], axis=1)
    return moved, (place, action, reward)

  draw = jax.vmap(lambda key: jax.random.normal(key, (HORIZON, 2)), out_axes=1)
  start, noise = jnp.zeros_like(episodes['goal']), draw(episodes['key'])
  _, history = jax.lax.scan(step, start, noise)
  return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), history)


def log_prob(params, places, actions):
  """That of actions at places, up to a constant, `[episodes, HORIZON]`."""
  means = jax.vmap(lambda place: NETWORK.apply(params, place))(places)
  return -jnp.sum(jnp.square((actions - means) / NOISE), axis=2) / 2


def init(key, episodes):
  """Draws a policy."""
  return NETWORK.init(key, episodes['goal'])


def apply(params, episodes):
  """Plays, with the present policy; what was played is then only data."""
  places, actions, rewards = jax.lax.stop_gradient(play(params, episodes))
  return log_prob(params, places, actions), rewards


def dice(outputs, targets):
  """Minus the mean return, with the derivatives of its expectation."""

  def box(log_probs):  # 1, with the derivatives of a probability
    return jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))

  log_probs, rewards = outputs
  to_go = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
  # What the other episodes still got is independent of the action taken.
  baseline = (to_go.sum(axis=0, keepdims=True) - to_go) / (len(rewards) - 1)
  past = jnp.cumsum(log_probs, axis=1)
  gains = box(past) * (rewards - baseline) + box(past - log_probs) * baseline
  value = jnp.mean(jnp.sum(gains, axis=1))
  return -value, {'return': value}


def main(steps: int = 300):
  """Trains; returns the mean return on new goals, before and after."""
  learner = metajax.maml(metajax.Model(init, apply), dice, 0.3, num_steps=1)
  train = metajax.make_train_step(
    learner, optax.adam(3e-3), goal_on_circle, tasks_per_step=20
  )
  state, _ = train.run(train.init(jax.random.key(0)), steps)
  test = metajax.evaluate(
    learner, dice, state.meta_params, goal_on_circle,
    key=jax.random.key(1), num_tasks=200, chunk_size=50,
  )  # fmt: skip
  print('return', test.mean['return'], '95% intervals', test.ci95['return'])
  return test.mean['return']


if __name__ == '__main__':
  main()
