"""Networks, and layers that stay fast when every task has its own weights."""

from metajax.models.layers import BatchNorm, Conv, max_pool
from metajax.models.networks import conv4, from_linen, mlp

__all__ = ['BatchNorm', 'Conv', 'conv4', 'from_linen', 'max_pool', 'mlp']
