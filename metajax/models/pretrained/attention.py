"""Attention and linear layers of transformers, as functions of parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import EXCLUDED, PyTree
from metajax.models.pretrained.config import TransformerConfig

__all__ = ['along', 'attend', 'keys_and_values', 'linear', 'rotary_angles']


def linear(params: PyTree, inputs: jax.Array) -> jax.Array:
  """A linear layer; its kernel may be anything that multiplies from the right.

  .. math:: y = x W + b

  Args:
    params: `kernel` `[in, out]`, and `bias` `[out]` where there is one.
    inputs: `[..., in]`.

  Returns:
    `[..., out]`, of the type of `inputs`.
  """
  kernel = params['kernel']
  if isinstance(kernel, jax.Array | np.ndarray):
    kernel = jnp.asarray(kernel, inputs.dtype)
  outputs = (inputs @ kernel).astype(inputs.dtype)
  if 'bias' in params:
    outputs = outputs + along(params['bias'].astype(inputs.dtype), outputs)
  return outputs


def along(vector: jax.Array, outputs: jax.Array) -> jax.Array:
  """A vector along the last axis of what it is to be added to."""
  return jnp.expand_dims(vector, tuple(range(outputs.ndim - 1)))


def attend(
  config: TransformerConfig,
  params: PyTree,
  hidden: jax.Array,
  real: jax.Array,
  rotary: tuple[jax.Array, jax.Array] | None,
) -> jax.Array:
  r"""Attention; heads of queries may share a head of keys and values.

  .. math:: \mathrm{softmax}(Q K^\top / \sqrt d) V

  Args:
    config: of the transformer.
    params: `query`, `key`, `value` and `output`; a `prefix` if there is one.
    hidden: `[examples, length, width]`.
    real: `[examples, length]`, where something is that may be attended to.
    rotary: cosine and sine of the angles of positions, `[length, pairs]`.

  Returns:
    `[examples, length, width]`.
  """
  examples, length, _ = hidden.shape
  assert config.heads_of_keys is not None
  assert config.head_width is not None
  groups = config.heads // config.heads_of_keys
  shape = (examples, length, config.heads_of_keys)
  query = linear(params['query'], hidden)
  query = query.reshape(*shape, groups, config.head_width)
  if rotary is not None:
    query = _turn(query, rotary)
  key, value = keys_and_values(config, params, hidden, rotary)
  seen = real[:, None, :]
  if config.causal:
    seen = seen & jnp.tril(jnp.ones((length, length), bool))[None]
  if 'prefix' in params:
    prefix = params['prefix']
    key, value = _behind(prefix['key'], key), _behind(prefix['value'], value)
    ahead = ((0, 0), (0, 0), (len(prefix['key']), 0))
    seen = jnp.pad(seen, ahead, constant_values=True)
    if 'real' in prefix:  # of a text, whose end may be none
      seen = seen.at[:, :, : len(prefix['real'])].set(prefix['real'])
  wide = jnp.promote_types(hidden.dtype, jnp.float32)
  scores = jnp.einsum(
    'nqkgd,nskd->nkgqs', query, key, preferred_element_type=wide
  )
  scores = scores / math.sqrt(config.head_width)
  scores = jnp.where(seen[:, None, None], scores, EXCLUDED)
  weights = jax.nn.softmax(scores).astype(value.dtype)
  mixed = jnp.einsum('nkgqs,nskd->nqkgd', weights, value)
  return linear(params['output'], mixed.reshape(examples, length, -1))


def keys_and_values(
  config: TransformerConfig,
  params: PyTree,
  hidden: jax.Array,
  rotary: tuple[jax.Array, jax.Array] | None,
) -> tuple[jax.Array, jax.Array]:
  """Of each position, `[examples, length, heads of keys, head width]`."""
  assert config.heads_of_keys is not None
  assert config.head_width is not None
  shape = (*hidden.shape[:2], config.heads_of_keys, config.head_width)
  key = linear(params['key'], hidden).reshape(shape)
  value = linear(params['value'], hidden).reshape(shape)
  return key if rotary is None else _turn(key, rotary), value


def _behind(prefix: jax.Array, rest: jax.Array) -> jax.Array:
  """Puts a prefix, the same for all examples, in front of keys or values."""
  prefix = jnp.asarray(prefix, rest.dtype)[None]
  prefix = jnp.broadcast_to(prefix, (rest.shape[0], *prefix.shape[1:]))
  return jnp.concatenate([prefix, rest], axis=1)


def rotary_angles(
  config: TransformerConfig, positions: jax.Array
) -> tuple[jax.Array, jax.Array] | None:
  """Cosines and sines of the angle of every position, `[length, pairs]`."""
  if config.family != 'llama':
    return None
  assert config.head_width is not None
  exponents = jnp.arange(0, config.head_width, 2) / config.head_width
  frequencies = config.rotary_base**-exponents
  if config.rotary_scaling is not None:
    factor, low, high, before = config.rotary_scaling
    turns = before * frequencies / (2 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    frequencies = kept * frequencies + (1 - kept) * frequencies / factor
  angles = positions[:, None] * frequencies[None]
  return jnp.cos(angles), jnp.sin(angles)


def _turn(vectors: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns pairs of numbers, one of each half, by the angle of the position."""
  axes = (0, *range(2, vectors.ndim - 1))
  cosine, sine = (jnp.expand_dims(each, axes) for each in rotary)
  first, second = jnp.split(vectors.astype(cosine.dtype), 2, axis=-1)
  halves: list[Any] = [
    first * cosine - second * sine,
    second * cosine + first * sine,
  ]
  return jnp.concatenate(halves, axis=-1).astype(vectors.dtype)
