"""Networks of attention, over sequences and over sets."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import EXCLUDED, Model
from metajax.models.adapters import network
from metajax.models.layers import Embedding, LayerNorm

__all__ = ['transformer']


def _alike(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
  """Draws queries equal to keys: what is alike attends to each other."""
  drawn = nn.initializers.lecun_normal()(key, shape, dtype)
  query, _, value = jnp.split(drawn, 3, axis=-1)
  return jnp.concatenate([query, query, value], axis=-1)


class _TransformerBlock(nn.Module):
  heads: int
  causal: bool
  alike: bool = False

  @nn.compact
  def __call__(
    self, inputs: jax.Array, real: jax.Array | None = None
  ) -> jax.Array:
    *_, length, width = inputs.shape
    triple = nn.Dense(
      3 * width,
      kernel_init=_alike if self.alike else nn.linear.default_kernel_init,
      name='attention_in',
    )(LayerNorm()(inputs))
    query, key, value = jnp.moveaxis(
      triple.reshape(*triple.shape[:-1], 3, self.heads, -1), -3, 0
    )
    scores = jnp.einsum('...qhd,...khd->...hqk', query, key)
    scores = scores / (width // self.heads) ** 0.5
    if real is not None:
      scores = jnp.where(jnp.expand_dims(real, (-3, -2)), scores, EXCLUDED)
    if self.causal:
      seen = jnp.tril(jnp.ones((length, length), bool))
      scores = jnp.where(
        jnp.expand_dims(seen, tuple(range(scores.ndim - 2))), scores, EXCLUDED
      )
    mixed = jnp.einsum('...hqk,...khd->...qhd', nn.softmax(scores), value)
    mixed = mixed.reshape(*mixed.shape[:-2], width)
    hidden = inputs + nn.Dense(width, name='attention_out')(mixed)
    wide = nn.gelu(nn.Dense(4 * width, name='wide')(LayerNorm()(hidden)))
    return hidden + nn.Dense(width, name='narrow')(wide)


class _Transformer(nn.Module):
  num_outputs: int | None
  vocabulary: int | None
  width: int
  depth: int
  heads: int
  causal: bool
  pool: str
  rematerialise: bool
  positions: bool
  alike: bool

  @nn.compact
  def __call__(
    self, inputs: jax.Array | tuple[jax.Array, jax.Array]
  ) -> jax.Array:
    real = None
    if isinstance(inputs, tuple):
      inputs, real = inputs
    if self.vocabulary is None:
      hidden = nn.Dense(self.width, name='inputs')(inputs)
    else:
      hidden = Embedding(self.vocabulary, self.width, name='inputs')(inputs)
    if self.positions:
      positions = self.param(
        'positions', nn.initializers.normal(0.02), hidden.shape[1:]
      )
      hidden = hidden + positions[None]
    block = _TransformerBlock
    if self.rematerialise:
      block = nn.remat(block)
    for index in range(self.depth):
      hidden = block(
        self.heads, self.causal, self.alike, name=f'block_{index}'
      )(hidden, real)
    hidden = LayerNorm()(hidden)
    if self.pool == 'mean':
      hidden = jnp.mean(hidden, axis=1)
    if self.num_outputs is None:
      return hidden
    return nn.Dense(self.num_outputs, name='head')(hidden)


def transformer(
  num_outputs: int | None,
  *,
  vocabulary: int | None = None,
  width: int = 256,
  depth: int = 4,
  heads: int = 4,
  causal: bool = False,
  pool: Literal['mean', 'none'] = 'mean',
  rematerialise: bool = False,
  positions: bool = True,
  alike: bool = False,
) -> Model:
  """A small transformer that normalises before each layer.

  Args:
    num_outputs: of the head; `None` leaves it out (an embedding).
    vocabulary: number of tokens; `None` if inputs are vectors already.
    width: of the residual stream; the layers between are four times as wide.
    depth: number of blocks.
    heads: of the attention; they divide the width.
    causal: whether a position sees only itself and those before.
    pool: outputs for the mean over positions, or for every position.
    rematerialise: compute a block again on the way back instead of keeping
      what is inside.
    positions: whether every position has a vector of its own. Without them it
      is a function of sets, of any length.
    alike: whether queries of the attention start equal to keys, so that
      positions attend to what is like them from the start.

  Returns:
    A model of integer inputs `[examples, length]`, or of `[examples, length,
    channels]` without a vocabulary; with `positions` the length is that of
    initialisation. Inputs may be a pair: these, and booleans `[examples,
    length]`, without which a position is not attended to.

  Raises:
    ValueError: if `heads` do not divide `width`, or `pool` is unknown.

  References:
    Vaswani et al. (2017), Attention is all you need.
    Xiong et al. (2020), On layer normalization in the transformer architecture.
  """
  if width % heads:
    raise ValueError(f'{heads} heads do not divide a width of {width}')
  if pool not in ('mean', 'none'):
    raise ValueError(f"pool must be 'mean' or 'none', got {pool!r}")
  return network(
    _Transformer(
      num_outputs,
      vocabulary,
      width,
      depth,
      heads,
      causal,
      pool,
      rematerialise,
      positions,
      alike,
    )
  )
