"""Sliding windows as slices of an array.

Under `vmap` over per-task kernels a native convolution becomes a grouped one,
whose backward passes are slow on every backend, and a native pooling has a
scatter for a derivative. Written as shifted slices, one is a matrix product
(`metajax.models.convolution`) and the other a maximum or a sum
(`metajax.models.pooling`), in the forward, the backward and the second-order
pass alike.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

__all__ = [
  'FASTEST',
  'Geometry',
  'Lowering',
  'Padding',
  'geometry',
  'pair',
  'resolve',
  'slices',
]

Lowering = Literal['auto', 'matmul', 'native']
Padding = Literal['SAME', 'VALID'] | Sequence[tuple[int, int]]

# `auto` stands for this on each backend, by the measurements of
# docs/performance.md; where there is none, for what is faster on CPU.
FASTEST: dict[str, Literal['matmul', 'native']] = {'cpu': 'matmul'}


def resolve(lowering: Lowering) -> Literal['matmul', 'native']:
  """Says what a choice of lowering stands for on the default backend.

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
  """Lists what all windows see at their first place, their second, and so on.

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
