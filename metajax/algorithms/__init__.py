"""One file a method, and the table of all of them.

The names of methods follow from the table: what is there is exported here and
by `metajax`.
"""

from typing import TYPE_CHECKING

from metajax.adaptation.gradient_learner import gradient_learner
from metajax.adaptation.learned_descent import learned_descent
from metajax.algorithms.neural_process import gaussian_likelihood
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.relationnet import relation_error
from metajax.algorithms.table import *  # noqa: F403
from metajax.algorithms.table import FACTORIES

# What `metajax` exports of it, too.
METHODS = sorted([*FACTORIES, 'gaussian_likelihood', 'relation_error'])

if not TYPE_CHECKING:  # which takes all names above for exported
  from metajax.algorithms.table import __all__ as _table

  __all__ = sorted(
    [
      *_table,
      'METHODS',
      'Recipe',
      'gaussian_likelihood',
      'gradient_learner',
      'learned_descent',
      'relation_error',
    ]
  )
