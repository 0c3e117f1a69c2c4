"""Convolution as slices and a matrix product; see `metajax.models.windows`."""

from functools import reduce

import jax
import jax.numpy as jnp

from metajax.models.windows import (
  Geometry,
  Lowering,
  Padding,
  geometry,
  resolve,
  slices,
)

__all__ = ['convolve']


def convolve(
  inputs: jax.Array,
  kernel: jax.Array,
  *,
  stride: int | tuple[int, int] = 1,
  dilation: int | tuple[int, int] = 1,
  padding: Padding = 'SAME',
  lowering: Lowering = 'auto',
  name: str = 'convolve',
) -> jax.Array:
  r"""Two-dimensional convolution (cross-correlation, as in every framework).

  .. math:: y_{nijm} = \sum_{abc} x_{n, si + da, sj + db, c} \, w_{abcm}

  Args:
    inputs: `[examples, height, width, channels]`.
    kernel: `[rows, columns, channels, features]`.
    stride: s, distance between windows.
    dilation: d, distance between the pixels of a window.
    padding: `'SAME'`, `'VALID'`, or `((top, bottom), (left, right))`.
    lowering: `'matmul'`, as slices and one matrix product; `'native'`, as the
      backend's own convolution; `'auto'`, whichever is faster on this backend.
    name: of the layer, for errors.

  Returns:
    `[examples, rows, columns, features]`.

  Raises:
    ValueError: if the shapes do not fit, or an argument is none of the above.

  Example:
    >>> import jax.numpy as jnp
    >>> convolve(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5)), stride=2).shape
    (2, 4, 4, 5)
  """
  if kernel.ndim != 4 or kernel.shape[2:3] != inputs.shape[-1:]:
    raise ValueError(
      f'{name}: a kernel of shape {kernel.shape} does not fit inputs of shape'
      f' {inputs.shape}; it wants [rows, columns, channels, features]'
    )
  rows, columns = kernel.shape[:2]
  where = geometry(
    inputs.shape, (rows, columns), stride, dilation, padding, name
  )
  if resolve(lowering) == 'matmul':
    if _fewer_copies_by_rows(where, kernel):
      return _product_by_rows(inputs, kernel, where)
    return _product(slices(inputs, where), kernel)
  return jax.lax.conv_general_dilated(
    inputs,
    kernel,
    where.stride,
    where.padding,
    rhs_dilation=where.dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _product(parts: list[jax.Array], kernel: jax.Array) -> jax.Array:
  """Sums slices `[..., channels]` times the kernel's `[channels, features]`.

  The gradient of the kernel is a product over all positions, and how fast that
  is depends on which of its two factors is transposed in memory. Below it is
  the narrower one; and positions are a single axis, or XLA makes a transposed
  copy, with the whole backward pass of what follows fused into it.
  """
  channels, features = kernel.shape[-2:]
  shape = parts[0].shape[:-1]
  depth = len(parts) * channels
  if depth < features:
    columns = jnp.moveaxis(jnp.stack(parts), -1, 1).reshape(depth, -1)
    outputs = columns.T @ kernel.reshape(depth, features)
  else:
    rows = jnp.moveaxis(kernel, -1, 0).reshape(features, depth)
    outputs = jnp.concatenate(parts, axis=-1).reshape(-1, depth) @ rows.T
  return outputs.reshape(*shape, features)


def _fewer_copies_by_rows(where: Geometry, kernel: jax.Array) -> bool:
  rows, columns, channels, features = kernel.shape
  whole = rows * columns * channels
  return where.stride[0] == 1 and columns * channels + rows * features < whole


def _product_by_rows(
  inputs: jax.Array, kernel: jax.Array, where: Geometry
) -> jax.Array:
  """Equals `_product`, but what rows of a window add up is shifted afterwards.

  Windows of one row are a third as large as whole ones of three; the product
  with all rows of the kernel is as large, and their sum follows. For three rows
  and columns that is 3 + 3 copies of an image instead of 9.
  """
  rows, columns, channels, features = kernel.shape
  height = inputs.shape[1]
  strips = slices(
    inputs,
    where._replace(
      size=(1, columns),
      padding=((0, 0), where.padding[1]),
      out=(height, where.out[1]),
    ),
  )
  flat = jnp.moveaxis(kernel, -1, 1).reshape(-1, columns * channels)
  windows = jnp.concatenate(strips, axis=-1)
  products = windows.reshape(-1, columns * channels) @ flat.T
  products = products.reshape(*windows.shape[:-1], rows * features)
  parts = jax.lax.split(products, [features] * rows, axis=3)
  none = (0, 0, 0)
  zero = jnp.zeros((), products.dtype)

  def shifted(part: jax.Array, row: int) -> jax.Array:
    above = where.padding[0][0] - row * where.dilation[0]
    below = where.out[0] - height - above
    return jax.lax.pad(part, zero, (none, (above, below, 0), none, none))

  return reduce(jnp.add, [shifted(part, row) for row, part in enumerate(parts)])
