"""Recipes for acting: an environment that differs from task to task.

Shots are episodes before adaptation, queries episodes after it. Rates are for
the mean over steps of an episode, with advantages of deviation 1.
"""

from metajax.algorithms.recipe import Recipe

__all__ = ['KIND', 'NETWORK', 'RECIPES']

KIND = 'control'
NETWORK = 'mlp'

_MAML = Recipe(
  width=64, depth=2,
  shots=20, queries=20,
  inner_lr=0.5, inner_steps=1, eval_inner_steps=3,
  outer_lr=3e-3, tasks_per_step=20, steps=400,
  log_every=10, checkpoint_every=50,
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
  'maml': _MAML,
  'fomaml': _MAML,
  'meta_sgd': _MAML,
  'reptile': _MAML._replace(
    inner_lr=1e-3, outer_lr=1.0, outer_schedule='linear'
  ),
  'es_maml': _MAML,
}
