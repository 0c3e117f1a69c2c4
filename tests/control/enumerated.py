"""A small Markov decision process, of which all trajectories are listed."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Model, Task, Weighted
from metajax.control.advantages import advantages
from metajax.control.rollouts import Trajectory
from metajax.control.surrogates import surrogate_objective

STATES, ACTIONS = 2, 3

# Without anything estimated: returns as they are.
EXACT = advantages('none', discount=1.0, normalised=False)


class Process(NamedTuple):
  """Where it begins, where it goes, what is given."""

  start: np.ndarray  # [states]
  moves: np.ndarray  # [states, actions, states]
  rewards: np.ndarray  # [states, actions]
  steps: int


class Listed(NamedTuple):
  """All trajectories, and how the process has its share in them."""

  states: np.ndarray  # [trajectories, steps]
  actions: np.ndarray  # [trajectories, steps]
  rewards: np.ndarray  # [trajectories, steps]


def process(steps: int, seed: int = 0) -> Process:
  random = np.random.default_rng(seed)
  return Process(
    random.dirichlet(np.ones(STATES)),
    random.dirichlet(np.ones(STATES), (STATES, ACTIONS)),
    random.normal(size=(STATES, ACTIONS)),
    steps,
  )


def listed(of: Process) -> tuple[Listed, np.ndarray]:
  """Every trajectory, and the probability of its states given its actions."""
  whole = [
    *itertools.product(
      itertools.product(range(STATES), repeat=of.steps),
      itertools.product(range(ACTIONS), repeat=of.steps),
    )
  ]
  states = np.array([states for states, _ in whole])
  actions = np.array([actions for _, actions in whole])
  chances = of.start[states[:, 0]]
  for t in range(1, of.steps):
    chances = (
      chances * of.moves[states[:, t - 1], actions[:, t - 1], states[:, t]]
    )
  return Listed(states, actions, of.rewards[states, actions]), chances


def true_return(table: jax.Array, of: Process) -> jax.Array:
  """The expected return of a policy, backwards and without any trajectory."""
  policy = jax.nn.softmax(table)
  worth = jnp.zeros(STATES)
  for _ in range(of.steps):
    of_action = of.rewards + jnp.einsum('sat,t->sa', of.moves, worth)
    worth = jnp.sum(policy * of_action, axis=-1)
  return of.start @ worth


def apply(table: jax.Array, inputs: Listed) -> Trajectory:
  """All that can happen, with the probabilities of actions by a table."""
  states, actions, rewards = map(jnp.asarray, inputs)
  found = jax.nn.log_softmax(table)[states, actions]
  return Trajectory(
    states[..., None].astype(float),
    actions,
    rewards,
    jnp.ones_like(rewards),
    jax.lax.stop_gradient(found),
    found,
    (),
  )


MODEL = Model(lambda key, inputs: jnp.zeros((STATES, ACTIONS)), apply)


def expected(surrogate, estimate=EXACT, causality=1.0):
  """The surrogate, of which the mean is taken by enumeration.

  A trajectory counts as much as it is probable; that has no derivative, just
  as a trajectory that is sampled has none.
  """
  objective = surrogate_objective(surrogate, estimate, causality)

  def mean(outputs, chances):
    weights = chances * jnp.exp(jnp.sum(outputs.behaviour, axis=1))
    return objective(outputs, Weighted((), weights))

  return mean


def task(of: Process) -> Task:
  """Everything is known before adaptation and after it."""
  batch = Batch(*jax.tree.map(jnp.asarray, listed(of)))
  return Task(batch, batch)
