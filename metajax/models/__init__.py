"""Networks, and layers that stay fast when every task has its own weights."""

from metajax.models.adapters import from_linen, from_tree
from metajax.models.attention import transformer
from metajax.models.convolution import convolve
from metajax.models.layers import BatchNorm, Conv, Embedding, LayerNorm
from metajax.models.modalities import multimodal
from metajax.models.modes import at_test
from metajax.models.networks import conv4, mlp, resnet12
from metajax.models.nnx_adapter import from_nnx
from metajax.models.pooling import average_pool, max_pool
from metajax.models.tuning import (
  Tuning,
  fold,
  last,
  lora,
  materialised,
  only,
  prefix,
  quantise,
  soft_prompt,
  together,
  tuned,
)

__all__ = [
  'BatchNorm',
  'Conv',
  'Embedding',
  'LayerNorm',
  'Tuning',
  'at_test',
  'average_pool',
  'conv4',
  'convolve',
  'fold',
  'from_linen',
  'from_nnx',
  'from_tree',
  'last',
  'lora',
  'materialised',
  'max_pool',
  'mlp',
  'multimodal',
  'only',
  'prefix',
  'quantise',
  'resnet12',
  'soft_prompt',
  'together',
  'transformer',
  'tuned',
]
