r"""Bernoulli bandits played as well as can be: planning, and Gittins' index.

The most that any policy can expect of a short trial follows from going
backwards over all counts :math:`n`,

.. math::
  V(n) = \max_a \; \hat p_a (1 + V(n + \text{success of } a))
    + (1 - \hat p_a) V(n + \text{failure of } a)

in which arms that were seen alike are one. Where there are too many counts, an
index for each arm by itself comes close: the sure reward per pull at which
going on with the arm, and stopping whenever that is better, is worth as much.
With discounted rewards for ever the policy of the highest index is the best
there is (Gittins); with as many pulls as remain it is nearly so.

All is computed on the host in float64; policies look it up.

References:
  Gittins (1979), Bandit processes and dynamic allocation indices.
  Kaufmann (2018), On Bayesian index policies for sequential resource
  allocation, https://arxiv.org/abs/1601.01190
"""

import math
import operator
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from metajax.control.bandits import BanditPolicy, Counts, best_of
from metajax.equality import by_value

__all__ = [
  'MOST_PULLS',
  'can_be_planned',
  'gittins_index',
  'index_policy',
  'indices_of_remaining',
  'optimal_policy',
  'optimal_return',
]

# Counts of a trial that can be planned in seconds.
_MOST_COUNTS = 300_000
MOST_PULLS = 200  # for which indices fit into memory


def can_be_planned(arms: int, pulls: int) -> bool:
  """Whether a trial has few enough counts to plan over.

  Example:
    >>> can_be_planned(5, 10), can_be_planned(10, 100)
    (True, False)
  """
  # Successes and failures of the arms, of so many pulls or fewer: as many as
  # there are, but for arms that were seen alike.
  counts = math.comb(pulls + 2 * arms, pulls) / math.factorial(arms)
  return counts <= _MOST_COUNTS and _codes(pulls) ** arms < 2**31


def optimal_return(arms: int, pulls: int) -> float:
  """The mean return of the best policy, over bandits of uniform chances.

  Args:
    arms: of the bandit.
    pulls: of a trial.

  Returns:
    Successes.

  Raises:
    ValueError: if there are no arms or pulls, or too many counts to plan over.

  Example:
    >>> round(optimal_return(2, 1), 3), round(optimal_return(2, 2), 4)
    (0.5, 1.0833)
  """
  return _plan(arms, pulls)[0]


@by_value
def optimal_policy(arms: int, pulls: int) -> BanditPolicy:
  """The policy of `optimal_return`, for that many arms and pulls.

  Raises:
    ValueError: if there are no arms or pulls, or too many counts to plan over.
  """
  keys, choices = map(jnp.asarray, _plan(arms, pulls)[1:])

  def choose(key: jax.Array, counts: Counts) -> jax.Array:
    codes = _code(counts.successes, counts.failures, pulls)
    place = jnp.searchsorted(keys, _number(jnp.sort(codes), pulls))
    return best_of(key, codes == choices[place])

  return choose


def _code(successes: jax.Array, failures: jax.Array, pulls: int) -> jax.Array:
  """A number for what was seen of an arm."""
  del pulls  # a triangle: it is below what `_codes` says
  total = successes + failures
  return total * (total + 1) // 2 + successes


def _codes(pulls: int) -> int:
  """How many codes there are after so many pulls."""
  return (pulls + 1) * (pulls + 2) // 2


def _number(codes: jax.Array, pulls: int) -> jax.Array:
  """A number for sorted codes of all arms."""
  number = jnp.zeros((), jnp.int32)
  for place in range(codes.shape[-1]):
    number = number * _codes(pulls) + codes[place].astype(jnp.int32)
  return number


@lru_cache(maxsize=8)
def _plan(arms: int, pulls: int) -> tuple[float, np.ndarray, np.ndarray]:
  """The value, and for the number of each count the code of the best arm."""
  if operator.index(arms) < 1 or operator.index(pulls) < 1:
    raise ValueError(f'arms and pulls are 1 or more, got {arms} and {pulls}')
  if not can_be_planned(arms, pulls):
    raise ValueError(
      f'a trial of {pulls} pulls of {arms} arms has too many counts to plan'
      ' over; take the index_policy, or fewer of one of them'
    )
  values = dict[tuple[int, ...], float]()
  best = dict[tuple[int, ...], int]()
  seen = [
    (total, won) for total in range(pulls + 1) for won in range(total + 1)
  ]

  def value(codes: tuple[int, ...], remaining: int) -> float:
    if remaining == 0:
      return 0.0
    if codes in values:
      return values[codes]
    found = -1.0
    for place in range(arms):
      if place and codes[place] == codes[place - 1]:
        continue  # an arm that was seen alike
      total, won = seen[codes[place]]
      chance = (won + 1) / (total + 2)
      failed = codes[place] + total + 1  # one row further down the triangle
      rest = codes[:place], codes[place + 1 :]
      after = [
        value(tuple(sorted((*rest[0], code, *rest[1]))), remaining - 1)
        for code in (failed, failed + 1)
      ]
      worth = chance * (1 + after[1]) + (1 - chance) * after[0]
      if worth > found + 1e-12:
        found, best[codes] = worth, codes[place]
    values[codes] = found
    return found

  most = value((0,) * arms, pulls)
  base = _codes(pulls)
  numbers = [sum(c * base**i for i, c in enumerate(k[::-1])) for k in best]
  order = np.argsort(numbers)
  choices = np.array(list(best.values()), np.int32)
  return most, np.array(numbers, np.int32)[order], choices[order]


