"""Layers that stay fast when every task has its own weights.

Their forward, backward and second-order passes are products, slices and
elementwise operations, which `vmap` over per-task weights only gives one more
batch dimension; see `metajax.models.windows`. `flax.linen.Dense` and the
attention of flax are such layers already.
"""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.models.convolution import convolve
from metajax.models.pooling import max_pool
from metajax.models.windows import (
  Lowering,
  Padding,
  geometry,
  pair,
  resolve,
)

__all__ = [
  'BatchNorm',
  'Conv',
  'Embedding',
  'LayerNorm',
  'SingleExample',
  'name_of',
]


def name_of(layer: nn.Module) -> str:
  """Says where a layer is in its network, for errors: `Block_1/Conv_0`."""
  return '/'.join(layer.path) or type(layer).__name__


class Conv(nn.Module):
  """Two-dimensional convolution, see `metajax.models.convolve`.

  Equal to `flax.linen.Conv` with the same kernel.
  """

  features: int
  kernel_size: int | tuple[int, int] = 3
  stride: int | tuple[int, int] = 1
  dilation: int | tuple[int, int] = 1
  padding: Padding = 'SAME'
  use_bias: bool = True
  lowering: Lowering = 'auto'
  kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [examples, height, width, channels] to [..., features]."""
    name, where = name_of(self), (self.stride, self.dilation, self.padding)
    geometry(inputs.shape, self.kernel_size, *where, name)  # or it is refused
    kernel = self.param(
      'kernel',
      self.kernel_init,
      (*pair(self.kernel_size), inputs.shape[-1], self.features),
    )
    outputs = convolve(
      inputs,
      kernel,
      stride=self.stride,
      dilation=self.dilation,
      padding=self.padding,
      lowering=self.lowering,
      name=name,
    )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      outputs = outputs + jnp.expand_dims(bias, (0, 1, 2))
    return outputs


class SingleExample(UserWarning):
  """A batch whose statistics normalise it has one example only."""


class BatchNorm(nn.Module):
  """Batch normalisation by the statistics of the batch at hand.

  It has no running average. Statistics are held fixed only if a collection
  `statistics` is passed in, as `Model.freeze` arranges. Inputs in less than
  float32 are normalised in float32, and only the outputs are rounded. A batch
  of one example has little of a distribution in it: a `SingleExample` warning
  says so.

  With `pool` the outputs are max-pooled by windows of that size. It is the
  same as `max_pool(BatchNorm()(inputs), pool)`, but only what is the maximum
  of a window is normalised: with a factor above 0 that is the highest of the
  inputs, below 0 the lowest.
  """

  epsilon: float = 1e-3  # that of the authors' code of MAML and of Reptile
  pool: int = 1
  lowering: Lowering = 'auto'  # of the pooling

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Normalises the last axis over all others."""
    features = inputs.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, features)
    bias = self.param('bias', nn.initializers.zeros, features)
    axes = tuple(range(inputs.ndim - 1))
    measure = self.is_mutable_collection('statistics')
    if self.has_variable('statistics', 'mean') and not measure:
      mean = self.get_variable('statistics', 'mean')
      variance = self.get_variable('statistics', 'variance')
    else:
      if inputs.shape[0] == 1 and not (measure or self.is_initializing()):
        warnings.warn(
          'batch normalisation over a single example: its statistics are those'
          ' of this example alone, and a model that was trained on more than'
          ' one predicts little better than chance. For one query at a time'
          " take the statistics of the support set, normalisation='support', or"
          ' of a population: see metajax.normalisation',
          SingleExample,
          stacklevel=2,
        )
      values = _widened(inputs)
      mean = jnp.mean(values, axes)
      variance = jnp.mean(
        jnp.square(values - jnp.expand_dims(mean, axes)), axes
      )
    if measure:
      self.put_variable('statistics', 'mean', mean)
      self.put_variable('statistics', 'variance', variance)
    dtype = jnp.result_type(inputs, scale, bias)
    factor = scale * jax.lax.rsqrt(variance + self.epsilon)
    if self.pool > 1:
      sign = jnp.where(scale < 0, -jnp.ones_like(scale), jnp.ones_like(scale))
      inputs = max_pool(
        inputs,
        self.pool,
        lowering=self.lowering,
        sign=sign,
        name=f'{name_of(self)}: max_pool',
      )
    shift = bias - mean * factor
    outputs = inputs * jnp.expand_dims(factor, axes)
    return (outputs + jnp.expand_dims(shift, axes)).astype(dtype)


class LayerNorm(nn.Module):
  """Normalisation of each example, over its last axis.

  Inputs in less than float32 are normalised in float32, and only the outputs
  are rounded.
  """

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Normalises the last axis."""
    features = inputs.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, features)
    bias = self.param('bias', nn.initializers.zeros, features)
    values = _widened(inputs)
    centred = values - jnp.mean(values, -1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
    axes = tuple(range(inputs.ndim - 1))
    outputs = centred * jax.lax.rsqrt(
      variance + self.epsilon
    ) * jnp.expand_dims(scale, axes) + jnp.expand_dims(bias, axes)
    return outputs.astype(jnp.result_type(inputs, scale, bias))


def _widened(inputs: jax.Array) -> jax.Array:
  """Widens to float32: else what is small beside the mean has few digits."""
  if jnp.issubdtype(inputs.dtype, jnp.floating) and inputs.dtype.itemsize < 4:
    return inputs.astype(jnp.float32)
  return inputs


class Embedding(nn.Module):
  """Vectors for integer tokens.

  With the lowering `'matmul'` it is a product with one-hot rows, whose
  derivatives are products too; `'native'` is a gather, whose derivative is a
  scatter.
  """

  vocabulary: int
  features: int
  lowering: Lowering = 'auto'

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps integers [...] to [..., features]."""
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise ValueError(
        f'{name_of(self)}: an embedding wants integers, got {tokens.dtype} of'
        f' shape {tokens.shape}'
      )
    table = self.param(
      'embedding',
      nn.initializers.normal(0.02),
      (self.vocabulary, self.features),
    )
    if resolve(self.lowering) == 'matmul':
      return jax.nn.one_hot(tokens, self.vocabulary, dtype=table.dtype) @ table
    return table[tokens]
