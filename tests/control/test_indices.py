"""Optimal play and indices, in float64, against what can be enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.control import bandits, indices


def best_of_all_policies(arms, pulls):
  """The best of all deterministic policies, each by all that may happen.

  A policy is an arm for every history; the chance of a history is an integral
  over uniform chances, a product of beta functions.
  """

  def value(history, counts):
    if len(history) == pulls:
      return 0.0
    found = []
    for arm in range(arms):
      won, lost = counts[arm]
      chance = (won + 1) / (won + lost + 2)
      worth = 0.0
      for reward in (0, 1):
        after = list(counts)
        after[arm] = (won + reward, lost + 1 - reward)
        share = chance if reward else 1 - chance
        worth += share * (reward + value((*history, (arm, reward)), after))
      found.append(worth)
    return max(found)

  return value((), [(0, 0)] * arms)


@pytest.mark.parametrize(('arms', 'pulls'), [(2, 3), (2, 4), (3, 4)])
def test_planning_is_the_best_of_all_policies(arms, pulls):
  exact = best_of_all_policies(arms, pulls)
  assert abs(indices.optimal_return(arms, pulls) - exact) < 1e-14


def expected_return(policy, arms, pulls):
  """The mean return of a policy that does not draw, by all that may happen."""
  choose = jax.jit(policy)

  def value(won, lost, remaining):
    if not remaining:
      return 0.0
    counts = bandits.Counts(jnp.array(won), jnp.array(lost))
    arm = int(choose(jax.random.key(0), counts))
    chance = (won[arm] + 1) / (won[arm] + lost[arm] + 2)
    more = [list(won), list(lost)]
    more[0][arm] += 1
    more[1][arm] += 1
    return chance * (1 + value(more[0], lost, remaining - 1)) + (
      1 - chance
    ) * value(won, more[1], remaining - 1)

  return value([0] * arms, [0] * arms, pulls)


def test_the_optimal_policy_earns_the_optimal_return():
  """Also where it draws among arms that are worth the same."""
  with jax.enable_x64():
    earned = expected_return(indices.optimal_policy(3, 5), 3, 5)
  assert abs(earned - indices.optimal_return(3, 5)) < 1e-12


def test_the_index_policy_is_nearly_optimal():
  with jax.enable_x64():
    earned = expected_return(indices.index_policy(6), 2, 6)
  best = indices.optimal_return(2, 6)
  assert best - 0.01 < earned <= best + 1e-12


def test_indices_are_those_of_the_published_table():
  """Gittins, Glazebrook, Weber (2011), discount 0.9, uniform prior."""
  published = [
    [0.7029, 0.8001, 0.8452],
    [0.5001, 0.6346, 0.7072],
    [0.3796, 0.5163, 0.6010],
  ]
  found = [
    [indices.gittins_index(won, lost, 0.9, 300) for won in range(3)]
    for lost in range(3)
  ]
  np.testing.assert_allclose(found, published, atol=6e-5)


def index_by_bisection(won, lost, remaining):
  """The same definition, by recursion over one arm and a search."""

  def worth(sure, won, lost, remaining):
    if not remaining:
      return 0.0
    mean = (won + 1) / (won + lost + 2)
    going_on = mean * (1 + worth(sure, won + 1, lost, remaining - 1)) + (
      1 - mean
    ) * worth(sure, won, lost + 1, remaining - 1)
    return max(sure * remaining, going_on)

  low, high = 0.0, 1.0
  while high - low > 1e-12:
    sure = (low + high) / 2
    if worth(sure, won, lost, remaining) > sure * remaining + 1e-13:
      low = sure
    else:
      high = sure
  return low


@pytest.mark.parametrize(
  ('won', 'lost', 'remaining'), [(0, 0, 2), (0, 0, 5), (2, 1, 4), (0, 3, 3)]
)
def test_indices_where_pulls_remain_are_those_of_a_search(won, lost, remaining):
  table = indices.indices_of_remaining(won + lost + remaining)
  exact = index_by_bisection(won, lost, remaining)
  assert abs(table[remaining, won + lost, won] - exact) < 1e-5


def test_an_arm_is_worth_more_where_more_pulls_remain():
  table = indices.indices_of_remaining(20)
  at_first = table[1:, 0, 0]
  assert at_first[0] == 0.5
  assert (np.diff(at_first) > 0).all()


def test_what_was_measured_is_what_can_be_expected():
  """Of 5 arms and 10 pulls: optimum 6.66, as published for Gittins' index."""
  assert round(indices.optimal_return(5, 10), 4) == 6.66


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: indices.optimal_return(10, 100), 'too many counts to plan over'),
    (lambda: indices.gittins_index(-1, 0, 0.9), 'counts are 0 or more'),
    (lambda: indices.gittins_index(np.nan, 0, 0.9), 'counts are 0 or more'),
    (lambda: indices.gittins_index(0, 0, 0.9, 0), 'horizon must be 1 or more'),
    (lambda: indices.optimal_return(0, 3), 'arms and pulls are 1 or more'),
    (lambda: indices.optimal_policy(2, -1), 'arms and pulls are 1 or more'),
    (lambda: indices.gittins_index(0, 0, 1.0), 'between 0 and 1, got 1.0'),
    (lambda: indices.indices_of_remaining(0), 'from 1 to 200, got 0'),
  ],
)
def test_what_cannot_be_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_two_pulls_are_worth_what_a_hand_finds():
  """1/2 first, and then 2/3 after a success, another arm after a failure."""
  assert best_of_all_policies(2, 2) == pytest.approx(0.5 + 0.5 * (2 / 3 + 0.5))
