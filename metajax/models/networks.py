"""Networks of the few-shot literature, as `metajax.Model`s."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model, PyTree
from metajax.models.layers import BatchNorm, Conv, max_pool


def from_linen(module: nn.Module) -> Model:
  """Wraps a stateless flax module.

  Args:
    module: all its variables are in the collection `params`. Layers that keep
      normalisation statistics do so in the collection `statistics`, as
      `metajax.models.BatchNorm` does.

  Returns:
    A `Model` whose parameters are the contents of `params`.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> model = from_linen(nn.Dense(3))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(params, jnp.zeros((5, 2))).shape
    (5, 3)
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return module.init(key, inputs)['params']

  def apply(params: PyTree, inputs: PyTree) -> PyTree:
    return module.apply({'params': params}, inputs)

  def measure(params: PyTree, inputs: PyTree) -> PyTree:
    _, measured = module.apply(
      {'params': params}, inputs, mutable=['statistics']
    )
    return measured.get('statistics', {})

  def freeze(statistics: PyTree) -> Model:
    def apply_frozen(params: PyTree, inputs: PyTree) -> PyTree:
      return module.apply({'params': params, 'statistics': statistics}, inputs)

    return Model(init, apply_frozen)

  return Model(init, apply, measure, freeze)


class _MLP(nn.Module):
  widths: Sequence[int]
  num_outputs: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs.reshape(len(inputs), -1)
    for width in self.widths:
      hidden = nn.relu(nn.Dense(width)(hidden))
    return nn.Dense(self.num_outputs, name='head')(hidden)


def mlp(widths: Sequence[int], num_outputs: int) -> Model:
  """A fully connected ReLU network; its last layer is called `head`.

  Args:
    widths: of the hidden layers; Finn's sinusoid network is `[40, 40]`.
    num_outputs: of the last layer.

  Returns:
    A model of inputs `[examples, ...]`, flattened.
  """
  return from_linen(_MLP(tuple(widths), num_outputs))


class _Conv4(nn.Module):
  num_outputs: int | None
  width: int
  downsample: str
  pool: str

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs
    stride = 2 if self.downsample == 'stride' else 1
    for _ in range(4):
      # A bias before batch normalisation has no effect.
      hidden = Conv(self.width, stride=stride, use_bias=False)(hidden)
      hidden = nn.relu(BatchNorm()(hidden))
      if self.downsample == 'max_pool':
        hidden = max_pool(hidden)
    if self.pool == 'mean':
      hidden = jnp.mean(hidden, axis=(1, 2))
    hidden = hidden.reshape(len(hidden), -1)
    if self.num_outputs is None:
      return hidden
    return nn.Dense(
      self.num_outputs,
      kernel_init=nn.initializers.glorot_uniform(),
      name='head',
    )(hidden)


def conv4(
  num_outputs: int | None,
  *,
  width: int = 64,
  downsample: Literal['stride', 'max_pool'] = 'stride',
  pool: Literal['mean', 'flatten'] = 'mean',
) -> Model:
  """The four-layer convolutional network of few-shot learning.

  Four times a 3x3 convolution, batch normalisation and ReLU, each halving the
  side, then a linear layer called `head`.

  Args:
    num_outputs: of the head; `None` leaves it out (an embedding).
    width: channels of every layer.
    downsample: by a stride of 2 (Omniglot in the papers on MAML and Reptile)
      or by 2x2 max-pooling (ProtoNet, and miniImageNet everywhere).
    pool: what stands before the head: the spatial mean (MAML on Omniglot) or
      everything, flattened (Reptile, ProtoNet).

  Returns:
    A model of inputs `[examples, height, width, channels]`.

  Raises:
    ValueError: if `downsample` or `pool` is none of the above.

  References:
    Vinyals et al. (2016), Matching networks for one shot learning.
    Finn, Abbeel, Levine (2017), Model-agnostic meta-learning.
  """
  if downsample not in ('stride', 'max_pool'):
    raise ValueError(
      f"downsample must be 'stride' or 'max_pool', got {downsample!r}"
    )
  if pool not in ('mean', 'flatten'):
    raise ValueError(f"pool must be 'mean' or 'flatten', got {pool!r}")
  return from_linen(_Conv4(num_outputs, width, downsample, pool))
