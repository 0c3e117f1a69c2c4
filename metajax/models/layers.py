"""Layers that stay fast when every task has its own weights.

Under `vmap` over per-task kernels a native convolution becomes a grouped one,
whose backward passes are slow on every backend. A convolution written as
shifted slices and one matrix product becomes a batched matrix product instead,
in the forward, the backward and the second-order pass alike.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Conv(nn.Module):
  """Two-dimensional convolution with SAME padding, as one matrix product.

  Equal to `flax.linen.Conv` with the same kernel.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  use_bias: bool = True

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [examples, height, width, channels] to [..., features]."""
    if inputs.ndim != 4:
      raise ValueError(
        f'{self.name}: a convolution wants [examples, height, width,'
        f' channels], got {inputs.shape}'
      )
    channels = inputs.shape[-1]
    kernel = self.param(
      'kernel',
      nn.initializers.glorot_uniform(),
      (self.kernel_size, self.kernel_size, channels, self.features),
    )
    outputs = _product(windows(inputs, self.kernel_size, self.stride), kernel)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      outputs = outputs + jnp.expand_dims(bias, (0, 1, 2))
    return outputs


def _product(slices: list[jax.Array], kernel: jax.Array) -> jax.Array:
  """Sums slices `[..., channels]` times the kernel's `[channels, features]`.

  The gradient of the kernel is a product over all positions, and how fast that
  is depends on which of its two factors is transposed in memory. Below it is
  the narrower one; and positions are a single axis, or XLA makes a transposed
  copy, with the whole backward pass of what follows fused into it.
  """
  channels, features = kernel.shape[-2:]
  shape = slices[0].shape[:-1]
  depth = len(slices) * channels
  if depth < features:
    columns = jnp.moveaxis(jnp.stack(slices), -1, 1).reshape(depth, -1)
    outputs = columns.T @ kernel.reshape(depth, features)
  else:
    rows = jnp.moveaxis(kernel, -1, 0).reshape(features, depth)
    outputs = jnp.concatenate(slices, axis=-1).reshape(-1, depth) @ rows.T
  return outputs.reshape(*shape, features)


def windows(inputs: jax.Array, size: int, stride: int) -> list[jax.Array]:
  """The pixel at every place of the window around each output position.

  Args:
    inputs: `[examples, height, width, channels]`.
    size: side of the square window.
    stride: distance between windows.

  Returns:
    `size * size` arrays `[examples, ceil(height / stride),
    ceil(width / stride), channels]`.
  """
  out, padding = zip(
    *(_same_geometry(length, size, stride) for length in inputs.shape[1:3]),
    strict=True,
  )
  padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
  return [
    padded[
      :,
      row : row + (out[0] - 1) * stride + 1 : stride,
      column : column + (out[1] - 1) * stride + 1 : stride,
      :,
    ]
    for row in range(size)
    for column in range(size)
  ]


def _same_geometry(
  length: int, size: int, stride: int
) -> tuple[int, tuple[int, int]]:
  """Output length and padding (before, after) of XLA's SAME convention."""
  out = -(-length // stride)
  total = max((out - 1) * stride + size - length, 0)
  return out, (total // 2, total - total // 2)


class BatchNorm(nn.Module):
  """Batch normalisation by the statistics of the batch at hand.

  It has no running average. Statistics are held fixed only if a collection
  `statistics` is passed in, as `Model.freeze` arranges.
  """

  epsilon: float = 1e-3  # that of the authors' code of MAML and of Reptile

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
      mean = jnp.mean(inputs, axes)
      variance = jnp.mean(
        jnp.square(inputs - jnp.expand_dims(mean, axes)), axes
      )
    if measure:
      self.put_variable('statistics', 'mean', mean)
      self.put_variable('statistics', 'variance', variance)
    factor = scale * jax.lax.rsqrt(variance + self.epsilon)
    return (inputs - jnp.expand_dims(mean, axes)) * jnp.expand_dims(
      factor, axes
    ) + jnp.expand_dims(bias, axes)


def max_pool(inputs: jax.Array) -> jax.Array:
  """Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.

  The maximum of four strided slices has a much cheaper derivative than a
  windowed reduction.

  Raises:
    ValueError: if a side is shorter than 2 pixels, so that nothing is left.
  """
  if min(inputs.shape[1:3]) < 2:
    raise ValueError(
      'max_pool wants a height and width of at least 2 pixels, got'
      f' {inputs.shape}; use larger images or pool less often'
    )
  height, width = (length // 2 * 2 for length in inputs.shape[1:3])
  corners = [
    inputs[:, row:height:2, column:width:2, :]
    for row in (0, 1)
    for column in (0, 1)
  ]
  return jnp.maximum(
    jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3])
  )
