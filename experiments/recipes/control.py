"""Recipes for acting: an environment that differs from task to task.

Shots are episodes before adaptation, queries episodes after it. Rates are for
the mean over steps of an episode, with advantages of deviation 1.
"""

from metajax.algorithms.recipe import Recipe

__all__ = ['KIND', 'NETWORK', 'PROXIMAL_LR', 'RECIPES']

KIND = 'control'
NETWORK = 'mlp'
PROXIMAL_LR = 5e-4  # of PPO outside, which takes several steps at a time

_MAML = Recipe(
  width=64, depth=2,
  shots=20, queries=20,
  inner_lr=0.5, inner_steps=1, eval_inner_steps=1,
  outer_lr=3e-3, tasks_per_step=20, steps=200,
  log_every=10, checkpoint_every=50,
)  # fmt: skip

# Of a method with a memory, an episode is a part of a trial, and shots are
# none that it looks at. Its own Adam takes the steps, at the inner rate, of
# which the outer one is a share.
_RL2 = Recipe(
  network='gru', width=64,
  shots=1, queries=1, chunk_size=128,
  inner_lr=3e-3, inner_steps=0, eval_inner_steps=0,
  outer_lr=1.0, outer_schedule='linear', tasks_per_step=128, steps=2000,
  log_every=25, checkpoint_every=500,
  options={'discount': 0.9},
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
  'maml': _MAML,
  'fomaml': _MAML,
  'meta_sgd': _MAML,
  # Of a single update the mean over tasks leads nowhere.
  'reptile': _MAML._replace(
    inner_lr=0.02,
    inner_steps=5,
    eval_inner_steps=5,
    outer_lr=1.0,
    outer_schedule='linear',
  ),
  'es_maml': _MAML,
  'rl2': _RL2,
  'rl2_attention': _RL2._replace(
    network='decoder', width=32, depth=2, inner_lr=1e-3
  ),
}
