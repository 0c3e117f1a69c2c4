"""Small networks to be trained: on a few classes of scikit-learn's digits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.digits import load_digits
from metajax import tasks
from metajax.algorithms.recipe import Recipe
from metajax.base import SampleTask

__all__ = ['Digits', 'digits', 'with_training_examples']

_KNOWN = 5  # classes of training: the digits below


class Digits(NamedTuple):
  """Task distributions, and what a reader must know about them."""

  train: SampleTask  # also of validation, and of the tuning of opponents
  test: SampleTask
  protocol: dict[str, Any]


def digits(recipe: Recipe) -> Digits:
  """Reads the digits: 0 to 4 are for training, 5 to 9 for the test."""
  brightness, labels = load_digits('algorithm')
  images = np.round(brightness * (255 / 16)).astype(np.uint8)
  # As many of each class, so that one program serves training and test.
  least = min(np.bincount(labels))
  places = [np.flatnonzero(labels == one)[:least] for one in range(10)]

  def of(classes: range) -> SampleTask:
    chosen = np.concatenate([places[one] for one in classes])
    return tasks.episodes(
      images[chosen],
      labels[chosen],
      recipe.ways,
      recipe.shots,
      recipe.queries,
    )

  return Digits(
    of(range(_KNOWN)),
    of(range(_KNOWN, 10)),
    {
      'ways': recipe.ways,
      'shots': recipe.shots,
      'queries': recipe.queries,
      'split': 'digits 0 to 4 for training, 5 to 9 for the test',
    },
  )


def with_training_examples(sample: SampleTask) -> jax.tree_util.Partial:
  """The same tasks, whose examples of training stand behind the queries."""
  return jax.tree_util.Partial(_with_training, jax.tree_util.Partial(sample))


def _with_training(sample: SampleTask, key: jax.Array) -> Any:
  task = sample(key)
  both = jax.tree.map(
    lambda *leaves: jnp.concatenate(leaves), task.query, task.support
  )
  return task._replace(query=both)
