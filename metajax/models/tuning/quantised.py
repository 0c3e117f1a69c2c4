"""Weights of 8 bits, for kernels that do not adapt."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.inner import partition
from metajax.models.tuning._trees import kernels, learned_dtype, replaced
from metajax.models.tuning.kernels import Quantised

__all__ = ['quantise']


def quantise(
  params: PyTree, select: str | partition.Select = 'kernel$'
) -> PyTree:
  r"""Rounds kernels to 8-bit integers, with a factor for each output.

  .. math:: q = \mathrm{round}(W / s), \qquad s_j = \max_i |W_{ij}| / 127

  so that no weight is off by more than half of :math:`s`. Low-rank adapters
  beside such kernels are floating-point (`lora`).

  Args:
    params: of a model that computes `inputs @ kernel`.
    select: a pattern or a predicate on the paths of kernels.

  Returns:
    The parameters, with a `Quantised` in the place of each kernel selected.

  Raises:
    ValueError: if nothing is selected, what is no kernel of a product, what is
      quantised already, or weights that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> params = {'kernel': jnp.array([[1.27], [0.5]]), 'bias': jnp.zeros(1)}
    >>> quantise(params)['kernel'].values.tolist()
    [[127], [50]]
  """
  found = kernels(params, select)
  already = [x for x, leaf in found.items() if isinstance(leaf, Quantised)]
  if already:
    raise ValueError(f'{partition.list_paths(already, 4)}: quantised already')
  return replaced(
    params, {path: partial(_quantised, path=path) for path in found}
  )


def _quantised(kernel: Any, path: str) -> Quantised:
  dtype = learned_dtype(jnp.result_type(kernel))
  kernel = jnp.asarray(kernel, dtype)
  largest = jnp.max(jnp.abs(kernel), -2, keepdims=True)
  if not isinstance(largest, jax.core.Tracer) and not jnp.all(
    jnp.isfinite(largest)
  ):
    raise ValueError(f'{path} has weights that are not finite')
  # A column of zeros is zero under any factor.
  scale = jnp.where(largest > 0, largest / 127, jnp.ones_like(largest))
  values = jnp.clip(jnp.round(kernel / scale), -127, 127).astype(jnp.int8)
  return Quantised(values, jnp.squeeze(scale, -2))
