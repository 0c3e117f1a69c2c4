"""Networks, and layers that stay fast when every task has its own weights."""

from metajax.models.adapters import from_linen, from_tree
from metajax.models.attention import transformer
from metajax.models.convolution import convolve
from metajax.models.layers import BatchNorm, Conv, Embedding, LayerNorm
from metajax.models.modes import at_test
from metajax.models.networks import conv4, mlp, resnet12
from metajax.models.nnx_adapter import from_nnx
from metajax.models.pooling import average_pool, max_pool

__all__ = [
  'BatchNorm',
  'Conv',
  'Embedding',
  'LayerNorm',
  'at_test',
  'average_pool',
  'conv4',
  'convolve',
  'from_linen',
  'from_nnx',
  'from_tree',
  'max_pool',
  'mlp',
  'resnet12',
  'transformer',
]
