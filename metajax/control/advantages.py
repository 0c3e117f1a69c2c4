r"""Advantages: by how much an action was better than what was expected.

.. math::
  \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t), \qquad
  A_t = \sum_{k \ge 0} (\gamma \lambda)^k \, \delta_{t+k}

The value V is fitted to the returns of the very episodes, anew in every task
and after every update, as a linear function of features of observation and
time. Advantages have no derivative.

References:
  Schulman et al. (2016), High-dimensional continuous control using generalized
  advantage estimation, https://arxiv.org/abs/1506.02438
  Duan et al. (2016), Benchmarking deep reinforcement learning for continuous
  control, https://arxiv.org/abs/1604.06778
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from metajax.adaptation.solved_head import solve_definite
from metajax.control.rollouts import Trajectory
from metajax.equality import by_value

__all__ = ['Advantages', 'Baseline', 'advantages', 'fitted_values', 'returns']

Baseline = Literal['linear', 'time', 'none']
# Of a trajectory and weights of its episodes, `[episodes, steps]`.
Advantages = Callable[[Trajectory, jax.Array | None], jax.Array]
_LEAST = 1e-8  # of a deviation that is divided by


def returns(rewards: jax.Array, discount: float = 1.0) -> jax.Array:
  """What comes from each step on, `[episodes, steps]`.

  Example:
    >>> import jax.numpy as jnp
    >>> returns(jnp.array([[1.0, 0.0, 2.0]]), 0.5).tolist()
    [[1.5, 1.0, 2.0]]
  """

  def back(later: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = now + discount * later
    return total, total

  _, found = jax.lax.scan(
    back, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True
  )
  return found.T


@by_value
def advantages(
  baseline: Baseline = 'linear',
  discount: float = 0.99,
  trace: float = 1.0,
  *,
  normalised: bool = True,
) -> Advantages:
  """Makes what estimates advantages.

  Args:
    baseline: of the value; `'linear'` in features of observations and time,
      `'time'`, the mean return from each step on, `'none'`.
    discount: gamma, of rewards to come.
    trace: lambda, of errors to come: 1 for whole returns, 0 for one step.
    normalised: whether they get mean 0 and deviation 1 over the episodes.

  Returns:
    A function of a trajectory and of weights of its episodes, or None.

  Raises:
    ValueError: if the baseline is unknown, or a number is not from 0 to 1.

  Example:
    >>> estimate = advantages('none', discount=1.0, normalised=False)
  """
  if baseline not in get_args(Baseline):
    raise ValueError(
      f'baseline must be one of {", ".join(get_args(Baseline))}; got'
      f' {baseline!r}'
    )
  for name, value in {'discount': discount, 'trace': trace}.items():
    if not 0 <= value <= 1:
      raise ValueError(f'{name} must be from 0 to 1, got {value}')

  def estimate(trajectory: Trajectory, weights: jax.Array | None) -> jax.Array:
    trajectory = jax.lax.stop_gradient(trajectory)
    values = _values(trajectory, baseline, discount, weights)
    # Whatever ends is worth nothing from there on.
    values = values * trajectory.active
    later = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    errors = trajectory.rewards + discount * later - values
    found = returns(errors, discount * trace)
    if normalised:
      found = _normalised(found, trajectory.active, weights)
    return jax.lax.stop_gradient(found * trajectory.active)

  return estimate


def _values(
  trajectory: Trajectory,
  baseline: Baseline,
  discount: float,
  weights: jax.Array | None,
) -> jax.Array:
  targets = returns(trajectory.rewards, discount)
  if baseline == 'none':
    return jnp.zeros_like(targets)
  if baseline == 'time':
    share = trajectory.active * _column(weights, targets)
    total = jnp.sum(share, axis=0)
    mean = jnp.sum(targets * share, axis=0) / jnp.maximum(total, _LEAST)
    return jnp.broadcast_to(mean, targets.shape)
  return fitted_values(
    trajectory.observations, targets, trajectory.active, weights
  )


def fitted_values(
  observations: jax.Array,
  targets: jax.Array,
  active: jax.Array,
  weights: jax.Array | None = None,
  ridge: float = 1e-5,
) -> jax.Array:
  r"""The linear baseline, by ridge regression.

  .. math:: V(s_t) = w^\top (s, s^2, \tau, \tau^2, \tau^3, 1), \qquad
    \tau = t / 100

  Args:
    observations: `[episodes, steps, ...]`, flattened and cut off at 10.
    targets: returns, `[episodes, steps]`.
    active: `[episodes, steps]`, the steps that count.
    weights: of episodes, `[episodes]`.
    ridge: of the regression. Of features whose sum of squares is s it is as
      much as rounding takes from s, if that is more: where observations are
      constant, or the time, there are features that say the same.

  Returns:
    Values, `[episodes, steps]`.

  Example:
    >>> import jax.numpy as jnp
    >>> seen = jnp.arange(6.0).reshape(2, 3, 1)
    >>> values = fitted_values(seen, 2 * seen[..., 0], jnp.ones((2, 3)))
    >>> values.round(1).tolist()
    [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]

  References:
    Duan et al. (2016), https://arxiv.org/abs/1604.06778
  """
  episodes, steps = targets.shape
  seen = observations.reshape(episodes, steps, -1).astype(targets.dtype)
  seen = jnp.clip(seen, -10, 10)
  time = jnp.broadcast_to(
    jnp.arange(steps, dtype=targets.dtype)[:, None] / 100, (episodes, steps, 1)
  )
  features = jnp.concatenate(
    [seen, seen**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1
  )
  share = (active * _column(weights, targets))[..., None]
  left = jnp.einsum('esi,esj->ij', features * share, features)
  right = jnp.einsum('esi,es->i', features * share, targets)
  # In units of each feature: of rounding, a unit in the last place of each
  # product is what elimination can bear.
  size = jnp.sqrt(jnp.maximum(jnp.diagonal(left), ridge))
  least = 4 * len(size) * jnp.finfo(left.dtype).eps
  whole = left / (size[:, None] * size[None])
  whole += jnp.diag(jnp.maximum(ridge / size**2, least))
  found: jax.Array = features @ (
    solve_definite(whole, (right / size)[:, None])[:, 0] / size
  )
  return found


def _column(weights: jax.Array | None, like: jax.Array) -> jax.Array:
  """Weights of episodes, for all of their steps."""
  if weights is None:
    return jnp.ones_like(like)
  return jnp.broadcast_to(weights[:, None], like.shape).astype(like.dtype)


def _normalised(
  found: jax.Array, active: jax.Array, weights: jax.Array | None
) -> jax.Array:
  share = active * _column(weights, found)
  share = share / jnp.maximum(jnp.sum(share), _LEAST)
  centred = found - jnp.sum(found * share)
  deviation = jnp.sqrt(jnp.sum(centred**2 * share))
  return centred / (deviation + _LEAST)
