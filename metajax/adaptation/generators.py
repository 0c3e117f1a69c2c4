"""Generators of more support examples, in the space of features."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model, PyTree
from metajax.models import from_linen
from metajax.precision import drawn_like_inputs

__all__ = ['Generator', 'change_of']


class Generator(NamedTuple):
  """Makes new examples of the classes of given ones."""

  init: Callable[[jax.Array, jax.Array], PyTree]  # of a key and features
  # Maps a key, parameters and features [examples, features] to as many more.
  generate: Callable[[jax.Array, PyTree, jax.Array], jax.Array]


class _Change(nn.Module):
  """Features with a learned change that depends on them and on more."""

  width: int

  @nn.compact
  def __call__(self, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
    features, more = inputs
    hidden = jnp.concatenate([features, more], axis=1)
    for _ in range(2):
      hidden = nn.relu(nn.Dense(self.width)(hidden))
    change = nn.Dense(
      features.shape[-1],
      kernel_init=nn.initializers.variance_scaling(
        0.01, 'fan_avg', 'truncated_normal'
      ),
    )(hidden)
    return features + change


def change_of(width: int) -> Model:
  """A network from `(features, more)` to features: at first hardly a change.

  Args:
    width: of its two hidden layers.

  Returns:
    A model of two arrays `[examples, ...]`.
  """
  return drawn_like_inputs(from_linen(_Change(width)))
