"""Which part of the parameters adapts.

A part is chosen by a predicate on the path of each leaf, such as
`'params/head/kernel'`. The two halves of a split have the structure of the
whole, with `None` (an empty subtree to JAX) where the other half has a leaf,
so `jax.grad` and optax work on each half as they are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import PyTree

__all__ = [
  'Select',
  'body',
  'everything',
  'head',
  'map_with_path',
  'merge',
  'normalisation',
  'prepend',
  'repeat',
  'split',
]

Select = Callable[[str], bool]


def everything(path: str) -> bool:
  """Selects every parameter (MAML)."""
  del path
  return True


def head(path: str) -> bool:
  """Selects the last layer, which models of metajax call `head` (ANIL)."""
  return 'head' in path.split('/')


def body(path: str) -> bool:
  """Selects everything but the last layer (BOIL)."""
  return not head(path)


def normalisation(path: str) -> bool:
  """Selects the scales and biases of layers called `...Norm`, as flax does."""
  return any('Norm' in part for part in path.split('/'))


def map_with_path(
  function: Callable[..., PyTree], tree: PyTree, *others: PyTree
) -> PyTree:
  """Applies `function(path, leaf, *others)` to leaves and their paths.

  Args:
    function: its first argument is a slash-separated path.
    tree: any pytree.
    *others: trees that have, where `tree` has a leaf, anything.

  Returns:
    A tree of the structure of `tree`.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: function(_name(path), *leaves), tree, *others
  )


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def split(params: PyTree, select: Select) -> tuple[PyTree, PyTree]:
  """Splits parameters in two: those that `select` picks, and the others.

  Args:
    params: any pytree.
    select: a predicate on slash-separated paths.

  Returns:
    `(selected, rest)`, with `merge(selected, rest)` equal to `params`.

  Raises:
    ValueError: if there are leaves and none is selected; the message lists
      their paths.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  paths = [_name(path) for path, _ in leaves]
  chosen = [select(path) for path in paths]
  if leaves and not any(chosen):
    raise ValueError(
      f'{getattr(select, "__name__", select)} selects none of the parameters:'
      f' {", ".join(paths)}'
    )

  def part(keep: bool) -> PyTree:
    return jax.tree.unflatten(
      structure,
      [
        leaf if pick == keep else None
        for (_, leaf), pick in zip(leaves, chosen, strict=True)
      ],
    )

  return part(True), part(False)


def merge(selected: PyTree, rest: PyTree) -> PyTree:
  """Puts the two halves of a split together again."""
  return jax.tree.map(
    lambda a, b: b if a is None else a,
    selected,
    rest,
    is_leaf=lambda leaf: leaf is None,
  )


def repeat(params: PyTree, times: int) -> PyTree:
  """Gives every leaf a leading axis along which it is repeated."""
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (times, *jnp.shape(leaf))), params
  )


def prepend(first: PyTree, rest: PyTree) -> PyTree:
  """Puts one entry in front of the others along the leading axis of leaves."""
  return jax.tree.map(
    lambda one, others: jnp.concatenate([jnp.asarray(one)[None], others]),
    first,
    rest,
  )
