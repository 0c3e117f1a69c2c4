"""Pooling as slices and a maximum or a sum; see `metajax.models.windows`."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models.windows import (
  Geometry,
  Lowering,
  Padding,
  geometry,
  resolve,
  slices,
)

__all__ = ['average_pool', 'max_pool']


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
  """Lays what windows see along axes of its own, and says which those are."""
  rows, columns = where.size
  if where.size != where.stride or any(map(any, where.padding)):
    return jnp.stack(slices(inputs, where, fill)), (0,)
  # Windows side by side are but another shape of the same array.
  height, width = where.out
  whole = inputs[:, : height * rows, : width * columns]
  shape = inputs.shape[0], height, rows, width, columns, -1
  return whole.reshape(shape), (2, 4)


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
  # Places are numbered in the type of the inputs, as loops over a single type
  # are fast, if it has a number for each.
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
