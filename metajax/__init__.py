"""Meta-learning as pure functions of JAX, exact to second order.

A method is a way to adapt times a way to estimate the meta-gradient:

  >>> import jax, metajax
  >>> from metajax.models import mlp
  >>> learner = metajax.maml(mlp([40, 40], 1), metajax.mean_squared_error)

Task distributions are in `metajax.tasks`, networks in `metajax.models`, and
the table of all methods with their published settings in
`metajax.algorithms.table`.
"""

from metajax.algorithms import (
  alfa,
  anil,
  baseline,
  baseline_plus_plus,
  boil,
  cavia,
  delta_encoder,
  es_maml,
  fomaml,
  from_scratch,
  gaussian_likelihood,
  hallucinate,
  imaml,
  in_context,
  leo,
  lr_d2,
  maml,
  maml_plus_plus,
  matchingnet,
  meta_curvature,
  meta_sgd,
  metaoptnet,
  multi_task,
  nearest_class_mean,
  nearest_mean,
  neural_process,
  protomaml,
  protonet,
  r2d2,
  relation_error,
  relationnet,
  reptile,
  siamese,
  transfer,
  warpgrad,
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
from metajax.devices.mesh import make_mesh
from metajax.devices.parallel import (
  choose_chunk_size,
  data_parallel,
  microbatch,
)
from metajax.estimators import (
  backprop,
  displacement,
  evolution,
  gradient_of,
)
from metajax.inner.accumulate import accumulate
from metajax.inner.descend import Descent, descend
from metajax.inner.implicit import implicit_minimum
from metajax.objectives import (
  confidence_interval,
  cross_entropy,
  mean_squared_error,
)
from metajax.precision import with_precision
from metajax.runs.evaluation import Evaluation, evaluate
from metajax.runs.training import TrainState, TrainStep, make_train_step
from metajax.wrappers.distillation import distil
from metajax.wrappers.ensemble import ensemble
from metajax.wrappers.mining import candidates, hardest
from metajax.wrappers.selection import select

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
  'alfa',
  'anil',
  'backprop',
  'baseline',
  'baseline_plus_plus',
  'boil',
  'candidates',
  'cavia',
  'choose_chunk_size',
  'confidence_interval',
  'cross_entropy',
  'data_parallel',
  'delta_encoder',
  'descend',
  'displacement',
  'distil',
  'ensemble',
  'es_maml',
  'evaluate',
  'evolution',
  'fomaml',
  'from_scratch',
  'gaussian_likelihood',
  'gradient_of',
  'hallucinate',
  'hardest',
  'imaml',
  'implicit_minimum',
  'in_context',
  'leo',
  'lr_d2',
  'make_mesh',
  'make_train_step',
  'maml',
  'maml_plus_plus',
  'map_tasks',
  'matchingnet',
  'mean_squared_error',
  'meta_curvature',
  'meta_sgd',
  'metaoptnet',
  'microbatch',
  'multi_task',
  'nearest_class_mean',
  'nearest_mean',
  'neural_process',
  'protomaml',
  'protonet',
  'r2d2',
  'relation_error',
  'relationnet',
  'reptile',
  'sample_tasks',
  'select',
  'siamese',
  'transfer',
  'warpgrad',
  'with_precision',
]
