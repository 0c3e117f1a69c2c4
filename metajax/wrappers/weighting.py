r"""Several losses at once, with weights that are learned.

.. math::
  \sum_i e^{-s_i} L_i + \tfrac{1}{2} s_i, \qquad s_i = \log \sigma_i^2

where :math:`\sigma_i` is the noise of task i: what cannot be predicted well
counts little. For a loss that stays as it is, :math:`s_i = \log 2 L_i` is the
optimum, where every term is a half.

References:
  Kendall, Gal, Cipolla (2018), Multi-task learning using uncertainty to weigh
  losses for scene geometry and semantics, https://arxiv.org/abs/1705.07115
  (equation 10, as cross-entropies enter it).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

__all__ = ['uncertainty_weighted']


def uncertainty_weighted(
  losses: Mapping[str, jax.Array], log_variances: Mapping[str, jax.Array]
) -> jax.Array:
  """The sum of losses, each weighted by its uncertainty.

  Args:
    losses: scalars by name.
    log_variances: the same of s, which are learned; weights are exp(-s).

  Returns:
    A scalar, which may be below zero.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = {'task': jnp.array(0.5), 'words': jnp.array(4.0)}
    >>> learned = {'task': jnp.array(0.0), 'words': jnp.log(8.0)}
    >>> float(uncertainty_weighted(losses, learned)) - 0.5 * float(jnp.log(8.0))
    1.0
  """
  return jnp.asarray(
    sum(
      jnp.exp(-log_variances[name]) * loss + log_variances[name] / 2
      for name, loss in losses.items()
    )
  )