def gittins_index(
  successes: int, failures: int, discount: float, horizon: int = 1000
) -> float:
  r"""Gittins' index of an arm with a prior that is uniform.

  .. math::
    \nu = \sup_{\tau \ge 1} \frac{E \sum_{t < \tau} \gamma^t r_t}
      {E \sum_{t < \tau} \gamma^t}

  Args:
    successes: of the arm.
    failures: of the arm.
    discount: of a pull, in (0, 1).
    horizon: pulls after which an arm is taken to be known.

  Returns:
    The index, in [0, 1].

  Raises:
    ValueError: if a count is negative, or the discount not between 0 and 1.

  Example:
    >>> round(gittins_index(0, 0, 0.9), 4)
    0.7029
  """
  if not (successes >= 0 and failures >= 0):
    raise ValueError(f'counts are 0 or more, got {successes} and {failures}')
  if operator.index(horizon) < 1:
    raise ValueError(f'horizon must be 1 or more, got {horizon}')
  if not 0 < discount < 1:
    raise ValueError(f'discount must be between 0 and 1, got {discount}')
  low, high = 0.0, 1.0
  while high - low > 1e-9:
    sure = (low + high) / 2
    if _worth_going_on(successes, failures, discount, horizon, sure):
      low = sure
    else:
      high = sure
  return (low + high) / 2


def _worth_going_on(
  successes: int, failures: int, discount: float, horizon: int, sure: float
) -> bool:
  """Whether an arm is worth more than a sure reward per pull for ever."""
  forever = sure / (1 - discount)
  rows = np.arange(horizon + 1)
  mean = (successes + rows + 1) / (successes + failures + horizon + 2)
  value = np.maximum(forever, mean / (1 - discount))
  going_on = value[0]
  for total in range(horizon - 1, -1, -1):
    won = rows[: total + 1]
    mean = (successes + won + 1) / (successes + failures + total + 2)
    going_on = (
      mean * (1 + discount * value[1 : total + 2])
      + (1 - mean) * discount * value[: total + 1]
    )
    value = np.maximum(forever, going_on)
  return bool(going_on[0] > forever)


@lru_cache(maxsize=8)
def indices_of_remaining(pulls: int, grid: int = 400) -> np.ndarray:
  r"""The indices of an arm where so many pulls remain.

  .. math::
    \nu_r(s, f) = \sup_{1 \le \tau \le r} \frac{E \sum_{t < \tau} r_t}{E \tau}

  Args:
    pulls: of a whole trial.
    grid: sure rewards that are tried, between which is interpolated.

  Returns:
    `[pulls + 1, pulls + 1, pulls + 1]`: by pulls that remain, pulls of the arm
    before, and successes among these; 0 where there is no such count.

  Raises:
    ValueError: if `pulls` is below 1, or above 200, which takes much memory.

  Example:
    >>> indices = indices_of_remaining(2)
    >>> float(indices[1, 0, 0]), round(float(indices[2, 0, 0]), 4)
    (0.5, 0.5556)
  """
  if not 1 <= pulls <= MOST_PULLS:
    raise ValueError(f'pulls must be from 1 to {MOST_PULLS}, got {pulls}')
  total = np.arange(pulls + 1)[:, None]
  won = np.arange(pulls + 1)[None]
  mean = np.where(won <= total, (won + 1) / (total + 2), 0.0)
  sures = np.linspace(0.0, 1.0, grid + 1)
  value = np.zeros((len(sures), *mean.shape))
  indices = np.zeros((pulls + 1, *mean.shape))
  for remaining in range(1, pulls + 1):
    size = pulls + 1 - remaining  # pulls of the arm before, at most
    part = slice(0, size)
    known = mean[part, part]
    after = value[:, 1 : size + 1]
    going_on = (
      known * (1 + after[:, :, 1 : size + 1])
      + (1 - known) * (after[:, :, part])
    )
    stopping = sures[:, None, None] * remaining
    more = going_on - stopping  # falls as the sure reward rises
    last = np.clip((more > 0).sum(0) - 1, 0, grid - 1)
    above = np.take_along_axis(more, last[None], 0)[0]
    below = np.take_along_axis(more, last[None] + 1, 0)[0]
    share = above / np.maximum(above - below, 1e-300)
    found = (last + np.clip(share, 0, 1)) / grid
    indices[remaining, part, part] = np.where(
      won[:, part] <= total[part], found, 0.0
    )
    value = np.maximum(going_on, stopping)
  return indices


@by_value
def index_policy(pulls: int) -> BanditPolicy:
  """The arm of the highest index where so many pulls remain.

  Args:
    pulls: of a whole trial.

  Raises:
    ValueError: if `pulls` is below 1, or above 200.
  """
  table = jnp.asarray(indices_of_remaining(pulls))

  def choose(key: jax.Array, counts: Counts) -> jax.Array:
    pulled = counts.successes + counts.failures
    remaining = pulls - jnp.sum(pulled)
    return best_of(key, table[remaining, pulled, counts.successes])

  return choose
