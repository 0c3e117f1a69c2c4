"""Comparing trees, in the words of an error."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import (
  PyTree,
)

__all__ = [
  'check_close',
  'difference',
  'entry',
  'largest_difference',
  'path_name',
  'require',
  'same_structure',
  'shapes',
]


def require(holds: bool, message: str) -> None:
  """Raises an AssertionError unless something holds."""
  # An `assert` would be left out under `python -O`.
  if not holds:
    raise AssertionError(message)


def path_name(path: Any) -> str:
  """The path of a leaf, as an error has it."""
  return jax.tree_util.keystr(path) or 'the only leaf'


def same_structure(one: PyTree, other: PyTree) -> bool:
  """Whether two trees have the same branches."""
  return len({_with_gaps(tree) for tree in (one, other)}) == 1


def _with_gaps(tree: PyTree) -> Any:
  """The structure of a tree, where None may stand for a leaf."""
  return jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None)


def entry(tree: PyTree, index: int) -> PyTree:
  """The entry of every leaf at an index."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def shapes(tree: PyTree) -> dict[str, str]:
  """What is at each path of a tree, for errors."""
  return {
    path_name(path): f'an array of shape {jnp.shape(leaf)}'
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def difference(found: PyTree, expected: PyTree) -> str | None:
  """The first leaf that is not the same to the bit."""
  leaves = jax.tree.leaves_with_path(found), jax.tree.leaves(expected)
  for (path, one), other in zip(*leaves, strict=True):
    if not np.array_equal(one, other):
      return path_name(path)
  return None


def largest_difference(one: PyTree, other: PyTree) -> float:
  """The largest difference between two trees."""
  leaves = jax.tree.leaves(one), jax.tree.leaves(other)
  return max(
    (float(np.abs(a - b).max()) for a, b in zip(*leaves, strict=True)),
    default=0.0,
  )


def check_close(
  what: str, found: PyTree, expected: PyTree, *, rtol: float, atol: float
) -> None:
  """Raises an AssertionError unless two trees are close."""
  leaves = jax.tree.leaves_with_path(found), jax.tree.leaves(expected)
  worst, place = 0.0, ''
  for (path, one), other in zip(*leaves, strict=True):
    allowed = atol + rtol * np.abs(other)
    excess = np.max(np.abs(one - other) / allowed, initial=0.0)
    if not excess <= worst:  # nor where it is no number
      worst, place = float(excess), path_name(path)
  require(
    worst <= 1,
    f'{what}; at {place} it differs by {worst:.1e} times what rounding explains'
    f' ({rtol:.0e} of it and {atol:.0e})',
  )
