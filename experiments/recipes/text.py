"""Recipes for few-shot classification of texts.

Ours, for features of unit length or small transformers; see docs/results.md.
"""

from collections.abc import Callable

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


def closed_form(ways: int, shots: int) -> Recipe:
  """What compares: one task a step."""
  return Recipe(
    ways=ways, shots=shots, queries=5, train_queries=5,
    tasks_per_step=4, steps=1000, log_every=10, checkpoint_every=250,
  )  # fmt: skip


RECIPES: dict[str, Callable[[int, int], Recipe]] = {
  **dict.fromkeys(
    ['maml', 'fomaml', 'anil', 'meta_sgd', 'boil', 'imaml'], gradient
  ),
  **dict.fromkeys(
    ['protonet', 'r2d2', 'matchingnet', 'protomaml'], closed_form
  ),
}
