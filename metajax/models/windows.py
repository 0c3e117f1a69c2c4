"""Sliding windows as slices, and what is computed over them.

Under `vmap` over per-task kernels a native convolution becomes a grouped one,
whose backward passes are slow on every backend, and a native pooling has a
scatter for a derivative. Written as shifted slices, one is a matrix product and
the other a maximum or a sum, in the forward, the backward and the second-order
pass alike.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

Lowering = Literal['auto', 'matmul', 'native']
Padding = Literal['SAME', 'VALID'] | Sequence[tuple[int, int]]

# What `auto` stands for on each backend, by the measurements of
# docs/performance.md; where there is none, what is faster on CPU.
FASTEST: dict[str, Literal['matmul', 'native']] = {'cpu': 'matmul'}


def resolve(lowering: Lowering) -> Literal['matmul', 'native']:
  """What a choice of lowering stands for on the default backend.

  Raises:
    ValueError: if it is none of `'auto'`, `'matmul'`, `'native'`.
  """
  if lowering not in get_args(Lowering):
    raise ValueError(
      f'lowering must be one of {", ".join(get_args(Lowering))}; got'
      f' {lowering!r}'
    )
  if lowering == 'auto':
    return FASTEST.get(jax.default_backend(), 'matmul')
  return lowering


class Geometry(NamedTuple):
  """Where windows lie, along height and width."""

  size: tuple[int, int]
  stride: tuple[int, int]
  dilation: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]  # (before, after)
  out: tuple[int, int]  # how many windows there are


def geometry(
  shape: tuple[int, ...],
  size: int | tuple[int, int],
  stride: int | tuple[int, int] = 1,
  dilation: int | tuple[int, int] = 1,
  padding: Padding = 'SAME',
  name: str = 'window',
) -> Geometry:
  """Works out where windows lie in `[examples, height, width, channels]`.

  Args:
    shape: of the inputs.
    size: of a window, in rows and columns of the inputs that it sees.
    stride: distance between windows.
    dilation: distance between the rows, and the columns, that a window sees.
    padding: `'SAME'` (as many windows as strides fit), `'VALID'` (none), or
      how much before and after, for height and width.
    name: of the layer, for errors.

  Returns:
    The `Geometry`.

  Raises:
    ValueError: if inputs are not of that form, if a number is not positive, if
      the padding is unknown or negative, or if no window fits.
  """
  if len(shape) != 4:
    raise ValueError(
      f'{name}: wants inputs [examples, height, width, channels], got {shape}'
    )
  size, stride, dilation = (pair(n) for n in (size, stride, dilation))
  for what, numbers in (
    ('size', size),
    ('stride', stride),
    ('dilation', dilation),
  ):
    if len(numbers) != 2 or min(numbers) < 1:
      raise ValueError(
        f'{name}: {what} must be 1 or more, or two such numbers, got {numbers}'
      )
  extent = [(n - 1) * step + 1 for n, step in zip(size, dilation, strict=True)]
  if padding == 'SAME':
    fits = [-(-n // step) for n, step in zip(shape[1:3], stride, strict=True)]
    totals = [
      max((n - 1) * step + reach - length, 0)
      for n, step, reach, length in zip(
        fits, stride, extent, shape[1:3], strict=True
      )
    ]
    sides = [(total // 2, total - total // 2) for total in totals]
  elif padding == 'VALID':
    sides = [(0, 0), (0, 0)]
  else:
    sides = _explicit(padding, name)
  out = [
    (length + sum(side) - reach) // step + 1
    for length, side, reach, step in zip(
      shape[1:3], sides, extent, stride, strict=True
    )
  ]
  if min(out) < 1:
    raise ValueError(
      f'{name}: a window of {extent[0]}x{extent[1]} does not fit into inputs of'
      f' shape {shape} with padding {padding}; use larger images, or fewer or'
      ' smaller windows'
    )
  return Geometry(
    size, stride, dilation, (sides[0], sides[1]), (out[0], out[1])
  )


def pair(number: int | tuple[int, int]) -> tuple[int, int]:
  """The same number for height and width, unless two are given."""
  return (number, number) if isinstance(number, int) else number


def _explicit(padding: Padding, name: str) -> list[tuple[int, int]]:
  try:
    if isinstance(padding, str):
      raise ValueError
    sides = [(int(before), int(after)) for before, after in padding]
    if len(sides) != 2 or min(map(min, sides)) < 0:
      raise ValueError
  except (TypeError, ValueError):
    raise ValueError(
      f'{name}: padding must be SAME, VALID or ((top, bottom), (left, right))'
      f' with numbers from 0; got {padding!r}'
    ) from None
  return sides


def slices(
  inputs: jax.Array, where: Geometry, fill: float = 0.0
) -> list[jax.Array]:
  """What all windows see at their first place, at their second, and so on.

  Args:
    inputs: `[examples, height, width, channels]`.
    where: the windows.
    fill: what is seen beyond the edges.

  Returns:
    For every place of a window, row by row, `[examples, *where.out, channels]`.
  """
  padded = inputs
  if any(map(any, where.padding)):
    padded = jnp.pad(
      inputs, ((0, 0), *where.padding, (0, 0)), constant_values=fill
    )
  rows, columns = (
    [
      slice(place * far, place * far + (out - 1) * step + 1, step)
      for place in range(size)
    ]
    for size, step, far, out in zip(
      where.size, where.stride, where.dilation, where.out, strict=True
    )
  )
  return [padded[:, row, column] for row in rows for column in columns]


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
  """As `_product`, but what the rows of a window add up is shifted afterwards.

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


