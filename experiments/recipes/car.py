"""Recipes for driving: those of waves, for an input of five numbers.

Ours. What a car does depends on five numbers at once: networks are wider than
those of waves, and rates fall to zero over the steps. Tuned are `r2d2` and
`meta_sgd`; others of inner steps take the rate and the steps of the latter.
"""

from typing import Any

from metajax.algorithms.recipe import Recipe

__all__ = ['driving']

_STEPPED = {'inner_lr': 0.1, 'inner_steps': 5, 'eval_inner_steps': 5}
_CHANGES: dict[str, dict[str, Any]] = {
  'maml': _STEPPED,
  'fomaml': _STEPPED,
  'anil': _STEPPED,
  'boil': _STEPPED,
  'meta_sgd': _STEPPED,
  'meta_curvature': _STEPPED,
  'maml_plus_plus': _STEPPED,
  'r2d2': {'steps': 10_000},
}


def driving(recipe: Recipe, name: str) -> Recipe:
  """The recipe of a method for waves, as it is for cars.

  Args:
    recipe: that for waves.
    name: of the method.
  """
  recipe = recipe._replace(
    width=max(64, recipe.width or 0),
    shots=16,
    queries=64,
    train_queries=16,
    tasks_per_step=25,
    steps=recipe.steps and 6000,
    outer_schedule='cosine',
    log_every=50,
    checkpoint_every=1000,
    eval_inner_steps=recipe.inner_steps,
  )
  return recipe._replace(**_CHANGES.get(name, {}))
