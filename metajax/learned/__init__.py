"""Learned optimisers and losses, and estimators of how to learn them."""

from metajax.learned.estimators import (
  evolved,
  persistent,
  truncated,
  unrolled,
)
from metajax.learned.learner import (
  learn_optimizer,
  training_learner,
  training_unroll,
)
from metajax.learned.losses import init_learned_loss, learned_loss
from metajax.learned.optimizers import (
  OPTIMIZERS,
  check_weights,
  init_learned_adam,
  init_mlp_optimizer,
  learned_adam,
  mlp_optimizer,
)
from metajax.learned.unrolls import (
  LABELS,
  LearnedParams,
  Unfinished,
  Unroll,
  begin,
)
from metajax.learned.weights import load_weights, save_weights

__all__ = [
  'LABELS',
  'OPTIMIZERS',
  'LearnedParams',
  'Unfinished',
  'Unroll',
  'begin',
  'check_weights',
  'evolved',
  'init_learned_adam',
  'init_learned_loss',
  'init_mlp_optimizer',
  'learn_optimizer',
  'learned_adam',
  'learned_loss',
  'load_weights',
  'mlp_optimizer',
  'persistent',
  'save_weights',
  'training_learner',
  'training_unroll',
  'truncated',
  'unrolled',
]
