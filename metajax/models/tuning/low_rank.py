"""Low-rank adapters: LoRA, rank-stabilised LoRA, and DoRA."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.models.modes import without_key
from metajax.models.tuning._trees import (
  check_count,
  kernels,
  learned_dtype,
  replaced,
  selection,
)
from metajax.models.tuning.kernels import LowRank, kernel_dtype
from metajax.models.tuning.tunings import Tuning

__all__ = ['Kind', 'lora']

Kind = Literal['lora', 'dora', 'rslora']


@by_value
def lora(
  rank: int = 8,
  targets: str | partition.Select = 'attention/(query|value)',
  scale: float = 8.0,
  dropout: float = 0.0,
  kind: Kind = 'lora',
) -> Tuning:
  r"""Adapts kernels by a product of low rank beside each.

  .. math:: W' = W + s A B, \qquad A \in R^{in \times r}, B \in R^{r \times out}

  :math:`A` is drawn uniformly from :math:`\pm 1 / \sqrt{in}` as in the code of
  the paper, and :math:`B` is zero: at first outputs are exactly those of the
  base. A kernel with leading axes, such as one of stacked blocks, has an
  adapter for each of its matrices. Adapters are float32 beside kernels of fewer
  bits, which stay as they are.

  Args:
    rank: of the product, at most the smaller side of a kernel.
    targets: which layers, as a regular expression that is searched in the
      paths of their kernels, or as a predicate. A bias beside a kernel that is
      found is passed over.
    scale: alpha in the papers; :math:`s` is `scale / rank`, in `'rslora'`
      `scale / sqrt(rank)`.
    dropout: the share of the inputs of :math:`A` that are dropped in training.
    kind: `'lora'`, `'rslora'`, or `'dora'`, which learns the length of every
      column too (see `LowRank`).

  Returns:
    A `Tuning` that learns, for the path of every kernel, `a` `[..., in, rank]`,
    `b` `[..., rank, out]`, and under DoRA `magnitude` `[..., out]`, the change
    of the lengths.

  Raises:
    ValueError: if an argument is none of the above; when it is used, if
      `targets` finds nothing, or what is no kernel of a product, or if the rank
      is larger than a side of a kernel, or if what was learned is of kernels of
      other shapes, or of another rank or kind.

  References:
    Hu et al. (2021), LoRA, https://arxiv.org/abs/2106.09685
    Kalajdzievski (2023), A rank stabilization scaling factor for fine-tuning
    with LoRA, https://arxiv.org/abs/2312.03732
    Liu et al. (2024), DoRA, https://arxiv.org/abs/2402.09353

  Example:
    >>> import jax, jax.numpy as jnp
    >>> adapt = lora(rank=2, targets='layer')
    >>> params = {'layer': {'kernel': jnp.ones((4, 3)), 'bias': jnp.zeros(3)}}
    >>> learned = adapt.init(jax.random.key(0), params)
    >>> {name: leaf.shape for name, leaf in learned['layer/kernel'].items()}
    {'a': (4, 2), 'b': (2, 3)}
    >>> adapt.combine(params, learned)['layer']['kernel']
    LowRank([4, 3], rank 2; an array by materialised or fold)
  """
  _check(rank, scale, dropout, kind)
  selection(targets)  # or it is refused
  factor = scale / (math.sqrt(rank) if kind == 'rslora' else rank)

  def init(key: jax.Array, params: PyTree) -> PyTree:
    found = kernels(params, targets)
    keys = jax.random.split(key, len(found))
    return {
      path: _draw(own_key, path, kernel, rank, kind)
      for own_key, (path, kernel) in zip(keys, found.items(), strict=True)
    }

  def combine(
    params: PyTree, learned: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    adapters: dict[str, Callable[[Any], LowRank]] = {}
    for number, (path, own) in enumerate(sorted(learned.items())):
      own_key = None if key is None else jax.random.fold_in(key, number)
      adapters[path] = partial(
        _adapted, path=path, learned=own, key=own_key, rank=rank, kind=kind,
        scale=factor, dropout=dropout,
      )  # fmt: skip
    return replaced(params, adapters)

  return Tuning(init, combine if dropout else without_key(combine))


def _check(rank: Any, scale: Any, dropout: Any, kind: Any) -> None:
  check_count('rank', rank)
  for name, number in (('scale', scale), ('dropout', dropout)):
    if not isinstance(number, int | float) or isinstance(number, bool):
      raise ValueError(f'{name} must be a number, got {number!r}')
  if not math.isfinite(scale) or scale == 0:
    raise ValueError(f'scale must be finite and not 0, got {scale!r}')
  if not 0 <= dropout < 1:
    raise ValueError(f'dropout must be from 0 to below 1, got {dropout!r}')
  if kind not in get_args(Kind):
    raise ValueError(
      f'kind must be one of {", ".join(get_args(Kind))}, got {kind!r}'
    )


def _draw(
  key: jax.Array, path: str, kernel: Any, rank: int, kind: Kind
) -> dict[str, jax.Array]:
  *leading, inputs, outputs = kernel.shape
  if rank > min(inputs, outputs):
    raise ValueError(
      f'a rank of {rank} is above the smaller side of {path}, which is'
      f' {inputs} x {outputs}: give rank={min(inputs, outputs)} or less, or'
      ' other targets'
    )
  dtype = learned_dtype(kernel_dtype(kernel))
  bound = 1 / math.sqrt(inputs)
  learned = {
    'a': jax.random.uniform(
      key, (*leading, inputs, rank), dtype, -bound, bound
    ),
    'b': jnp.zeros((*leading, rank, outputs), dtype),
  }
  if kind == 'dora':
    learned['magnitude'] = jnp.zeros((*leading, outputs), dtype)
  return learned


def _adapted(
  kernel: Any,
  path: str,
  learned: dict[str, jax.Array],
  key: jax.Array | None,
  rank: int,
  kind: Kind,
  scale: float,
  dropout: float,
) -> LowRank:
  if isinstance(kernel, LowRank):
    raise ValueError(
      'a kernel that has low-rank adapters cannot have more of them: fold the'
      ' first, or select other layers'
    )
  *leading, inputs, outputs = kernel.shape
  expected = {'a': (*leading, inputs, rank), 'b': (*leading, rank, outputs)}
  if kind == 'dora':
    expected['magnitude'] = (*leading, outputs)
  got = {name: jnp.shape(each) for name, each in learned.items()}
  # A product with one column would be added to all of them, and one of another
  # rank has another scale.
  if got != expected:
    raise ValueError(
      f'the adapter of {path} was learned in the shapes {got}, and must have'
      f' {expected}: it is of other parameters, or of another rank or kind'
    )
  if key is not None:  # one for every matrix
    leading = jnp.shape(learned['a'])[:-2]
    key = jax.random.key_data(
      jax.random.split(key, leading) if leading else key
    )
  return LowRank(
    kernel, **learned, dropout_key=key, scale=scale, dropout=dropout
  )
