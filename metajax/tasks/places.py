"""Places of examples in labelled data, of which the samplers of tasks are made.

A task whose inputs are places is drawn from labels alone: what lies there is
gathered on the device, or in the memory of the host.
"""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Task
from metajax.equality import EqualPartial
from metajax.tasks.task_sizes import check_sizes, draw_size, split_episode

__all__ = [
  'choose_examples',
  'choose_without_replacement',
  'classification_places',
  'episode_places',
  'places_by_class',
]


def episode_places(
  labels: np.ndarray,
  ways: int,
  shots: int,
  queries: int,
  *,
  min_ways: int | None = None,
  min_shots: int | None = None,
  groups: np.ndarray | None = None,
) -> jax.tree_util.Partial:
  """The tasks of `episodes`, with places in the data as inputs.

  Args and errors are those of `episodes`.
  """
  check_sizes(ways, shots, queries, min_ways, min_shots)
  classes, table, counts = places_by_class(labels)
  if ways > len(classes):
    raise ValueError(f'{ways} ways, but there are only {len(classes)} classes')
  if counts.min() < shots + queries:
    smallest = classes[counts.argmin()]
    raise ValueError(
      f'{shots} shots + {queries} queries, but class {smallest} has only'
      f' {counts.min()} examples'
    )
  sample = EqualPartial(
    _sample_places, ways, shots, queries, min_ways, min_shots
  )
  return jax.tree_util.Partial(
    sample, table, counts, _table_of_groups(groups, len(classes), ways)
  )


def classification_places(
  labels: np.ndarray, batch_size: int
) -> jax.tree_util.Partial:
  """The tasks of `classification`, with places in the data as inputs.

  Args and errors are those of `classification`.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size must be 1 or more, got {batch_size}')
  _, ranks = np.unique(np.asarray(labels), return_inverse=True)
  return jax.tree_util.Partial(
    EqualPartial(_sample_batch, batch_size), ranks.astype(np.int32)
  )


def places_by_class(
  labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The values there are, where each is, and how often.

  Row v of the table lists the places of value v, padded by repetition.
  """
  values, counts = np.unique(np.asarray(labels), return_counts=True)
  order = np.argsort(labels, kind='stable')
  starts = np.cumsum(counts) - counts
  positions = np.arange(counts.max())[None, :] % counts[:, None]
  table = order[starts[:, None] + positions]
  return values, table.astype(np.int32), counts.astype(np.int32)


def _table_of_groups(
  groups: np.ndarray | None, num_classes: int, ways: int
) -> tuple[np.ndarray, np.ndarray] | None:
  """The classes of every group that has enough, and how many it has."""
  if groups is None:
    return None
  if np.shape(groups) != (num_classes,):
    raise ValueError(
      f'{num_classes} classes need as many groups, in one dimension; got shape'
      f' {np.shape(groups)}'
    )
  _, table, counts = places_by_class(groups)
  enough = counts >= ways
  if not enough.any():
    raise ValueError(
      f'{ways} ways within a group, but the largest of the {len(counts)}'
      f' groups has only {counts.max()} classes'
    )
  return table[enough], counts[enough]


def choose_examples(
  key: jax.Array, table: jax.Array, counts: jax.Array, number: int
) -> jax.Array:
  """Draws different examples of each class.

  Args:
    key: a typed key.
    table: rows of `places_by_class` `[ways, places]`.
    counts: how many of them are no padding `[ways]`.
    number: how many to draw of each, no more than there are.

  Returns:
    Places `[ways, number]`.
  """

  def draw(key: jax.Array, row: jax.Array, count: jax.Array) -> jax.Array:
    # The smallest of random numbers, padding last: a draw without replacement.
    priority = jax.random.uniform(key, row.shape, jnp.float32)
    priority = jnp.where(jnp.arange(len(row)) < count, priority, 2.0)
    return row[jnp.argsort(priority)[:number]]

  return jax.vmap(draw)(jax.random.split(key, len(table)), table, counts)


def _sample_places(
  ways: int,
  shots: int,
  queries: int,
  min_ways: int | None,
  min_shots: int | None,
  table: jax.Array | np.ndarray,
  counts: jax.Array | np.ndarray,
  groups: tuple[jax.Array | np.ndarray, jax.Array | np.ndarray] | None,
  key: jax.Array,
) -> Task:
  class_key, example_key, order_key = jax.random.split(key, 3)
  # These keys are none of the three above.
  size_key, group_key = (jax.random.fold_in(key, i) for i in (3, 4))
  if groups is None:
    classes = choose_without_replacement(class_key, len(table), ways)
  else:
    members, sizes = map(jnp.asarray, groups)
    group = jax.random.randint(group_key, (), 0, len(sizes))
    classes = members[group][
      choose_without_replacement(class_key, sizes[group], ways)
    ]

  chosen = choose_examples(
    example_key,
    jnp.asarray(table)[classes],
    jnp.asarray(counts)[classes],
    shots + queries,
  )
  size = draw_size(size_key, ways, shots, min_ways, min_shots)
  return split_episode(order_key, chosen, ways, shots, size)


def _sample_batch(
  batch_size: int, labels: jax.Array | np.ndarray, key: jax.Array
) -> Task:
  chosen = jax.random.randint(key, (batch_size,), 0, len(labels), jnp.int32)
  batch = Batch(chosen, jnp.asarray(labels)[chosen])
  return Task(batch, batch)


def choose_without_replacement(
  key: jax.Array, population: int | jax.Array, count: int
) -> jax.Array:
  """Draws `count` different numbers below `population`, in random order.

  Floyd's algorithm: the work grows with `count` alone, where
  `jax.random.choice` sorts the whole population (68 ms for 32 tasks of
  Omniglot with rotations, against 0.15 ms).

  Args:
    key: a typed key.
    population: how many numbers there are, an integer.
    count: how many are drawn, at most `population`.

  Returns:
    int32 `[count]`.

  References:
    Bentley, Floyd (1987), Programming pearls: a sample of brilliance.
  """
  draw_key, order_key = jax.random.split(key)
  last = population - count + jnp.arange(count, dtype=jnp.int32)
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
