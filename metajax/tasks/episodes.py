"""Episodes: few-shot classification tasks over any labelled array."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Task


def split_episode(
  key: jax.Array, inputs: jax.Array, ways: int, shots: int
) -> Task:
  """Turns examples grouped by class into a shuffled task.

  Both the support set and the queries are put in random order: sorted ones
  would let a model that sees a whole batch read the class off the position.

  Args:
    key: of the order.
    inputs: `[ways, shots + queries, ...]`; class i of the task is row i.
    ways: number of classes.
    shots: how many of each class go to the support set, the first ones.

  Returns:
    A task with inputs `[examples, ...]` and integer targets `[examples]`.
  """

  def shuffled(key: jax.Array, inputs: jax.Array) -> Batch:
    each = inputs.shape[1]
    order = jax.random.permutation(key, ways * each)
    targets = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), each)
    return Batch(inputs.reshape(-1, *inputs.shape[2:])[order], targets[order])

  support_key, query_key = jax.random.split(key)
  return Task(
    shuffled(support_key, inputs[:, :shots]),
    shuffled(query_key, inputs[:, shots:]),
  )


def episodes(
  images: np.ndarray | jax.Array,
  labels: np.ndarray,
  ways: int,
  shots: int,
  queries: int,
) -> jax.tree_util.Partial:
  """Makes any labelled array a distribution of few-shot tasks.

  A task draws `ways` classes without replacement, numbers them at random, and
  draws `shots + queries` different examples of each: two gathers from an array
  that stays on the device. (`HostEpisodes` draws the same tasks from an array
  that does not fit there.)

  Args:
    images: `[examples, height, width]` or `[examples, height, width,
      channels]`; integers are taken as 0 to 255 and scaled to [0, 1].
    labels: integer classes `[examples]`, any values.
    ways: classes per task.
    shots: support examples per class.
    queries: query examples per class.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images, so
    they are an argument of whatever is compiled, not a constant in it. Inputs
    are float32 `[examples, height, width, channels]`.

  Raises:
    ValueError: if a count is not positive, if there are more or fewer labels
      than images or fewer classes than `ways`, or if a class has fewer than
      `shots + queries` examples.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = episodes(images, np.arange(12) % 3, ways=2, shots=1, queries=3)
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((2, 4, 4, 1), (6,))
  """
  table, counts = _table_of_classes(len(images), labels, ways, shots, queries)
  if images.ndim == 3:
    images = images[..., None]
  return jax.tree_util.Partial(
    partial(_sample_episode, ways, shots, queries),
    jnp.asarray(images),
    jnp.asarray(table),
    jnp.asarray(counts),
  )


class HostEpisodes:
  """The tasks of `episodes`, from an array that stays on the host.

  With the same key it draws the same task. `make_train_step` streams from it:
  tasks are drawn ahead on the host while devices adapt to those before
  (`metajax.streaming`). Elsewhere it is a sampler like any other, which calls
  the host for its images.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = HostEpisodes(images, np.arange(12) % 3, 2, 1, 3)
    >>> sample(jax.random.key(0)).support.inputs.shape
    (2, 4, 4, 1)
  """

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray,
    ways: int,
    shots: int,
    queries: int,
  ) -> None:
    """Reads nothing yet: `images` may be a `numpy.memmap`.

    Args:
      images: as for `episodes`.
      labels: as for `episodes`.
      ways: classes per task.
      shots: support examples per class.
      queries: query examples per class.

    Raises:
      ValueError: as `episodes` does.
    """
    table, counts = _table_of_classes(len(images), labels, ways, shots, queries)
    self._images = images[..., None] if images.ndim == 3 else images
    self._sample_indices = jax.jit(
      partial(_sample_indices, ways, shots, queries, table, counts)
    )
    self._sample_many = jax.jit(jax.vmap(self._sample_indices))

  def draw(self, keys: jax.Array) -> Task:
    """Draws one task per key on the host; images as they are stored."""
    tasks = jax.tree.map(np.asarray, self._sample_many(keys))
    return _with_inputs(tasks, self._gather)

  def decode(self, drawn: Task) -> Task:
    """Scales the images of a task that was drawn."""
    return _with_inputs(drawn, _scaled)

  def __call__(self, key: jax.Array) -> Task:
    """Draws a task inside jit, by a call back to the host."""

    def fetch(indices: jax.Array) -> jax.Array:
      shape = jax.ShapeDtypeStruct(
        (*indices.shape, *self._images.shape[1:]), self._images.dtype
      )
      images: jax.Array = jax.pure_callback(
        self._gather, shape, indices, vmap_method='expand_dims'
      )
      return _scaled(images)

    return _with_inputs(self._sample_indices(key), fetch)

  def _gather(self, indices: np.ndarray) -> np.ndarray:
    return self._images[np.asarray(indices)]


def _table_of_classes(
  num_images: int, labels: np.ndarray, ways: int, shots: int, queries: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where the examples of every class are, and how many; or ValueError."""
  for name, count in (('ways', ways), ('shots', shots), ('queries', queries)):
    if count < 1:
      raise ValueError(f'{name} must be 1 or more, got {count}')
  # A gather would clamp indices out of range without a word.
  if np.shape(labels) != (num_images,):
    raise ValueError(
      f'{num_images} images need as many integer labels, in one dimension;'
      f' got {np.size(labels)} labels of shape {np.shape(labels)}'
    )
  classes, counts = np.unique(np.asarray(labels), return_counts=True)
  if ways > len(classes):
    raise ValueError(f'{ways} ways, but there are only {len(classes)} classes')
  if counts.min() < shots + queries:
    smallest = classes[counts.argmin()]
    raise ValueError(
      f'{shots} shots + {queries} queries, but class {smallest} has only'
      f' {counts.min()} examples'
    )
  # Row c lists where the examples of class c are, padded by repetition.
  order = np.argsort(labels, kind='stable')
  starts = np.cumsum(counts) - counts
  positions = np.arange(counts.max())[None, :] % counts[:, None]
  table = order[starts[:, None] + positions]
  return table.astype(np.int32), counts.astype(np.int32)


