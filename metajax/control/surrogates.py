r"""Surrogates: losses of rollouts whose derivatives are those of the return.

What is adapted changes what is played, so a loss of a rollout has to carry how
probable it was. With :math:`\square(x) = e^{x - \bot(x)}`, which is 1 and has
the derivative of x, and the bar for what is held constant:

.. math::
  \text{dice}&: \sum_t \big(\square(w_t) - \square(w_t - \ell_t)\big) A_t,
    \quad w_t = \lambda w_{t-1} + \ell_t, \quad \ell_t = \log \pi(a_t | s_t) \\
  \text{lvc}&: \sum_t \square(\ell_t) A_t \\
  \text{likelihood_ratio}&: \sum_t e^{\ell_t - \bar\ell_t} A_t \\
  \text{clipped}&: \sum_t \min\big(e^{\ell_t - \bar\ell_t} A_t,\,
    \mathrm{clip}(e^{\ell_t - \bar\ell_t}, 1 \pm \epsilon) A_t\big) \\
  \text{naive}&: \sum_t \ell_t A_t

All have the gradient of the return. The second derivative is right for `dice`
with λ = 1 and whole returns; `lvc`, which is λ = 0, drops what one step's
choice does to the derivative of another's, for less variance; that of `naive`
is wrong, as it lacks the square of the gradient of a step, so meta-gradients by
it are no better than those of first order.

The last three divide by how probable an action was when it was done, so they
may be asked again on the same data; `dice` and `lvc` may not.

References:
  Foerster et al. (2018), DiCE: the infinitely differentiable Monte Carlo
  estimator, https://arxiv.org/abs/1802.05098
  Farquhar, Whiteson, Foerster (2019), Loaded DiCE,
  https://arxiv.org/abs/1909.10549
  Rothfuss et al. (2019), ProMP: proximal meta-policy search,
  https://arxiv.org/abs/1810.06784
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Metrics, Objective, PyTree, values_and_weights
from metajax.control.advantages import Advantages
from metajax.control.rollouts import Trajectory
from metajax.equality import by_value
from metajax.objectives import weighted_mean

__all__ = ['SURROGATES', 'Surrogate', 'able', 'surrogate_objective']

_CLIP = 0.2


class Surrogate(NamedTuple):
  """A row of the table: what a step contributes, and what it is good for."""

  # (trajectory, advantages, causality) -> [episodes, steps], to be maximised
  contribution: Callable[[Trajectory, jax.Array, float], jax.Array]
  # Whether its second derivative is that of the return, or a part of it.
  second_order: bool
  # Whether it may be asked again on data that other parameters have played.
  repeats: bool


def _one(exponent: jax.Array) -> jax.Array:
  """1, with the derivatives of the exponential of what is given."""
  return jnp.exp(exponent - jax.lax.stop_gradient(exponent))


def _dice(
  trajectory: Trajectory, advantages: jax.Array, causality: float
) -> jax.Array:
  each = trajectory.log_probabilities * trajectory.active

  def add(before: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = causality * before + now
    return total, total

  if causality == 1:
    so_far = jnp.cumsum(each, axis=1)
  elif causality == 0:
    so_far = each
  else:
    _, scanned = jax.lax.scan(add, jnp.zeros_like(each[:, 0]), each.T)
    so_far = scanned.T
  return (_one(so_far) - _one(so_far - each)) * advantages


def _lvc(
  trajectory: Trajectory, advantages: jax.Array, causality: float
) -> jax.Array:
  del causality  # of this there is none
  return _one(trajectory.log_probabilities) * advantages


def _ratio(trajectory: Trajectory) -> jax.Array:
  return jnp.exp(trajectory.log_probabilities - trajectory.behaviour)


def _likelihood_ratio(
  trajectory: Trajectory, advantages: jax.Array, causality: float
) -> jax.Array:
  del causality
  return _ratio(trajectory) * advantages


def _clipped(
  trajectory: Trajectory, advantages: jax.Array, causality: float
) -> jax.Array:
  del causality
  ratio = _ratio(trajectory)
  near = jnp.clip(ratio, 1 - _CLIP, 1 + _CLIP)
  return jnp.minimum(ratio * advantages, near * advantages)


def _naive(
  trajectory: Trajectory, advantages: jax.Array, causality: float
) -> jax.Array:
  del causality
  return trajectory.log_probabilities * advantages


SURROGATES: dict[str, Surrogate] = {
  'dice': Surrogate(_dice, second_order=True, repeats=False),
  'lvc': Surrogate(_lvc, second_order=True, repeats=False),
  'likelihood_ratio': Surrogate(
    _likelihood_ratio, second_order=True, repeats=True
  ),
  'clipped': Surrogate(_clipped, second_order=True, repeats=True),
  'naive': Surrogate(_naive, second_order=False, repeats=False),
}


def able(name: str, what: str, has: Callable[[Surrogate], bool]) -> Surrogate:
  """The surrogate of a name, for something that not all can be used for.

  Raises:
    ValueError: if there is no such surrogate, or it cannot be used so; those
      that can are named.

  Example:
    >>> able('lvc', 'PPO', lambda surrogate: surrogate.repeats)
    Traceback (most recent call last):
      ...
    ValueError: PPO cannot use the surrogate 'lvc'; likelihood_ratio, clipped can
  """  # noqa: E501
  found = SURROGATES.get(name)
  if found is not None and has(found):
    return found
  names = ', '.join(other for other, each in SURROGATES.items() if has(each))
  if found is None:
    raise ValueError(f'there is no surrogate {name!r}; there are {names}')
  raise ValueError(f'{what} cannot use the surrogate {name!r}; {names} can')


@by_value
def surrogate_objective(
  surrogate: str, advantages: Advantages, causality: float = 1.0
) -> Objective:
  r"""An objective of rollouts, inner and outer.

  .. math:: L = -\frac{1}{n T} \sum_{i,t} \left(r_{it} + c_{it} - \bar c_{it}
    \right)

  with c what the surrogate makes of a step and the bar for what it makes of it
  by the policy that played it. So the value is minus the mean reward of a step,
  for estimators that have nothing else; its derivatives are those of the
  surrogate; and rates do not depend on how many steps an episode has.

  Args:
    surrogate: a name of `SURROGATES`.
    advantages: made by `metajax.control.advantages`.
    causality: the discount λ of how far one choice bears on the derivative of
      later ones, from 0 to 1; of `dice` alone.

  Returns:
    An objective of outputs `Trajectory`; its metric is `return`, the mean sum
    of rewards of an episode. Targets are `()`, or `Weighted` ones with a weight
    for each episode.

  Raises:
    ValueError: if there is no such surrogate, or `causality` is not from 0 to 1
      or has no meaning for it.

  Example:
    >>> from metajax.control.advantages import advantages
    >>> objective = surrogate_objective('dice', advantages('linear'))
  """
  row = able(surrogate, '', lambda each: True)
  if not 0 <= causality <= 1:
    raise ValueError(f'causality must be from 0 to 1, got {causality}')
  if causality != 1 and surrogate != 'dice':
    raise ValueError(
      f'causality is {causality}, but only dice discounts it; leave it at 1'
      f' for {surrogate}'
    )

  def objective(
    outputs: Trajectory, targets: PyTree
  ) -> tuple[jax.Array, Metrics]:
    _, weights = values_and_weights(targets)
    estimated = advantages(outputs, weights)
    each = row.contribution(outputs, estimated, causality)
    played = outputs._replace(log_probabilities=outputs.behaviour)
    usual = row.contribution(played, estimated, causality)
    each = (each - jax.lax.stop_gradient(usual)) * outputs.active
    rewards = jax.lax.stop_gradient(outputs.rewards)
    loss = -weighted_mean(jnp.mean(rewards + each, axis=1), weights)
    total = jnp.sum(outputs.rewards, axis=1)
    return loss, {'return': weighted_mean(total, weights)}

  return objective
