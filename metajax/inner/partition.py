"""Which part of the parameters adapts.

A part is chosen by a predicate on the path of each leaf, such as
`'params/head/kernel'`. The two halves of a split have the structure of the
whole, with `None` (an empty subtree to JAX) where the other half has a leaf,
so `jax.grad` and optax work on each half as they are.

Not all that stands in a parameter tree is learned. Integers and booleans are
buffers (indices, masks), and so is whatever stands under the name `constants`:
no predicate selects them, they have no gradient, and stay as they are.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree

__all__ = [
  'CONSTANTS',
  'Select',
  'biases',
  'body',
  'everything',
  'head',
  'is_count',
  'is_learned',
  'list_paths',
  'map_with_path',
  'matching',
  'merge',
  'normalisation',
  'nothing_of',
  'paths',
  'prepend',
  'refuse_nothing',
  'repeat',
  'split',
  'split_learned',
]

Select = Callable[[str], bool]

# What stands under this name in a parameter tree is not learned.
CONSTANTS = 'constants'


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


def biases(path: str) -> bool:
  """Selects what is called `bias`, that of normalisation too (BitFit).

  Example:
    >>> biases('block_0/norm/bias'), biases('block_0/norm/scale')
    (True, False)
  """
  name = path.split('/')[-1]
  return name == 'bias' or name.endswith('_bias')


def normalisation(path: str) -> bool:
  """Selects the parameters of layers that are called after normalisation.

  They have `norm` in their name, in any case, or are called `ln`, as `ln_1`.

  Example:
    >>> [normalisation(path) for path in
    ...   ('BatchNorm_0/bias', 'h_0/ln_1/scale', 'final_norm/scale', 'kernel')]
    [True, True, True, False]
  """
  return any(
    'norm' in part or re.fullmatch(r'ln\d*(_.*)?', part)
    for part in path.lower().split('/')
  )


@dataclasses.dataclass(frozen=True)
class _Matching:
  """Selects the paths in which a regular expression is found."""

  pattern: str

  def __post_init__(self) -> None:
    try:
      re.compile(self.pattern)
    except (re.error, TypeError) as error:
      raise ValueError(
        f'a pattern is a regular expression, such as attention/(query|value);'
        f' got {self.pattern!r}: {error}'
      ) from error

  def __call__(self, path: str) -> bool:
    return re.search(self.pattern, path) is not None

  @property
  def __name__(self) -> str:
    return f'the pattern {self.pattern!r}'


def matching(pattern: str) -> Select:
  """Selects the paths in which a regular expression is found.

  Args:
    pattern: searched anywhere in a path; `^` and `$` are its ends.

  Returns:
    A predicate that is equal to any of the same pattern.

  Raises:
    ValueError: if it is no regular expression.

  Example:
    >>> select = matching('attention/(query|value)')
    >>> select('block_0/attention/query/kernel'), select('head/kernel')
    (True, False)
  """
  return _Matching(pattern)


def list_paths(paths: Iterable[str], limit: int = 8) -> str:
  """Names some paths, and says how many more there are.

  Example:
    >>> list_paths(['a', 'b', 'c'], limit=2)
    'a, b and 1 more'
  """
  paths = list(paths)
  more = len(paths) - limit
  listed = ', '.join(paths[:limit])
  return f'{listed} and {more} more' if more > 0 else listed


def refuse_nothing(select: Any, paths: Iterable[str]) -> None:
  """Refuses a predicate that selects none of some paths.

  Raises:
    ValueError: which names some of the paths; of a pattern, those near it.
  """
  paths = list(paths)
  near = _near(select.pattern, paths) if isinstance(select, _Matching) else []
  raise ValueError(
    f'{getattr(select, "__name__", select)} selects none of the parameters:'
    f' {list_paths(paths)}'
    + (f'; near it: {list_paths(near, 3)}' if near else '')
  )


def _near(pattern: str, paths: list[str]) -> list[str]:
  """Paths whose names are like the words of a pattern, the nearest first."""
  words = re.findall(r'[A-Za-z0-9_]{2,}', pattern.lower())

  @functools.cache
  def likeness(word: str, part: str) -> float:
    return difflib.SequenceMatcher(None, word, part).ratio()

  def score(path: str) -> float:
    parts = path.lower().split('/')
    return sum(max(likeness(word, part) for part in parts) for word in words)

  ranked = sorted(paths, key=score, reverse=True)
  return [path for path in ranked if score(path) > 0.6 * len(words)]


def is_learned(path: str, leaf: Any) -> bool:
  """Whether a leaf has a gradient, or is a buffer that stays as it is.

  Args:
    path: its slash-separated path.
    leaf: an array or a number.

  Returns:
    False for integers, booleans, and what is under the name `constants`.

  Raises:
    ValueError: if it is no array of numbers, such as a function or a key.

  Example:
    >>> is_learned('order', 3), is_learned('constants/mean', 0.5)
    (False, False)
  """
  try:
    dtype = jnp.result_type(leaf)
    is_number = jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_
  except TypeError:
    is_number = False
  if not is_number:
    raise ValueError(
      f'parameters are numbers and arrays of them, but {path or "the root"} is'
      f' {_what(leaf)}; keep functions and other values out of the tree, in the'
      ' closure of apply (metajax.models.from_tree does it for modules that'
      ' are trees), and give keys to apply'
    )
  return CONSTANTS not in path.split('/') and jnp.issubdtype(dtype, jnp.inexact)


def _what(leaf: Any) -> str:
  name = getattr(leaf, '__name__', None)
  if callable(leaf) and name:
    return f'the function {name}'
  if hasattr(leaf, 'dtype'):
    return f'of type {leaf.dtype}'
  return f'a {type(leaf).__name__}'


def is_count(path: str, leaf: Any) -> bool:
  """Whether a leaf counts steps: an integer called so, and so no buffer."""
  name = path.split('/')[-1]
  return (
    jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    and jnp.ndim(leaf) == 0
    and ('count' in name or 'step' in name)
  )


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


def paths(tree: PyTree) -> list[str]:
  """The slash-separated paths of all leaves.

  Example:
    >>> paths({'layer': {'bias': 0.0, 'kernel': 1.0}})
    ['layer/bias', 'layer/kernel']
  """
  found: list[str] = jax.tree.leaves(map_with_path(lambda path, _: path, tree))
  return found


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def split(params: PyTree, select: Select) -> tuple[PyTree, PyTree]:
  """Splits parameters in two: those that `select` picks, and the others.

  Args:
    params: any pytree.
    select: a predicate on slash-separated paths. Buffers are never picked.

  Returns:
    `(selected, rest)`, with `merge(selected, rest)` equal to `params`.

  Raises:
    ValueError: if there are leaves to learn and none is selected; the message
      names some of their paths, and those that are near a pattern.
  """
  learned, buffers = split_learned(params)
  selected, rest = _halves(learned, lambda path, _: select(path))
  if (known := paths(learned)) and not jax.tree.leaves(selected):
    refuse_nothing(select, known)
  return selected, merge(rest, buffers)


def split_learned(params: PyTree) -> tuple[PyTree, PyTree]:
  """Splits parameters in those that are learned, and buffers.

  Args:
    params: any pytree of numbers.

  Returns:
    `(learned, buffers)`, with `merge(learned, buffers)` equal to `params`.

  Raises:
    ValueError: if a leaf is no number, see `is_learned`.

  Example:
    >>> split_learned({'order': 3, 'scale': 0.5})
    ({'order': None, 'scale': 0.5}, {'order': 3, 'scale': None})
  """
  return _halves(params, is_learned)


def _halves(
  tree: PyTree, pick: Callable[[str, Any], bool]
) -> tuple[PyTree, PyTree]:
  picked = map_with_path(pick, tree)

  def half(keep: bool) -> PyTree:
    return jax.tree.map(
      lambda pick, leaf: leaf if pick == keep else None, picked, tree
    )

  return half(True), half(False)


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


def nothing_of(tree: PyTree) -> PyTree:
  """The structure of a tree with None in the place of every leaf."""
  return jax.tree.map(lambda leaf: None, tree)


def prepend(first: PyTree, rest: PyTree) -> PyTree:
  """Puts one entry in front of the others along the leading axis of leaves.

  Where `rest` has None in the place of a leaf, so has the result.
  """
  return jax.tree.map(
    lambda others, one: (
      None
      if others is None
      else jnp.concatenate([jnp.asarray(one)[None], others])
    ),
    rest,
    first,
    is_leaf=lambda leaf: leaf is None,
  )
