"""Methods as they are published, ready to be measured."""

from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import MetaLearner, Objective
from metajax.models.encoders import encoder

__all__ = ['make_learner']


def make_learner(
  method: str, recipe: Recipe, num_outputs: int, objective: Objective
) -> MetaLearner:
  """Makes a method with the network that its recipe names.

  Args:
    method: a row of `ALGORITHMS` that adapts a network.
    recipe: of the method.
    num_outputs: of the network, where the method wants outputs of it.
    objective: what is minimised.
  """
  assert recipe.network is not None
  row = ALGORITHMS[method]
  model = encoder(
    recipe.network,
    row.head,
    num_outputs,
    width=recipe.width,
    depth=recipe.depth,
  )
  return row.make(model, objective, recipe)
