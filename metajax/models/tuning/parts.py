"""Parts of the parameters themselves, and several tunings at once."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.models.modes import takes_key, with_key, without_key
from metajax.models.tuning._trees import (
  by_path,
  check_count,
  learned_dtype,
  replaced,
  selection,
)
from metajax.models.tuning.kernels import LowRank, is_kernel
from metajax.models.tuning.tunings import Tuning, check_tuning

__all__ = ['Last', 'last', 'only', 'together']

# Blocks of a network by their numbers, and stacked ones, with what stands
# before: `encoder/block_3/...`, `TransformerBlock_3/...`, `blocks/...`.
_BLOCK = re.compile(r'((?:[^/]+/)*?)([^/]*block)_(\d+)/', re.IGNORECASE)
_STACKED = re.compile(r'((?:[^/]+/)*?)blocks/', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Last:
  """The last blocks of a network, for `only`; see `last`."""

  number: int

  def __call__(self, path: str) -> bool:
    """Refused: which blocks are the last, one path does not say.

    Raises:
      ValueError: always.
    """
    raise ValueError(
      f'last({self.number}) has to see all parameters: give'
      f' only(last({self.number}))'
    )

  @property
  def __name__(self) -> str:
    return f'last({self.number})'


def last(number: int) -> Last:
  """The last blocks of a network, and the normalisation and head behind them.

  Blocks are what is called `block_0`, `block_1` and so on, or one stack of all
  called `blocks`, on whose leading axis the last ones stand. Behind them is
  what is called `head`, or after normalisation, beside them.

  Args:
    number: how many blocks.

  Returns:
    What `only` takes.

  Raises:
    ValueError: if `number` is not from 1; when it is used, if there are no
      blocks, or fewer.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> params = {f'block_{i}': {'kernel': jnp.ones((2, 2))} for i in range(3)}
    >>> list(only(last(2)).init(jax.random.key(0), params))
    ['block_1/kernel', 'block_2/kernel']
  """
  check_count('the number of last blocks', number)
  return Last(number)


@by_value
def only(select: str | partition.Select) -> Tuning:
  """Adapts some of the parameters themselves.

  They are learned in float32 at least, and rounded to the type of the base
  where they are put in its place, so that outputs are at first exactly its.

  Args:
    select: a predicate on paths, such as `partition.biases`,
      `partition.normalisation`, `partition.head` and `partition.everything`; a
      pattern that is searched in them; or `last(number)`. Buffers are never
      selected.

  Returns:
    A `Tuning` that learns a copy of what is selected, by its path.

  Raises:
    ValueError: when it is used, if nothing is selected, or kernels that are
      quantised or have low-rank adapters, or if what was learned has another
      shape than its place.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> params = {'body': jnp.ones(3), 'head': jnp.zeros(2)}
    >>> only(partition.head).init(jax.random.key(0), params)
    {'head': Array([0., 0.], dtype=float32)}
  """
  select = selection(select)

  def init(key: jax.Array, params: PyTree) -> PyTree:
    del key  # copies
    leaves = by_path(params)
    starts = _starts(leaves, select)
    fixed = [path for path in starts if is_kernel(leaves[path])]
    if fixed:
      raise ValueError(
        f'{getattr(select, "__name__", select)} selects kernels that are'
        f' quantised or have adapters: {partition.list_paths(fixed, 4)}; adapt'
        ' them by lora, or keep them as arrays'
      )
    return {path: _copy(leaves[path], start) for path, start in starts.items()}

  def combine(params: PyTree, learned: PyTree) -> PyTree:
    places = {
      path: partial(_put, new=new, path=path) for path, new in learned.items()
    }
    return replaced(params, places)

  return Tuning(init, combine)


def _copy(leaf: Any, start: int) -> jax.Array:
  own = jnp.array(leaf, learned_dtype(jnp.result_type(leaf)))
  return own[start:] if start else own


def _put(leaf: Any, new: jax.Array, path: str) -> jax.Array:
  if is_kernel(leaf):
    what = 'adapters' if isinstance(leaf, LowRank) else 'been quantised'
    raise ValueError(f'{path} has {what}, and cannot be learned itself')
  new = new.astype(jnp.result_type(leaf))
  shape, own = jnp.shape(leaf), jnp.shape(new)
  if own == shape:
    return new
  is_stack = _STACKED.match(path) and len(own) == len(shape)
  if not is_stack or own[1:] != shape[1:] or own[0] > shape[0]:
    raise ValueError(
      f'what was learned for {path} has the shape {own}, and there is {shape}:'
      ' it is of other parameters'
    )
  kept = shape[0] - own[0]  # the first of stacked blocks
  return jnp.concatenate([jnp.asarray(leaf)[:kept], new])


def _starts(
  leaves: Mapping[str, Any], select: partition.Select
) -> dict[str, int]:
  """The paths selected, and where on the leading axis it starts."""
  learned = [
    path
    for path, leaf in leaves.items()
    if is_kernel(leaf) or partition.is_learned(path, leaf)
  ]
  if isinstance(select, Last):
    starts = _starts_of_last(leaves, learned, select.number)
  else:
    starts = {path: 0 for path in learned if select(path)}
  if not starts:
    partition.refuse_nothing(select, learned)
  return starts


def _starts_of_last(
  leaves: Mapping[str, Any], learned: list[str], number: int
) -> dict[str, int]:
  blocks = {path: _BLOCK.match(path) for path in learned}
  stacks = {path: _STACKED.match(path) for path in learned}
  depths: dict[tuple[str, str], int] = {}  # of each series of blocks
  for path in learned:
    if found := blocks[path]:
      series, depth = (found[1], found[2]), int(found[3]) + 1
    elif stack := stacks[path]:
      values = jax.tree.leaves(leaves[path])[0]
      series, depth = (stack[1], 'blocks'), jnp.shape(values)[0]
    else:
      continue
    depths[series] = max(depths.get(series, 0), depth)
  if not depths:
    raise ValueError(
      f'last({number}) is for networks of blocks, called block_0, block_1, ...'
      f' or blocks; there are {partition.list_paths(leaves)}'
    )
  if number > min(depths.values()):
    raise ValueError(
      f'last({number}) is more than the {min(depths.values())} blocks that'
      ' there are'
    )
  starts = {}
  for path in learned:
    if found := blocks[path]:
      if int(found[3]) >= depths[found[1], found[2]] - number:
        starts[path] = 0
    elif stack := stacks[path]:
      starts[path] = depths[stack[1], 'blocks'] - number
    elif any(_is_behind(path, before) for before, _ in depths):
      starts[path] = 0
  return starts


def _is_behind(path: str, before: str) -> bool:
  """Whether it is the head, or a normalisation, that stands beside blocks."""
  if not path.startswith(before):
    return False
  name = path[len(before) :].split('/')[0]
  return partition.head(name) or partition.normalisation(name)


@by_value
def together(*tunings: Tuning) -> Tuning:
  """Several tunings at once, such as low-rank adapters and the head.

  Args:
    *tunings: of which no two adapt the same.

  Returns:
    A `Tuning` that learns a tuple of what they learn.

  Raises:
    ValueError: if there are none, or what is no tuning; when it is used, if two
      of them adapt the same array.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> params = {'body': jnp.ones((4, 4)), 'head': jnp.zeros(2)}
    >>> from metajax.models import lora
    >>> both = together(lora(2, 'body'), only(partition.head))
    >>> [list(learned) for learned in both.init(jax.random.key(0), params)]
    [['body'], ['head']]
  """
  if not tunings:
    raise ValueError('together takes tunings, such as lora() and only(...)')
  for tuning in tunings:
    check_tuning(tuning)

  def init(key: jax.Array, params: PyTree) -> PyTree:
    keys = jax.random.split(key, len(tunings))
    learned = tuple(
      tuning.init(own, params)
      for own, tuning in zip(keys, tunings, strict=True)
    )
    by: dict[str, int] = {}
    for number, (tuning, own) in enumerate(zip(tunings, learned, strict=True)):
      for path in _touched(tuning, params, own):
        if by.setdefault(path, number) != number:
          raise ValueError(
            f'tunings {by[path] + 1} and {number + 1} both adapt {path}'
          )
    return learned

  def combine(
    params: PyTree, learned: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    for number, (tuning, own) in enumerate(zip(tunings, learned, strict=True)):
      own_key = None if key is None else jax.random.fold_in(key, number)
      params = with_key(tuning.combine, own_key)(params, own)
    return params

  draws = any(takes_key(tuning.combine) for tuning in tunings)
  return Tuning(init, combine if draws else without_key(combine))


def _touched(tuning: Tuning, params: PyTree, learned: PyTree) -> list[str]:
  """The paths at which a tuning puts something else."""
  before = by_path(params)
  paths: list[str] = []

  def combined(learned: PyTree) -> None:
    after = by_path(tuning.combine(params, learned))
    paths.extend(x for x in after if after[x] is not before.get(x))

  jax.eval_shape(combined, learned)  # nothing is computed
  return paths
