"""Vectors that a transformer reads beside its tokens."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.models.tuning._trees import (
  added,
  by_path,
  check_count,
  heads_of,
  learned_dtype,
)
from metajax.models.tuning.kernels import kernel_dtype
from metajax.models.tuning.tunings import Tuning

__all__ = ['prefix', 'soft_prompt']

_SPREAD = 0.02  # of the keys and values that are drawn


@by_value
def soft_prompt(length: int) -> Tuning:
  """Learns vectors that stand in front of the embedded tokens.

  They start as the embeddings of tokens drawn from the vocabulary.

  Args:
    length: how many vectors.

  Returns:
    A `Tuning` that learns `[length, width]`, which `apply` finds as
    `params['prompt']`: for models that honour it, as pretrained transformers
    of this library do.

  Raises:
    ValueError: if `length` is not from 1; when it is used, if the parameters
      have no `embeddings/token`, or a prompt already.

  References:
    Lester, Al-Rfou, Constant (2021), The power of scale for parameter-efficient
    prompt tuning, https://arxiv.org/abs/2104.08691

  Example:
    >>> import jax, jax.numpy as jnp
    >>> params = {'embeddings': {'token': jnp.ones((100, 8))}}
    >>> soft_prompt(3).init(jax.random.key(0), params).shape
    (3, 8)
  """
  check_count('the length of a prompt', length)

  def init(key: jax.Array, params: PyTree) -> PyTree:
    table = by_path(params).get('embeddings/token')
    if not isinstance(params, Mapping) or table is None:
      raise ValueError(
        'a soft prompt is for transformers with embeddings/token among their'
        f' parameters; there are {partition.list_paths(by_path(params))}'
      )
    added(params, 'prompt', table)  # or it is refused
    places = jax.random.randint(key, (length,), 0, len(table))
    table = jnp.asarray(table)
    return table[places].astype(learned_dtype(table.dtype))

  def combine(params: PyTree, learned: PyTree) -> PyTree:
    return added(params, 'prompt', learned)

  return Tuning(init, combine)


@by_value
def prefix(length: int, heads: int) -> Tuning:
  """Learns keys and values that every position of every block may attend to.

  They are drawn from a normal distribution of spread 0.02.

  Args:
    length: how many pairs of them.
    heads: of keys and values in a block (`heads_of_keys` of a configuration).

  Returns:
    A `Tuning` that learns, for every attention, `key` and `value` `[length,
    heads, head width]`, with a leading axis of layers for stacked blocks. The
    `apply` of a model finds them as `attention/prefix` of its blocks: for
    models that honour it, as pretrained transformers of this library do.

  Raises:
    ValueError: if `length` or `heads` is not from 1; when it is used, if the
      parameters have no attention, if the heads do not divide the width of its
      keys, or if it has a prefix already.

  References:
    Li, Liang (2021), Prefix-tuning, https://arxiv.org/abs/2101.00190

  Example:
    >>> import jax, jax.numpy as jnp
    >>> kernel = {'kernel': jnp.ones((8, 8))}
    >>> params = {'block_0': {'attention': {'key': kernel, 'value': kernel}}}
    >>> learned = prefix(3, heads=2).init(jax.random.key(0), params)
    >>> learned['block_0/attention']['key'].shape
    (3, 2, 4)
  """
  check_count('the length of a prefix', length)
  check_count('heads', heads)

  def init(key: jax.Array, params: PyTree) -> PyTree:
    leaves = by_path(params)
    where = [
      path
      for path in heads_of(leaves, 'key/kernel')
      if path.split('/')[-1] == 'attention' and f'{path}/value/kernel' in leaves
    ]
    if not where:
      raise ValueError(
        'a prefix is for transformers whose blocks have attention/key/kernel'
        ' and attention/value/kernel; there are'
        f' {partition.list_paths(leaves)}'
      )
    learned = {}
    for own_key, path in zip(
      jax.random.split(key, len(where)), where, strict=True
    ):
      kernels = {x: leaves[f'{path}/{x}/kernel'] for x in ('key', 'value')}
      if any(other.startswith(f'{path}/prefix/') for other in leaves):
        raise ValueError(f'{path} has a prefix already')
      keys = dict(zip(kernels, jax.random.split(own_key), strict=True))
      learned[path] = {
        name: _draw(keys[name], f'{path}/{name}', kernel, length, heads)
        for name, kernel in kernels.items()
      }
    return learned

  def combine(params: PyTree, learned: PyTree) -> PyTree:
    for path, own in learned.items():
      params = added(params, f'{path}/prefix', own)
    return params

  return Tuning(init, combine)


def _draw(
  key: jax.Array, path: str, kernel: Any, length: int, heads: int
) -> jax.Array:
  *leading, _, width = kernel.shape
  if width % heads:
    raise ValueError(
      f'{heads} heads do not divide the {width} outputs of {path}; give the'
      ' heads of keys, heads_of_keys of the configuration'
    )
  return _SPREAD * jax.random.normal(
    key,
    (*leading, length, heads, width // heads),
    learned_dtype(kernel_dtype(kernel)),
  )
