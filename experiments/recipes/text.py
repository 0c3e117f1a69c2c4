"""Recipes for few-shot classification of texts.

Ours, for features of unit length or small transformers; see docs/results.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from metajax.algorithms.recipe import Recipe

__all__ = ['KIND', 'NETWORK', 'RECIPES']

KIND = 'text'
NETWORK = 'transformer'


def gradient(ways: int, shots: int) -> Recipe:
  """What descends: a few steps in training and at test."""
  return Recipe(
    ways=ways, shots=shots, queries=5, train_queries=5,
    inner_lr=0.5, inner_steps=3, eval_inner_steps=3,
    tasks_per_step=4, steps=1000, log_every=10, checkpoint_every=250,
  )  # fmt: skip


def reptile(ways: int, shots: int) -> Recipe:
  """Moves all the way to what five steps of Adam on a batch have adapted."""
  return gradient(ways, shots)._replace(
    train_shots=5, inner_lr=1e-3, inner_steps=5, eval_inner_steps=50,
    inner_batch=10, eval_inner_batch=ways, outer_lr=1.0,
    outer_schedule='linear',
  )  # fmt: skip


def closed_form(ways: int, shots: int) -> Recipe:
  """What compares: one task a step."""
  return Recipe(
    ways=ways, shots=shots, queries=5, train_ways=ways, train_queries=5,
    tasks_per_step=4, steps=1000, log_every=10, checkpoint_every=250,
  )  # fmt: skip


def in_context(ways: int, shots: int) -> Recipe:
  """What reads: more of a task than what compares."""
  return closed_form(ways, shots)


def classes(ways: int, shots: int, **changes: Any) -> Recipe:
  """What trains on all classes of training at once, and adapts at test."""
  recipe = Recipe(
    ways=ways, shots=shots, queries=5, batch_size=64,
    inner_lr=0.5, inner_steps=100, eval_inner_steps=100,
    tasks_per_step=1, steps=2000, log_every=10, checkpoint_every=500,
  )  # fmt: skip
  return recipe._replace(**changes)


def untrained(ways: int, shots: int, **changes: Any) -> Recipe:
  """What learns nothing before a task."""
  recipe = Recipe(ways=ways, shots=shots, queries=5, steps=0, short_steps=0)
  return recipe._replace(**changes)


# Adam, as in images.
_FINE_TUNED: dict[str, Any] = {
  'inner_lr': 1e-3,
  'inner_steps': 50,
  'eval_inner_steps': 50,
}

_GRADIENT = (
  'maml', 'fomaml', 'anil', 'boil', 'meta_sgd', 'meta_curvature',
  'maml_plus_plus', 'alfa', 'imaml', 'es_maml',
)  # fmt: skip
_COMPARES = (
  'protonet', 'protomaml', 'matchingnet', 'matchingnet_fce', 'siamese', 'r2d2',
  'lr_d2', 'metaoptnet', 'protonet_hallucination', 'delta_encoder', 'leo',
)  # fmt: skip

RECIPES: dict[str, Callable[[int, int], Recipe]] = {
  **dict.fromkeys(_GRADIENT, gradient),
  'reptile': reptile,
  **dict.fromkeys(_COMPARES, closed_form),
  **dict.fromkeys(['in_context', 'metaicl'], in_context),
  **dict.fromkeys(
    ['baseline', 'baseline_plus_plus', 'multi_task', 'nearest_mean'], classes
  ),
  'transfer': partial(classes, **_FINE_TUNED),
  'scratch': partial(untrained, **_FINE_TUNED),
}
