"""One file a method. The table of all of them is `metajax.algorithms.table`."""

from metajax.algorithms.anil import anil
from metajax.algorithms.fomaml import fomaml
from metajax.algorithms.maml import gradient_learner, maml
from metajax.algorithms.protonet import protonet
from metajax.algorithms.reptile import reptile
from metajax.algorithms.scratch import from_scratch, nearest_class_mean

__all__ = [
  'anil',
  'fomaml',
  'from_scratch',
  'gradient_learner',
  'maml',
  'nearest_class_mean',
  'protonet',
  'reptile',
]
