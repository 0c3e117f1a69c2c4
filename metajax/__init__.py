"""Meta-learning as pure functions of JAX, exact to second order.

A method is a way to adapt times a way to estimate the meta-gradient:

  >>> import jax, metajax
  >>> from metajax.models import mlp
  >>> learner = metajax.maml(mlp([40, 40], 1), metajax.mean_squared_error)

Task distributions are in `metajax.tasks`, networks in `metajax.models`, and
the table of all methods in
`metajax.algorithms.table`.
"""

from typing import TYPE_CHECKING

from metajax import bilevel, control, learned, models, tasks
from metajax.adaptation.gradient_learner import gradient_learner
from metajax.adaptation.learned_descent import learned_descent
from metajax.adaptation.outer_optimizers import freeze, outer_optimizer
from metajax.algorithms import *  # noqa: F403
from metajax.algorithms import METHODS as _METHODS
from metajax.base import (
  Adaptation,
  Batch,
  ByStep,
  Learner,
  MetaLearner,
  Model,
  Task,
  Weighted,
  map_tasks,
  sample_tasks,
)
from metajax.devices.mesh import make_mesh
from metajax.devices.parallel import (
  choose_chunk_size,
  data_parallel,
  microbatch,
)
from metajax.equality import by_value
from metajax.estimators import (
  backprop,
  displacement,
  evolution,
  evolution_of,
  gradient_of,
)
from metajax.inner.accumulate import accumulate
from metajax.inner.descend import Descent, descend
from metajax.inner.implicit import implicit_minimum, implicit_root
from metajax.inner.optimizers import adam, clip_by_global_norm
from metajax.metric import Metric, with_metrics
from metajax.objectives import (
  confidence_interval,
  cross_entropy,
  mean_squared_error,
)
from metajax.precision import with_precision
from metajax.runs.checking import check
from metajax.runs.evaluation import Evaluation, evaluate
from metajax.runs.mixture import alternate
from metajax.runs.training import (
  SkippedSteps,
  TrainState,
  TrainStep,
  Varied,
  make_train_step,
)
from metajax.trained import load
from metajax.wrappers.committee import committee, fit_weights
from metajax.wrappers.distillation import distil
from metajax.wrappers.ensemble import ensemble
from metajax.wrappers.mining import candidates, hardest
from metajax.wrappers.selection import select
from metajax.wrappers.self_destruct import self_destruct

__version__ = '0.1.0'

# Names of methods follow from the table of them.
if not TYPE_CHECKING:  # which takes all names above for exported
  __all__ = sorted(
    [
      *_METHODS,
      'Adaptation',
      'Batch',
      'ByStep',
      'Descent',
      'Evaluation',
      'Learner',
      'MetaLearner',
      'Metric',
      'Model',
      'SkippedSteps',
      'Task',
      'TrainState',
      'TrainStep',
      'Varied',
      'Weighted',
      'accumulate',
      'adam',
      'alternate',
      'backprop',
      'bilevel',
      'by_value',
      'candidates',
      'check',
      'choose_chunk_size',
      'clip_by_global_norm',
      'committee',
      'confidence_interval',
      'control',
      'cross_entropy',
      'data_parallel',
      'descend',
      'displacement',
      'distil',
      'ensemble',
      'evaluate',
      'evolution',
      'evolution_of',
      'fit_weights',
      'freeze',
      'gradient_learner',
      'gradient_of',
      'hardest',
      'implicit_minimum',
      'implicit_root',
      'learned',
      'learned_descent',
      'load',
      'make_mesh',
      'make_train_step',
      'map_tasks',
      'mean_squared_error',
      'microbatch',
      'models',
      'outer_optimizer',
      'sample_tasks',
      'select',
      'self_destruct',
      'tasks',
      'with_metrics',
      'with_precision',
    ]
  )
