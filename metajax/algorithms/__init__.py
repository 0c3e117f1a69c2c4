"""One file a method. The table of all of them is `metajax.algorithms.table`."""

from metajax.adaptation.gradient_learner import gradient_learner
from metajax.adaptation.learned_descent import learned_descent
from metajax.algorithms.alfa import alfa
from metajax.algorithms.anil import anil
from metajax.algorithms.boil import boil
from metajax.algorithms.cavia import cavia
from metajax.algorithms.delta_encoder import delta_encoder
from metajax.algorithms.es_maml import es_maml
from metajax.algorithms.fomaml import fomaml
from metajax.algorithms.hallucination import hallucinate
from metajax.algorithms.imaml import imaml
from metajax.algorithms.in_context import in_context
from metajax.algorithms.leo import leo
from metajax.algorithms.lr_d2 import lr_d2
from metajax.algorithms.maml import maml
from metajax.algorithms.maml_plus_plus import maml_plus_plus
from metajax.algorithms.matchingnet import matchingnet
from metajax.algorithms.meta_curvature import meta_curvature
from metajax.algorithms.meta_sgd import meta_sgd
from metajax.algorithms.metaoptnet import metaoptnet
from metajax.algorithms.multi_task import multi_task
from metajax.algorithms.neural_process import (
  gaussian_likelihood,
  neural_process,
)
from metajax.algorithms.protomaml import protomaml
from metajax.algorithms.protonet import protonet
from metajax.algorithms.r2d2 import r2d2
from metajax.algorithms.relationnet import relation_error, relationnet
from metajax.algorithms.reptile import reptile
from metajax.algorithms.scratch import from_scratch, nearest_class_mean
from metajax.algorithms.siamese import siamese
from metajax.algorithms.transfer import (
  baseline,
  baseline_plus_plus,
  nearest_mean,
  transfer,
)
from metajax.algorithms.warpgrad import warpgrad

__all__ = [
  'alfa',
  'anil',
  'baseline',
  'baseline_plus_plus',
  'boil',
  'cavia',
  'delta_encoder',
  'es_maml',
  'fomaml',
  'from_scratch',
  'gaussian_likelihood',
  'gradient_learner',
  'hallucinate',
  'imaml',
  'in_context',
  'learned_descent',
  'leo',
  'lr_d2',
  'maml',
  'maml_plus_plus',
  'matchingnet',
  'meta_curvature',
  'meta_sgd',
  'metaoptnet',
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
  'siamese',
  'transfer',
  'warpgrad',
]
