"""The inner loop: how to adapt by gradient, and how to differentiate it."""

from metajax.inner import accumulate, descend, implicit, partition, second_order

__all__ = ['accumulate', 'descend', 'implicit', 'partition', 'second_order']
