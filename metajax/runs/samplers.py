"""Samplers of tasks as arguments of compiled programs."""

import jax

from metajax.base import SampleTask

__all__ = ['as_argument']


def as_argument(sample: SampleTask) -> jax.tree_util.Partial:
  """A sampler that can be passed into jit, its arrays as arguments."""
  if isinstance(sample, jax.tree_util.Partial):
    return sample
  return jax.tree_util.Partial(sample)
