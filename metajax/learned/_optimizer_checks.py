"""What a learned optimiser is not made for, refused in one line."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.inner import partition

__all__ = [
  'as_wide',
  'check_alike',
  'check_params',
  'check_whole',
  'moments_of',
]


def check_whole(name: str, value: Any) -> None:
  """Refuses what is no number of steps, or of other things."""
  try:
    number = 0 if isinstance(value, bool) else operator.index(value)
  except TypeError:
    number = 0
  if number < 1:
    raise ValueError(f'{name} must be a whole number from 1, got {value!r}')


def check_params(params: PyTree) -> None:
  """Refuses parameters that it could not move."""

  def look(path: str, leaf: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      raise ValueError(
        'a learned optimiser moves real floating-point numbers, but'
        f' {path or "the parameter"} is {jnp.result_type(leaf)}; hide it from'
        ' the optimiser (metajax.adaptation.outer_optimizers.freeze_buffers)'
      )

  partition.map_with_path(look, params)


def as_wide(leaf: Any) -> jax.Array:
  """Numbers in which squares of small gradients are not 0."""
  return jnp.asarray(
    leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32)
  )


def moments_of(params: PyTree) -> PyTree:
  """Moments before the first step."""
  return jax.tree.map(lambda leaf: jnp.zeros_like(as_wide(leaf)), params)


def check_alike(
  gradient: PyTree, state: Any, name: str, params: PyTree
) -> None:
  """Refuses gradients, or a state, of other parameters."""
  if params is None:
    raise ValueError(
      'a learned optimiser has to see the parameters: call'
      ' update(gradient, state, params)'
    )
  wanted = _shapes(params)
  moments = getattr(state, name, ())  # without it, of another optimiser
  for name, tree in (('gradient', gradient), ('state', moments)):
    if (found := _shapes(tree)) != wanted:
      path = next(
        path
        for path in [*wanted, *found]
        if wanted.get(path) != found.get(path)
      )
      raise ValueError(
        f'the {name} is not of these parameters: {path or "the parameter"} has'
        f' shape {found.get(path, "none")} there, and'
        f' {wanted.get(path, "none")} here; call init(params) for a state of'
        ' these'
      )
    own: Any = jax.tree.structure(params)
    if jax.tree.structure(tree) != own:
      raise ValueError(
        f'the {name} is not of these parameters: its containers are of other'
        ' types; call init(params) for a state of these'
      )

  def look(path: str, leaf: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      raise ValueError(
        'a learned optimiser goes by real floating-point numbers, but the'
        f' gradient of {path or "the parameter"} is {jnp.result_type(leaf)}'
      )

  partition.map_with_path(look, gradient)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  names = partition.paths(tree)
  return dict(zip(names, map(jnp.shape, jax.tree.leaves(tree)), strict=True))
