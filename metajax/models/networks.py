"""Networks of the few-shot literature, as `metajax.Model`s."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model
from metajax.models.adapters import network
from metajax.models.layers import BatchNorm, Conv, name_of
from metajax.models.pooling import max_pool
from metajax.models.windows import Lowering

__all__ = ['conv4', 'mlp', 'resnet12']


def _warp(index: int, width: int) -> nn.Module:
  """A linear map of channels, the identity at first."""

  def identity(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
  ) -> jax.Array:
    del key
    return jnp.eye(shape[0], dtype=dtype)

  return nn.Dense(
    width, use_bias=False, kernel_init=identity, name=f'warp_{index}'
  )


class _MLP(nn.Module):
  widths: Sequence[int]
  num_outputs: int
  warps: bool

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs.reshape(inputs.shape[0], -1)
    for index, width in enumerate(self.widths):
      hidden = nn.Dense(width)(hidden)
      if self.warps:
        hidden = _warp(index, width)(hidden)
      hidden = nn.relu(hidden)
    return nn.Dense(self.num_outputs, name='head')(hidden)


def mlp(
  widths: Sequence[int], num_outputs: int, *, warps: bool = False
) -> Model:
  """A fully connected ReLU network; its last layer is called `head`.

  Args:
    widths: of the hidden layers; Finn's sinusoid network is `[40, 40]`.
    num_outputs: of the last layer.
    warps: whether a linear layer called `warp_...`, the identity at first,
      stands before every ReLU (see `metajax.warpgrad`).

  Returns:
    A model of inputs `[examples, ...]`, flattened.
  """
  return network(_MLP(tuple(widths), num_outputs, warps))


class _Conv4(nn.Module):
  num_outputs: int | None
  width: int
  downsample: str
  pool: str
  lowering: Lowering
  warps: bool
  halvings: int
  normalisation: str

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs
    for index in range(4):
      stride, pool = (2, 1) if self.downsample == 'stride' else (1, 2)
      if index >= self.halvings:
        stride, pool = 1, 1
      # A bias before batch normalisation has no effect, and a maximum may as
      # well be taken before what preserves order.
      hidden = Conv(
        self.width, stride=stride, use_bias=False, lowering=self.lowering
      )(hidden)
      if self.warps:
        hidden = _warp(index, self.width)(hidden)
      if self.normalisation == 'batch':
        hidden = BatchNorm(pool=pool, lowering=self.lowering)(hidden)
      else:
        hidden = nn.GroupNorm(num_groups=1, epsilon=1e-3)(hidden)
        if pool > 1:
          hidden = max_pool(
            hidden,
            pool,
            lowering=self.lowering,
            name=f'{name_of(self)}: max_pool',
          )
      hidden = nn.relu(hidden)
    if self.pool == 'mean':
      hidden = jnp.mean(hidden, axis=(1, 2))
    if self.pool != 'none':
      hidden = hidden.reshape(hidden.shape[0], -1)
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
  pool: Literal['mean', 'flatten', 'none'] = 'mean',
  lowering: Lowering = 'auto',
  warps: bool = False,
  halvings: int = 4,
  normalisation: Literal['batch', 'example'] = 'batch',
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
      everything, flattened (Reptile, ProtoNet), or as it is (RelationNet).
    lowering: of convolutions and pooling, see `metajax.models.convolve`.
    warps: whether a linear map of the channels called `warp_...`, the identity
      at first, stands after every convolution (see `metajax.warpgrad`).
    halvings: how many of the layers halve the side, the first ones.
    normalisation: by the statistics of the batch, or of each example by itself,
      over all of its pixels and channels (group normalisation with one group),
      which is the same for one example alone as among others: where examples
      come one at a time (`metajax.oml`).

  Returns:
    A model of inputs `[examples, height, width, channels]`.

  Raises:
    ValueError: if `downsample`, `pool` or `normalisation` is none of the above,
      or `halvings` is not from 0 to 4.

  References:
    Vinyals et al. (2016), Matching networks for one shot learning.
    Finn, Abbeel, Levine (2017), Model-agnostic meta-learning.
  """
  if downsample not in ('stride', 'max_pool'):
    raise ValueError(
      f"downsample must be 'stride' or 'max_pool', got {downsample!r}"
    )
  if pool not in ('mean', 'flatten', 'none'):
    raise ValueError(f"pool must be 'mean', 'flatten' or 'none', got {pool!r}")
  if not 0 <= halvings <= 4:
    raise ValueError(f'halvings must be from 0 to 4, got {halvings}')
  if normalisation not in ('batch', 'example'):
    raise ValueError(
      f"normalisation must be 'batch' or 'example', got {normalisation!r}"
    )
  return network(
    _Conv4(
      num_outputs, width, downsample, pool, lowering, warps, halvings,
      normalisation,
    )
  )  # fmt: skip


class _ResidualBlock(nn.Module):
  features: int
  lowering: Lowering

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    def normalised(hidden: jax.Array, size: int) -> jax.Array:
      convolution = Conv(
        self.features, size, use_bias=False, lowering=self.lowering
      )
      return BatchNorm()(convolution(hidden))

    hidden = nn.leaky_relu(normalised(inputs, 3), 0.1)
    hidden = nn.leaky_relu(normalised(hidden, 3), 0.1)
    hidden = normalised(hidden, 3) + normalised(inputs, 1)
    return max_pool(
      nn.leaky_relu(hidden, 0.1),
      lowering=self.lowering,
      name=f'{name_of(self)}: max_pool',
    )


class _ResNet12(nn.Module):
  num_outputs: int | None
  widths: Sequence[int]
  lowering: Lowering

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs
    for width in self.widths:
      hidden = _ResidualBlock(width, self.lowering)(hidden)
    hidden = jnp.mean(hidden, axis=(1, 2))
    if self.num_outputs is None:
      return hidden
    return nn.Dense(self.num_outputs, name='head')(hidden)


def resnet12(
  num_outputs: int | None,
  *,
  widths: Sequence[int] = (64, 160, 320, 640),
  lowering: Lowering = 'auto',
) -> Model:
  """The residual network of few-shot learning: four blocks of three layers.

  Each block adds a 1x1 convolution of its inputs to three 3x3 convolutions
  with batch normalisation, and halves the side by 2x2 max-pooling. There is no
  DropBlock: the model is a function of its parameters and inputs.

  Args:
    num_outputs: of the head; `None` leaves it out (an embedding).
    widths: channels of the blocks.
    lowering: of convolutions and pooling, see `metajax.models.convolve`.

  Returns:
    A model of inputs `[examples, height, width, channels]`, of sides from 16
    with four blocks.

  References:
    Oreshkin, Rodriguez, Lacoste (2018), TADAM.
    Lee, Maji, Ravichandran, Soatto (2019), Meta-learning with differentiable
    convex optimization.
  """
  return network(_ResNet12(num_outputs, tuple(widths), lowering))
