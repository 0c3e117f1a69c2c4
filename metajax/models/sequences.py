r"""Networks over sequences that can be run step by step: a GRU, and attention.

Both read a whole sequence at once, as training wants it, or one step after the
other, as acting does, with the same parameters and the same outputs. These
start at zero, so that at first all is alike.

.. math::
  (m_t, o_t) = \mathrm{step}(\psi, m_{t-1}, x_t), \qquad
  o_{1:T} = \mathrm{apply}(\psi, x_{1:T})
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import EXCLUDED, Apply, InitModel, Model, PyTree
from metajax.equality import by_value
from metajax.models.attention import transformer
from metajax.models.layers import LayerNorm

__all__ = ['SequenceModel', 'decoder', 'gru']


class SequenceModel(NamedTuple):
  """A `Model` of `[sequences, steps, channels]`, and its steps.

  `start` is the memory before the first step of one sequence, and `step` goes
  on by one: `(params, memory, inputs [channels]) -> (memory, outputs)`.
  """

  init: InitModel
  apply: Apply
  start: Callable[[PyTree], PyTree]
  step: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, jax.Array]]

  @property
  def model(self) -> Model:
    """Without its steps."""
    return Model(self.init, self.apply)


@by_value
def gru(num_outputs: int, *, width: int = 64) -> SequenceModel:
  r"""A gated recurrent unit, and a linear head.

  Args:
    num_outputs: of the head.
    width: of the hidden state.

  Returns:
    A `SequenceModel` for sequences of any length.

  Raises:
    ValueError: if a number is not positive.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = gru(3, width=8)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 5, 2)))
    >>> model.apply(params, jnp.zeros((4, 7, 2))).shape
    (4, 7, 3)

  References:
    Cho et al. (2014), Learning phrase representations using RNN
    encoder-decoder for statistical machine translation.
  """
  _check(num_outputs=num_outputs, width=width)
  cell = nn.GRUCell(width)
  head = nn.Dense(num_outputs, kernel_init=nn.initializers.zeros)

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    cell_key, head_key = jax.random.split(key)
    hidden = jnp.zeros((1, width))
    return {
      'cell': cell.init(cell_key, hidden, inputs[:, 0])['params'],
      'head': head.init(head_key, hidden)['params'],
    }

  def start(params: PyTree) -> jax.Array:
    return jnp.zeros(width, params['head']['kernel'].dtype)

  def step(
    params: PyTree, memory: jax.Array, inputs: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    memory, _ = cell.apply({'params': params['cell']}, memory, inputs)
    return memory, head.apply({'params': params['head']}, memory)

  def apply(params: PyTree, inputs: PyTree) -> jax.Array:
    dtype = jnp.result_type(inputs, params['head']['kernel'])
    first = jnp.zeros((len(inputs), width), dtype)

    def go_on(hidden: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
      return cell.apply({'params': params['cell']}, hidden, at)

    _, hidden = jax.lax.scan(go_on, first, jnp.moveaxis(inputs, 1, 0))
    outputs = head.apply({'params': params['head']}, hidden)
    return jnp.moveaxis(outputs, 0, 1)

  return SequenceModel(init, apply, start, step)


class _Cache(NamedTuple):
  """Keys and values of the steps so far."""

  keys: tuple[jax.Array, ...]  # of every block, [steps, heads, channels]
  values: tuple[jax.Array, ...]  # the same
  place: jax.Array  # of the next step


@by_value
def decoder(
  num_outputs: int,
  *,
  width: int = 32,
  depth: int = 2,
  heads: int = 2,
) -> SequenceModel:
  """A causal transformer with positions, whose steps keep keys and values.

  Args:
    num_outputs: of the head.
    width: of the residual stream.
    depth: number of blocks.
    heads: of the attention; they divide the width.

  Returns:
    A `SequenceModel` for sequences of the length of initialisation. A step
    beyond it has no meaning.

  Raises:
    ValueError: if a number is not positive, or `heads` do not divide `width`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = decoder(3, width=8)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 5, 2)))
    >>> memory, outputs = model.step(params, model.start(params), jnp.ones(2))
    >>> whole = model.apply(params, jnp.ones((1, 5, 2)))
    >>> bool(jnp.allclose(outputs, whole[0, 0], atol=1e-5))
    True

  References:
    Vaswani et al. (2017), Attention is all you need.
  """
  _check(num_outputs=num_outputs, width=width, depth=depth, heads=heads)
  whole = transformer(
    num_outputs, width=width, depth=depth, heads=heads, causal=True, pool='none'
  )

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    params = whole.init(key, inputs)
    return {**params, 'head': jax.tree.map(jnp.zeros_like, params['head'])}

  def start(params: PyTree) -> _Cache:
    places = params['positions']
    empty = jnp.zeros((len(places), heads, width // heads), places.dtype)
    return _Cache((empty,) * depth, (empty,) * depth, jnp.int32(0))

  def step(
    params: PyTree, memory: _Cache, inputs: jax.Array
  ) -> tuple[_Cache, jax.Array]:
    place = memory.place
    hidden = _dense(params['inputs'], inputs) + params['positions'][place]
    kept = []
    for index in range(depth):
      block = params[f'block_{index}']
      triple = _dense(block['attention_in'], _norm(block, 0, hidden))
      query, *found = triple.reshape(3, heads, -1)
      keys, values = (
        jax.lax.dynamic_update_index_in_dim(before[index], now, place, 0)
        for before, now in zip(memory[:2], found, strict=True)
      )
      kept.append((keys, values))
      scores = jnp.einsum('hd,khd->hk', query, keys)
      scores = scores / (width // heads) ** 0.5
      seen = jnp.arange(len(keys))[None] <= place
      attention = nn.softmax(jnp.where(seen, scores, EXCLUDED))
      mixed = jnp.einsum('hk,khd->hd', attention, values).reshape(width)
      hidden = hidden + _dense(block['attention_out'], mixed)
      wide = nn.gelu(_dense(block['wide'], _norm(block, 1, hidden)))
      hidden = hidden + _dense(block['narrow'], wide)
    outputs = _dense(params['head'], _norm(params, 0, hidden))
    all_keys, all_values = zip(*kept, strict=True)
    return _Cache(all_keys, all_values, place + 1), outputs

  return SequenceModel(init, whole.apply, start, step)


def _dense(params: PyTree, inputs: jax.Array) -> jax.Array:
  return inputs @ params['kernel'] + params['bias']


def _norm(params: PyTree, number: int, inputs: jax.Array) -> jax.Array:
  layer: Any = LayerNorm()
  return layer.apply({'params': params[f'LayerNorm_{number}']}, inputs)


def _check(**numbers: int) -> None:
  for name, number in numbers.items():
    if number < 1:
      raise ValueError(f'{name} must be 1 or more, got {number}')
