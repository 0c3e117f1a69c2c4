"""Streams: classes that come one after another, and tasks of those so far."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, ByStep, Task
from metajax.equality import EqualPartial
from metajax.tasks._examples import decoded, stored
from metajax.tasks.episodes import as_examples
from metajax.tasks.places import (
  choose_examples,
  choose_without_replacement,
  places_by_class,
)
from metajax.tasks.task_sizes import check_sizes, split_episode

__all__ = ['arriving', 'class_streams']


def class_streams(
  images: np.ndarray | jax.Array,
  labels: np.ndarray,
  ways: int,
  shots: int,
  queries: int,
  remembered: int,
) -> jax.tree_util.Partial:
  """Streams of classes one after another, with the labels of all classes.

  What `metajax.oml` trains on: the support set are `ways` classes in turn,
  `shots` different examples of each; the queries are others of these classes,
  and some of all classes, which are to be remembered.

  Args:
    images: as for `metajax.tasks.episodes`.
    labels: integer classes `[examples]`, any values; targets are their ranks.
    ways: classes of a stream.
    shots: examples of each in the stream.
    queries: others of each among the queries.
    remembered: examples of all classes among the queries, drawn alike.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images.

  Raises:
    ValueError: if a count is not positive, if there are fewer classes than
      `ways` or only one, or if a class has fewer than `shots + queries`
      examples.

  Example:
    >>> images, labels = np.zeros((12, 4)), np.arange(12) % 3
    >>> sample = class_streams(images, labels, 2, 3, 1, remembered=4)
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((6, 4), (6,))
  """
  check_sizes(ways, shots, queries)
  if remembered < 1:
    raise ValueError(f'remembered must be 1 or more, got {remembered}')
  table, counts = _classes(images, labels, ways, shots + queries)
  return jax.tree_util.Partial(
    EqualPartial(_stream, ways, shots, queries, remembered),
    jnp.asarray(stored(as_examples(images))),
    jnp.asarray(table),
    jnp.asarray(counts),
  )


def _stream(
  ways: int,
  shots: int,
  queries: int,
  remembered: int,
  images: jax.Array,
  table: jax.Array,
  counts: jax.Array,
  key: jax.Array,
) -> Task:
  class_key, example_key, other_key, place_key = jax.random.split(key, 4)
  classes = choose_without_replacement(class_key, len(table), ways)
  own = choose_examples(
    example_key, table[classes], counts[classes], shots + queries
  )
  others = jax.random.randint(other_key, (remembered,), 0, len(table))
  chosen = jax.random.randint(place_key, (remembered,), 0, counts[others])

  def batch(places: jax.Array, targets: jax.Array) -> Batch:
    return Batch(decoded(images[places]), targets.astype(jnp.int32))

  places = jnp.concatenate([own[:, shots:].reshape(-1), table[others, chosen]])
  return Task(
    batch(own[:, :shots].reshape(-1), jnp.repeat(classes, shots)),
    batch(places, jnp.concatenate([jnp.repeat(classes, queries), others])),
  )


def arriving(
  images: np.ndarray | jax.Array,
  labels: np.ndarray,
  ways: int,
  shots: int,
  queries: int,
  *,
  steps_each: int = 1,
) -> ByStep:
  """Few-shot tasks of the classes that have come so far, which get more.

  What follow-the-meta-leader trains on: a growing buffer of all that was seen.
  Classes come in the order of their labels, `ways` of them before the first
  step, and one more after every `steps_each` steps. None is drawn before.

  Args:
    images: as for `metajax.tasks.episodes`.
    labels: integer classes `[examples]`; the smallest come first.
    ways: classes of a task.
    shots: support examples of each.
    queries: query examples of each.
    steps_each: steps from one class to the next.

  Returns:
    A `ByStep`, for `make_train_step`.

  Raises:
    ValueError: if a count is not positive, if there are fewer classes than
      `ways` or only one, or if a class has fewer than `shots + queries`
      examples.

  Example:
    >>> images, labels = np.zeros((12, 4)), np.arange(12) % 4
    >>> sample = arriving(images, labels, 2, 1, 1, steps_each=10)
    >>> sample.at(20)(jax.random.key(0)).support.inputs.shape
    (2, 4)

  References:
    Finn, Rajeswaran, Kakade, Levine (2019), Online meta-learning,
    https://arxiv.org/abs/1902.08438
  """
  check_sizes(ways, shots, queries)
  if steps_each < 1:
    raise ValueError(f'steps_each must be 1 or more, got {steps_each}')
  table, counts = _classes(images, labels, ways, shots + queries)
  return ByStep(
    jax.tree_util.Partial(
      EqualPartial(_of_so_far, ways, shots, queries, steps_each),
      jnp.asarray(stored(as_examples(images))),
      jnp.asarray(table),
      jnp.asarray(counts),
    )
  )


def _of_so_far(
  ways: int,
  shots: int,
  queries: int,
  steps_each: int,
  images: jax.Array,
  table: jax.Array,
  counts: jax.Array,
  key: jax.Array,
  step: jax.Array,
) -> Task:
  class_key, example_key, order_key = jax.random.split(key, 3)
  number = jnp.minimum(ways + step // steps_each, len(table))
  classes = choose_without_replacement(class_key, number, ways)
  places = choose_examples(
    example_key, table[classes], counts[classes], shots + queries
  )
  return split_episode(order_key, decoded(images[places]), ways, shots)


def _classes(
  images: np.ndarray | jax.Array, labels: np.ndarray, ways: int, each: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where examples of each class are, and how many there are."""
  examples = len(as_examples(images))
  if np.shape(labels) != (examples,):
    raise ValueError(
      f'every image has a label: labels are [{examples}], got shape'
      f' {list(np.shape(labels))}'
    )
  classes, table, counts = places_by_class(labels)
  if len(classes) < 2:
    raise ValueError(
      f'a stream needs examples of 2 classes or more, got {len(classes)}'
    )
  if ways > len(classes):
    raise ValueError(f'{ways} ways, but there are only {len(classes)} classes')
  if counts.min() < each:
    smallest = classes[counts.argmin()]
    raise ValueError(
      f'{each} examples of each class, but class {smallest} has only'
      f' {counts.min()}'
    )
  return table, counts