def max_pool(
  inputs: jax.Array,
  size: int | tuple[int, int] = 2,
  stride: int | tuple[int, int] | None = None,
  padding: Padding = 'VALID',
  lowering: Lowering = 'auto',
  sign: jax.Array | None = None,
  name: str = 'max_pool',
) -> jax.Array:
  """Maximum over windows; by default 2x2 ones that do not overlap.

  Args:
    inputs: `[examples, height, width, channels]`.
    size: of a window.
    stride: distance between windows; their size by default.
    padding: as in `convolve`; nothing beyond the edges is ever the maximum.
    lowering: `'matmul'`, a reduction of the windows side by side; `'native'`, a
      windowed reduction; `'auto'`, whichever is faster on this backend. The
      derivative of both goes to the first maximum of a window.
    sign: 1 or -1 for each channel; where it is -1 the result is the minimum.
    name: of the layer, for errors.

  Returns:
    `[examples, rows, columns, channels]`. By default an odd last row or column
    is dropped.

  Raises:
    ValueError: if no window fits, or an argument is none of the above.
  """
  stride = size if stride is None else stride
  where = geometry(inputs.shape, size, stride, 1, padding, name)
  if resolve(lowering) == 'matmul':
    seen, axes = _seen(inputs, where, -math.inf)
    return _highest(seen, sign, axes)
  upright = 1 if sign is None else _along_channels(sign, inputs)
  return upright * _reduce_windows(
    upright * inputs, where, -math.inf, jax.lax.max
  )


def average_pool(
  inputs: jax.Array,
  size: int | tuple[int, int] = 2,
  stride: int | tuple[int, int] | None = None,
  padding: Padding = 'VALID',
  lowering: Lowering = 'auto',
  name: str = 'average_pool',
) -> jax.Array:
  """Mean over windows, zeros beyond the edges included; else as `max_pool`."""
  stride = size if stride is None else stride
  where = geometry(inputs.shape, size, stride, 1, padding, name)
  if resolve(lowering) == 'matmul':
    total = jnp.sum(*_seen(inputs, where, 0.0))
  else:
    total = _reduce_windows(inputs, where, 0.0, jax.lax.add)
  return total / math.prod(where.size)


def _seen(
  inputs: jax.Array, where: Geometry, fill: float
) -> tuple[jax.Array, tuple[int, ...]]:
  """What windows see, along axes of its own, and which axes those are."""
  rows, columns = where.size
  if where.size != where.stride or any(map(any, where.padding)):
    return jnp.stack(slices(inputs, where, fill)), (0,)
  # Windows side by side are but another shape of the same array.
  height, width = where.out
  whole = inputs[:, : height * rows, : width * columns]
  return whole.reshape(len(inputs), height, rows, width, columns, -1), (2, 4)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _highest(
  seen: jax.Array, sign: jax.Array | None, axes: tuple[int, ...]
) -> jax.Array:
  if sign is None:
    return jnp.max(seen, axes)
  highest = jnp.max(_along_channels(sign, seen) * seen, axes)
  return _along_channels(sign, highest) * highest


def _along_channels(numbers: jax.Array, like: jax.Array) -> jax.Array:
  return jnp.expand_dims(numbers, tuple(range(like.ndim - 1)))


@_highest.defjvp
def _highest_jvp(
  axes: tuple[int, ...], primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
  """The change at the place of the maximum, the first if there are several.

  The derivative of `jnp.maximum` asks which argument equals the result. A
  compiler that computes both anew in different loops rounds them differently,
  and the answer may be none. Here places are found by the same comparisons
  that find the maximum, so there always is exactly one.
  """
  (seen, sign), (change, _) = primals, tangents
  keys = seen if sign is None else _along_channels(sign, seen) * seen
  keys = jax.lax.stop_gradient(keys)
  sizes = [seen.shape[axis] for axis in axes]

  def at(values: jax.Array, place: tuple[int, ...]) -> jax.Array:
    index: list[slice | int] = [slice(None)] * values.ndim
    for axis, number in zip(axes, place, strict=True):
      index[axis] = number
    return values[tuple(index)]

  places = list(itertools.product(*map(range, sizes)))
  highest, value = at(keys, places[0]), at(seen, places[0])
  # Numbered in the type of the inputs, as loops over a single type are fast, if
  # it has a number for each.
  few = len(places) <= 2 / jnp.finfo(seen.dtype).eps
  dtype = seen.dtype if few else jnp.dtype(jnp.int32)
  first = jnp.zeros(highest.shape, dtype)
  for number, place in enumerate(places[1:], start=1):
    key = at(keys, place)
    higher = (key > highest) | jnp.isnan(key)
    highest = jnp.where(higher, key, highest)
    value = jnp.where(higher, at(seen, place), value)
    first = jnp.where(higher, jnp.full_like(first, number), first)

  numbers = jnp.arange(len(places), dtype=dtype).reshape(
    [seen.shape[axis] if axis in axes else 1 for axis in range(seen.ndim)]
  )
  chosen = jnp.expand_dims(first, axes) == numbers
  return value, jnp.sum(jnp.where(chosen, change, jnp.zeros_like(change)), axes)


def _reduce_windows(
  inputs: jax.Array,
  where: Geometry,
  start: float,
  combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """Combines what each window sees; `start` is seen beyond the edges."""
  return jax.lax.reduce_window(
    inputs,
    np.asarray(start, inputs.dtype),
    combine,
    (1, *where.size, 1),
    (1, *where.stride, 1),
    ((0, 0), *where.padding, (0, 0)),
  )
