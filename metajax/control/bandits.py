r"""Bernoulli bandits, and the ways to play them that learn nothing from tasks.

A task is the chances of its arms, drawn uniformly; a trial is so many pulls.
What a policy may know of an arm are its successes and failures, and with a
uniform prior the chance of its next success has the mean

.. math::
  \hat p_a = \frac{s_a + 1}{s_a + f_a + 2}

A `BanditPolicy` is a function `(key, counts) -> arm`; `metajax.control.indices`
has those that plan.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.equality import by_value

__all__ = [
  'BanditPolicy',
  'BanditState',
  'BernoulliBandit',
  'Choices',
  'Counts',
  'at_random',
  'best_of',
  'greedy',
  'no_counts',
  'play',
  'regrets',
  'thompson_sampling',
  'upper_confidence_bound',
  'with_reward',
]


class Counts(NamedTuple):
  """What was seen of each arm."""

  successes: jax.Array  # [arms]
  failures: jax.Array  # [arms]


BanditPolicy = Callable[[jax.Array, Counts], jax.Array]


class BanditState(NamedTuple):
  """What a bandit remembers of an episode."""

  time: jax.Array  # pulls so far


class Choices(NamedTuple):
  """A space of actions."""

  n: int  # how many there are


class BernoulliBandit(NamedTuple):
  """An environment with the interface of gymnax; an episode is all its pulls.

  Its parameters are the chances of the arms, `[arms]`; an observation is a
  constant, as there is nothing to see but rewards.

  Raises:
    ValueError: when it is used, if it has fewer than 2 arms or no pulls.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> bandit, chances = BernoulliBandit(2, 10), jnp.array([0.0, 1.0])
    >>> key = jax.random.key(0)
    >>> _, state = bandit.reset(key, chances)
    >>> float(bandit.step(key, state, 1, chances)[2])
    1.0
  """

  arms: int = 5
  pulls: int = 10

  @property
  def name(self) -> str:
    """What it is called."""
    return 'bandit'

  def action_space(self, params: jax.Array | None = None) -> Choices:
    """One choice for each arm."""
    del params  # of all tasks alike
    return Choices(self.check().arms)

  @property
  def default_params(self) -> jax.Array:
    """Chances of arms that are all alike."""
    return jnp.full(self.check().arms, 0.5)

  def check(self) -> 'BernoulliBandit':
    """Itself.

    Raises:
      ValueError: if there is nothing to choose, or nothing to pull.
    """
    if _whole(self.arms) < 2:
      raise ValueError(
        f'a bandit needs 2 arms or more to choose from, got {self.arms!r}'
      )
    if _whole(self.pulls) < 1:
      raise ValueError(f'a trial needs 1 pull or more, got {self.pulls!r}')
    return self

  def sample(self, key: jax.Array) -> jax.Array:
    """The chances of a task, `[arms]`, uniform in [0, 1)."""
    return jax.random.uniform(key, (self.check().arms,))

  def reset(
    self, key: jax.Array, params: jax.Array | None = None
  ) -> tuple[jax.Array, BanditState]:
    """The first observation, and the state."""
    del key, params  # every episode begins alike
    self.check()
    return jnp.ones(1), BanditState(jnp.int32(0))

  def step(
    self, key: jax.Array, state: BanditState, action: Any, params: jax.Array
  ) -> tuple[jax.Array, BanditState, jax.Array, jax.Array, jax.Array, dict]:
    """Observation, state, reward, whether it ended, was cut off, and nothing.

    After the last pull the state is that of a new episode.
    """
    won = _successes(key, params)[action]
    time = state.time + 1
    ended = time >= self.pulls
    state = BanditState(jnp.where(ended, 0, time))
    reward = won.astype(params.dtype)
    return jnp.ones(1), state, reward, ended, jnp.array(False), {}


def _whole(number: Any) -> int:
  """The number, or one that is too small in place of what is none."""
  try:
    return -1 if isinstance(number, bool) else operator.index(number)
  except TypeError:
    return -1


def no_counts(arms: int) -> Counts:
  """What is known before the first pull."""
  zeros = jnp.zeros(arms, jnp.int32)
  return Counts(zeros, zeros)


def with_reward(counts: Counts, arm: Any, reward: Any) -> Counts:
  """What is known after one more pull."""
  won = jnp.asarray(reward > 0).astype(counts.successes.dtype)
  return Counts(
    counts.successes.at[arm].add(won), counts.failures.at[arm].add(1 - won)
  )


def play(
  policy: BanditPolicy, key: jax.Array, chances: jax.Array, pulls: int
) -> tuple[jax.Array, jax.Array]:
  """Plays one bandit.

  Args:
    policy: chooses the arms.
    key: of the rewards, which are those of any policy that pulls the same arm
      at the same time, and of the choices.
    chances: `[arms]`, of a success.
    pulls: how many.

  Returns:
    The arms that were pulled, and their rewards, `[pulls]` each.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> key, chances = jax.random.key(0), jnp.array([0.0, 1.0])
    >>> arms, rewards = play(thompson_sampling(), key, chances, 100)
    >>> float(rewards.sum()) > 90
    True
  """

  def pull(
    counts: Counts, keys: jax.Array
  ) -> tuple[Counts, tuple[jax.Array, jax.Array]]:
    arm = policy(keys[0], counts)
    reward = _successes(keys[1], chances)[arm].astype(chances.dtype)
    return with_reward(counts, arm, reward), (arm, reward)

  choices, rewards = jax.random.split(key)
  keys = jnp.stack(
    [jax.random.split(choices, pulls), jax.random.split(rewards, pulls)], 1
  )
  return jax.lax.scan(pull, no_counts(len(chances)), keys)[1]


def regrets(chances: jax.Array, arms: jax.Array) -> jax.Array:
  """The best chance of a bandit less that of the arms that were pulled.

  Args:
    chances: `[..., arms]`.
    arms: `[..., pulls]`.

  Returns:
    `[..., pulls]`.

  Example:
    >>> import jax.numpy as jnp
    >>> regrets(jnp.array([0.25, 0.75]), jnp.array([0, 1, 0])).tolist()
    [0.5, 0.0, 0.5]
  """
  best = jnp.max(chances, axis=-1, keepdims=True)
  return best - jnp.take_along_axis(chances, arms, axis=-1)


def _successes(key: jax.Array, chances: jax.Array) -> jax.Array:
  """Whether a pull of each arm would be one: the same for all who pull it."""
  return jax.random.uniform(key, chances.shape, chances.dtype) < chances


def best_of(key: jax.Array, scores: jax.Array) -> jax.Array:
  """The arm of the highest score; at random among several."""
  best = scores >= jnp.max(scores)
  return jax.random.categorical(key, jnp.where(best, 0.0, -jnp.inf))


@by_value
def at_random() -> BanditPolicy:
  """All arms with the same chance, whatever was seen."""
  return lambda key, counts: jax.random.randint(
    key, (), 0, len(counts.successes)
  )


@by_value
def greedy() -> BanditPolicy:
  r"""The arm of the highest mean :math:`\hat p_a`."""

  def choose(key: jax.Array, counts: Counts) -> jax.Array:
    pulled = counts.successes + counts.failures
    return best_of(key, (counts.successes + 1) / (pulled + 2))

  return choose


@by_value
def upper_confidence_bound(scale: float = 2.0) -> BanditPolicy:
  r"""UCB1: every arm once, and then the highest of the upper bounds.

  .. math::
    \frac{s_a}{n_a} + \sqrt{\frac{c \ln t}{n_a}}

  Args:
    scale: c, above 0; theory has 2, which explores much in a short trial.

  Raises:
    ValueError: if `scale` is not above 0.

  References:
    Auer, Cesa-Bianchi, Fischer (2002), Finite-time analysis of the multiarmed
    bandit problem.
  """
  if not scale > 0:
    raise ValueError(f'scale must be above 0, got {scale}')

  def choose(key: jax.Array, counts: Counts) -> jax.Array:
    pulled = counts.successes + counts.failures
    at_least = jnp.maximum(pulled, 1)
    time = jnp.maximum(jnp.sum(pulled), 1)
    bound = counts.successes / at_least + jnp.sqrt(
      scale * jnp.log(time) / at_least
    )
    return best_of(key, jnp.where(pulled == 0, jnp.inf, bound))

  return choose


@by_value
def thompson_sampling() -> BanditPolicy:
  """The best arm of a bandit that is drawn from what is known.

  References:
    Thompson (1933), On the likelihood that one unknown probability exceeds
    another in view of the evidence of two samples.
  """

  def choose(key: jax.Array, counts: Counts) -> jax.Array:
    drawn = jax.random.beta(key, counts.successes + 1.0, counts.failures + 1.0)
    return jnp.argmax(drawn)

  return choose