def _sample_episode(
  ways: int,
  shots: int,
  queries: int,
  images: jax.Array,
  table: jax.Array,
  counts: jax.Array,
  key: jax.Array,
) -> Task:
  indices = _sample_indices(ways, shots, queries, table, counts, key)
  return _with_inputs(indices, lambda inputs: _scaled(images[inputs]))


def _sample_indices(
  ways: int,
  shots: int,
  queries: int,
  table: jax.Array | np.ndarray,
  counts: jax.Array | np.ndarray,
  key: jax.Array,
) -> Task:
  """A task whose inputs are the places of its images in the data."""
  class_key, example_key, order_key = jax.random.split(key, 3)
  classes = choose_without_replacement(class_key, len(table), ways)

  def draw(key: jax.Array, row: jax.Array, count: jax.Array) -> jax.Array:
    # The smallest of random numbers, padding last: a draw without replacement.
    priority = jax.random.uniform(key, row.shape, jnp.float32)
    priority = jnp.where(jnp.arange(len(row)) < count, priority, 2.0)
    return row[jnp.argsort(priority)[: shots + queries]]

  chosen = jax.vmap(draw)(
    jax.random.split(example_key, ways),
    jnp.asarray(table)[classes],
    jnp.asarray(counts)[classes],
  )
  return split_episode(order_key, chosen, ways, shots)


def _with_inputs(task: Task, change: Callable[[Any], Any]) -> Task:
  """A task with other inputs for the same targets."""
  return Task(*(each._replace(inputs=change(each.inputs)) for each in task))


def _scaled(images: jax.Array) -> jax.Array:
  if jnp.issubdtype(images.dtype, jnp.integer):
    return images.astype(jnp.float32) / 255
  return images


def choose_without_replacement(
  key: jax.Array, population: int, count: int
) -> jax.Array:
  """Draws `count` different numbers below `population`, in random order.

  Floyd's algorithm: the work grows with `count` alone, where
  `jax.random.choice` sorts the whole population (68 ms for 32 tasks of
  Omniglot with rotations, against 0.15 ms).

  Args:
    key: a typed key.
    population: how many numbers there are.
    count: how many are drawn, at most `population`.

  Returns:
    int32 `[count]`.

  References:
    Bentley, Floyd (1987), Programming pearls: a sample of brilliance.
  """
  draw_key, order_key = jax.random.split(key)
  last = jnp.arange(population - count, population, dtype=jnp.int32)
  draws = jax.random.randint(draw_key, (count,), 0, last + 1, jnp.int32)

  def take(
    chosen: jax.Array, step: tuple[jax.Array, jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    index, draw, last = step
    taken = jnp.any(chosen == draw)
    return chosen.at[index].set(jnp.where(taken, last, draw)), None

  empty = jnp.full((count,), -1, jnp.int32)
  chosen, _ = jax.lax.scan(take, empty, (jnp.arange(count), draws, last))
  return jax.random.permutation(order_key, chosen)
