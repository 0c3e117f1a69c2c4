"""Recipes for tables whose target is one of two classes.

Ours, for segments of clients with tens of labelled cases each; `shots` are rows
of a task, not of a class. Recipes for numbers are those of regression.
"""

from metajax.algorithms.recipe import Recipe

__all__ = ['KIND', 'NETWORK', 'RECIPES']

KIND = 'tables'
NETWORK = 'mlp'

_MAML = Recipe(
  width=64, depth=2, ways=2,
  shots=20, queries=40, train_queries=40,
  inner_lr=0.1, inner_steps=3, eval_inner_steps=3,
  tasks_per_step=16, steps=1000, short_steps=1000,
  log_every=50, checkpoint_every=500,
)  # fmt: skip
_CLOSED = _MAML._replace(inner_steps=1, eval_inner_steps=1)

RECIPES: dict[str, Recipe] = {
  'maml': _MAML,
  'fomaml': _MAML,
  'anil': _MAML,
  'meta_sgd': _MAML,
  'protonet': _CLOSED,
  'matchingnet': _CLOSED,
  'r2d2': _CLOSED,
  'lr_d2': _CLOSED,
  'in_context': _CLOSED._replace(depth=1),
  'scratch': _MAML._replace(
    inner_steps=50, eval_inner_steps=50, steps=0, short_steps=0
  ),
}
