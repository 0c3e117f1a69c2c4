"""Bandits, and the ways to play them that learn nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.control import as_environment, bandits
from metajax.control.bandits import BernoulliBandit, Counts

KEY = jax.random.key(0)


def chosen(policy, successes, failures, draws=1000):
  """How often each arm is chosen."""
  counts = Counts(jnp.array(successes), jnp.array(failures))
  keys = jax.random.split(KEY, draws)
  arms = jax.vmap(lambda key: policy(key, counts))(keys)
  return np.bincount(arms, minlength=len(successes)) / draws


def test_an_episode_is_all_pulls_and_the_next_one_starts_anew():
  bandit = BernoulliBandit(2, 3)
  chances = jnp.array([0.0, 1.0])
  _, state = bandit.reset(KEY, chances)
  seen = []
  for action in (1, 0, 1, 1):
    _, state, reward, ended, _, _ = bandit.step(KEY, state, action, chances)
    seen.append((float(reward), bool(ended), int(state.time)))
  assert seen == [(1, False, 1), (0, False, 2), (1, True, 0), (1, False, 1)]


def test_greedy_takes_the_highest_mean_and_draws_among_equals():
  assert chosen(bandits.greedy(), [2, 0, 5], [0, 0, 5])[0] == 1
  shares = chosen(bandits.greedy(), [1, 0, 1], [0, 0, 0])
  assert shares[1] == 0
  assert abs(shares[0] - 0.5) < 0.06


def test_the_upper_bound_is_that_of_the_paper():
  successes, failures = np.array([6, 1, 3]), np.array([4, 1, 9])
  pulled = successes + failures
  bound = successes / pulled + np.sqrt(2 * np.log(pulled.sum()) / pulled)
  shares = chosen(bandits.upper_confidence_bound(), successes, failures, 10)
  assert shares[bound.argmax()] == 1
  # An arm that was never pulled comes first.
  assert chosen(bandits.upper_confidence_bound(), [9, 0], [0, 0], 10)[1] == 1


def test_thompson_draws_arms_by_the_chance_that_they_are_best():
  shares = chosen(bandits.thompson_sampling(), [1, 0], [0, 0], 4000)
  # P(Beta(2, 1) > Beta(1, 1)) = E[x] of Beta(2, 1)
  assert abs(shares[0] - 2 / 3) < 0.03


def test_rewards_are_those_of_the_arm_and_the_time_alone():
  chances = jnp.array([0.3, 0.6])
  play = jax.jit(
    lambda arm: bandits.play(
      lambda key, counts: arm, jax.random.key(1), chances, 2000
    )[1]
  )
  first, second = play(0), play(1)
  np.testing.assert_allclose([first.mean(), second.mean()], chances, atol=0.04)
  # Drawn with the same numbers: whatever is a success at 0.3 is one at 0.6
  # only where both arms are drawn alike, which they are not.
  assert 0.1 < float(jnp.mean(first * (1 - second))) < 0.2
  np.testing.assert_array_equal(first, play(0))


def test_counts_are_what_was_seen():
  counts = bandits.no_counts(3)
  for arm, reward in ((0, 1.0), (2, 0.0), (0, 0.0)):
    counts = bandits.with_reward(counts, arm, reward)
  assert counts.successes.tolist() == [1, 0, 0]
  assert counts.failures.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  'use',
  [
    as_environment,
    lambda bandit: bandit.sample(jax.random.key(0)),
    lambda bandit: bandit.reset(jax.random.key(0)),
    BernoulliBandit.action_space,
    lambda bandit: bandit.default_params,
    BernoulliBandit.check,
  ],
)
@pytest.mark.parametrize(
  ('arms', 'pulls', 'message'),
  [
    (1, 10, 'a bandit needs 2 arms or more to choose from, got 1'),
    (2.5, 10, 'needs 2 arms or more to choose from, got 2.5'),
    ('5', 10, "needs 2 arms or more to choose from, got '5'"),
    (5, 0, 'a trial needs 1 pull or more, got 0'),
    (5, -2, 'a trial needs 1 pull or more, got -2'),
    (5, 2.5, 'a trial needs 1 pull or more, got 2.5'),
  ],
)
def test_a_bandit_without_choices_or_pulls_is_of_no_use(
  use, arms, pulls, message
):
  with pytest.raises(ValueError, match=message):
    use(BernoulliBandit(arms, pulls))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: BernoulliBandit(1, 10).check(), 'needs 2 arms or more .* got 1'),
    (lambda: BernoulliBandit(5, 0).check(), 'needs 1 pull or more, got 0'),
    (lambda: bandits.upper_confidence_bound(0), 'must be above 0, got 0'),
  ],
)
def test_what_is_no_bandit_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
