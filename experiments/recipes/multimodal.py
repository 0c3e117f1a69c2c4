"""Recipes for tasks of images and texts, with one state for all of them."""

from collections.abc import Callable

from metajax.algorithms.recipe import Recipe
from metajax.inner import partition

__all__ = ['KIND', 'NETWORK', 'RECIPES']

KIND = 'multimodal'
NETWORK = 'conv4'  # of the images

# Encoders of a modality are learned in training alone.
_SHARED = partition.matching('^shared/')


def gradient(ways: int, shots: int) -> Recipe:
  """What descends: the last layers, in a few steps."""
  return Recipe(
    ways=ways, shots=shots, queries=5, train_queries=5,
    inner_lr=0.4, inner_steps=3, eval_inner_steps=3,
    tasks_per_step=4, steps=1500, log_every=50, checkpoint_every=500,
  )  # fmt: skip


def on_shared(ways: int, shots: int) -> Recipe:
  """What descends, told that it is all that encoders share."""
  return gradient(ways, shots)._replace(options={'adapts': _SHARED})


def closed_form(ways: int, shots: int) -> Recipe:
  """What compares: with classes of one modality those of another."""
  return gradient(ways, shots)._replace(inner_steps=1, eval_inner_steps=1)


RECIPES: dict[str, Callable[[int, int], Recipe]] = {
  **dict.fromkeys(['maml', 'fomaml', 'meta_sgd'], on_shared),
  'anil': gradient,
  **dict.fromkeys(['protonet', 'r2d2', 'matchingnet'], closed_form),
}
