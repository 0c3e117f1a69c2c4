"""Parameter trees by path, where a kernel is a leaf whatever it is made of."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.inner import partition
from metajax.models.tuning.kernels import LowRank, Quantised, is_kernel

__all__ = [
  'added',
  'by_path',
  'check_count',
  'kernels',
  'learned_dtype',
  'replaced',
  'selection',
]


def by_path(params: PyTree) -> dict[str, Any]:
  """The leaves of a tree by their paths; a kernel is one leaf."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      params, is_leaf=is_kernel
    )
  }


def replaced(params: PyTree, new: Mapping[str, Callable[[Any], Any]]) -> PyTree:
  """A tree with other leaves at some paths, each made of the one before.

  Raises:
    ValueError: if there is no such path.
  """
  there = by_path(params)
  missing = [path for path in new if path not in there]
  if missing:
    raise ValueError(
      'what was learned is for other parameters: these have no'
      f' {partition.list_paths(missing, 3)}, but'
      f' {partition.list_paths(there, 3)}'
    )

  def at(path: tuple, leaf: Any) -> Any:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return new[name](leaf) if name in new else leaf

  return jax.tree_util.tree_map_with_path(at, params, is_leaf=is_kernel)


def added(params: PyTree, path: str, entry: PyTree) -> PyTree:
  """Nested dictionaries with one more entry.

  Raises:
    ValueError: if there is one already, or none to put it into.
  """
  first, _, rest = path.partition('/')
  if not isinstance(params, Mapping) or (rest and first not in params):
    raise ValueError(
      f'{path} is to be put into nested dictionaries that honour it, as those'
      f' of pretrained transformers do; there is {type(params).__name__}'
    )
  if not rest and first in params:
    raise ValueError(f'these parameters have a {first} already')
  inside = added(params[first], rest, entry) if rest else entry
  return {**params, first: inside}


def selection(select: str | partition.Select) -> partition.Select:
  """A predicate, that of a pattern where it is text.

  Raises:
    ValueError: if it is neither, or no regular expression.
  """
  if isinstance(select, str):
    return partition.matching(select)
  if not callable(select):
    raise ValueError(
      'what adapts is selected by a pattern, or by a function of the path of a'
      f' parameter, such as partition.head; got {select!r}'
    )
  return select


def check_count(name: str, number: Any) -> None:
  """Refuses what is no number of things.

  Raises:
    ValueError: if it is no whole number from 1.
  """
  if not isinstance(number, int) or isinstance(number, bool) or number < 1:
    raise ValueError(f'{name} must be a whole number from 1, got {number!r}')


def learned_dtype(dtype: Any) -> Any:
  """The type in which something is learned beside, or instead of, a leaf."""
  return jnp.promote_types(dtype, jnp.float32)


def kernels(params: PyTree, select: str | partition.Select) -> dict[str, Any]:
  """The kernels that a pattern or a predicate selects, by their paths.

  A bias that is selected with the kernel beside it is passed over: the pattern
  is that of the layer.

  Raises:
    ValueError: if nothing is selected, or what is no kernel of a product.
  """
  select = selection(select)
  leaves = by_path(params)
  chosen = [path for path in leaves if select(path)]
  if not chosen:
    partition.refuse_nothing(select, leaves)
  why = {path: _why_not(path, leaves[path]) for path in chosen}
  found = [path for path in chosen if not why[path]]
  layers = {_layer(path) for path in found}
  others = [
    f'{path} ({why[path]})'
    for path in chosen
    if why[path] and not (why[path] in _BESIDE and _layer(path) in layers)
  ]
  if others:
    raise ValueError(
      f'{getattr(select, "__name__", select)} matches what is no kernel of a'
      f" product: {partition.list_paths(others, 4)}; 'kernel$' is every kernel"
    )
  return {path: leaves[path] for path in found}


# What stands beside the kernel of a layer.
_BESIDE = ('a bias', 'a vector')


def _layer(path: str) -> str:
  return path.rpartition('/')[0]


def _why_not(path: str, leaf: Any) -> str:
  """Why it is no kernel `[..., in, out]` of a product; '' if it is one."""
  *above, name = path.lower().split('/')
  if isinstance(leaf, Quantised):
    return ''
  if isinstance(leaf, LowRank):
    return 'adapted already'
  if not partition.is_learned(path, leaf):
    return 'an integer or a constant, which is not learned'
  if partition.biases(path.lower()):
    return 'a bias'
  if partition.normalisation(path):
    return 'of a normalisation'
  # A `kernel` is that of a product, also in a layer that is called so: of
  # patches, or of the scores of words.
  if name != 'kernel' and any('embed' in part for part in (*above, name)):
    return 'an embedding, which is looked up'
  if name.startswith('position') or {'prompt', 'prefix'} & {*above, name}:
    return 'vectors of positions'
  if jnp.ndim(leaf) < (3 if 'blocks' in above else 2):
    return 'a vector' if jnp.ndim(leaf) else 'a number'
  return ''


def heads_of(paths: Iterable[str], name: str) -> list[str]:
  """What stands in front of `/name` in those paths that end so."""
  return [path[: -len(name) - 1] for path in paths if path.endswith(f'/{name}')]
