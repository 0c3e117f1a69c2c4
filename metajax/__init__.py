"""Meta-learning as pure functions of JAX, exact to second order.

A method is a way to adapt times a way to estimate the meta-gradient:

  >>> import jax, metajax
  >>> from metajax.models import mlp
  >>> learner = metajax.maml(mlp([40, 40], 1), metajax.mean_squared_error)

Task distributions are in `metajax.tasks`, networks in `metajax.models`, and
the table of all methods with their published settings in
`metajax.algorithms.table`.
"""

from metajax.accumulate import accumulate
from metajax.algorithms import (
  anil,
  fomaml,
  from_scratch,
  maml,
  nearest_class_mean,
  protonet,
  reptile,
)
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Model,
  Task,
  map_tasks,
  sample_tasks,
)
from metajax.estimators import backprop, displacement
from metajax.inner_loop import Descent, descend
from metajax.mesh import make_mesh
from metajax.objectives import (
  confidence_interval,
  cross_entropy,
  mean_squared_error,
)
from metajax.parallel import choose_chunk_size, data_parallel, microbatch
from metajax.precision import with_precision
from metajax.training import (
  Evaluation,
  TrainState,
  TrainStep,
  evaluate,
  make_train_step,
)

__version__ = '0.1.0'

__all__ = [
  'Adaptation',
  'Batch',
  'Descent',
  'Evaluation',
  'Learner',
  'MetaLearner',
  'Model',
  'Task',
  'TrainState',
  'TrainStep',
  'accumulate',
  'anil',
  'backprop',
  'choose_chunk_size',
  'confidence_interval',
  'cross_entropy',
  'data_parallel',
  'descend',
  'displacement',
  'evaluate',
  'fomaml',
  'from_scratch',
  'make_mesh',
  'make_train_step',
  'maml',
  'map_tasks',
  'mean_squared_error',
  'microbatch',
  'nearest_class_mean',
  'protonet',
  'reptile',
  'sample_tasks',
  'with_precision',
]
