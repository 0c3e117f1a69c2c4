"""Episodes: few-shot classification tasks over any labelled array."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import PADDING, Batch, Task


class TaskSize(NamedTuple):
  """How many classes a task has, and support examples of each."""

  ways: jax.Array  # int32 []
  shots: jax.Array  # int32 []


def draw_size(
  key: jax.Array,
  ways: int,
  shots: int,
  min_ways: int | None,
  min_shots: int | None,
) -> TaskSize | None:
  """Draws the size of a task, uniformly; None where there is no choice.

  Args:
    key: a typed key.
    ways: at most so many classes.
    shots: at most so many support examples per class.
    min_ways: at least so many classes; `ways` by default.
    min_shots: at least so many examples; `shots` by default.
  """
  if min_ways is None and min_shots is None:
    return None

  def draw(key: jax.Array, least: int | None, most: int) -> jax.Array:
    least = most if least is None else least
    return jax.random.randint(key, (), least, most + 1, jnp.int32)

  ways_key, shots_key = jax.random.split(key)
  return TaskSize(
    draw(ways_key, min_ways, ways), draw(shots_key, min_shots, shots)
  )


def check_sizes(
  ways: int,
  shots: int,
  queries: int,
  min_ways: int | None = None,
  min_shots: int | None = None,
) -> None:
  """Refuses sizes of tasks that cannot be meant."""
  for name, count in (('ways', ways), ('shots', shots), ('queries', queries)):
    if count < 1:
      raise ValueError(f'{name} must be 1 or more, got {count}')
  for name, least, most in (
    ('ways', min_ways, ways),
    ('shots', min_shots, shots),
  ):
    if least is not None and not 1 <= least <= most:
      raise ValueError(
        f'min_{name} must be from 1 to {name}, which is {most} and what all'
        f' tasks are filled up to; got {least}'
      )


def split_episode(
  key: jax.Array,
  inputs: jax.Array,
  ways: int,
  shots: int,
  size: TaskSize | None = None,
) -> Task:
  """Turns examples grouped by class into a shuffled task.

  Both the support set and the queries are put in random order: sorted ones
  would let a model that sees a whole batch read the class off the position.

  A task that is smaller than that has the same shapes, so all sizes are one
  compilation. It is filled up with its own examples, again and again, which
  leaves the statistics of a batch about as they are; their target is
  `metajax.base.PADDING`, by which objectives and class means leave them out.

  Args:
    key: of the order.
    inputs: `[ways, shots + queries, ...]`; class i of the task is row i.
    ways: number of classes.
    shots: how many of each class go to the support set, the first ones.
    size: use the first ways alone, and the first shots of them.

  Returns:
    A task with inputs `[examples, ...]` and integer targets `[examples]`.
  """

  def shuffled(
    key: jax.Array, inputs: jax.Array, real_each: jax.Array | None = None
  ) -> Batch:
    each = inputs.shape[1]
    order = jax.random.permutation(key, ways * each)
    targets = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), each)
    if size is not None:
      way, example = targets, jnp.arange(ways * each) % each
      real_each = jnp.int32(each) if real_each is None else real_each
      real = (way < size.ways) & (example < real_each)
      targets = jnp.where(real, targets, PADDING)
      again = (way % size.ways, example % real_each)
      inputs = inputs[again].reshape(inputs.shape)
    return Batch(inputs.reshape(-1, *inputs.shape[2:])[order], targets[order])

  support_key, query_key = jax.random.split(key)
  return Task(
    shuffled(support_key, inputs[:, :shots], size.shots if size else None),
    shuffled(query_key, inputs[:, shots:]),
  )


def pad_task(task: Task, ways: int, support: int, queries: int) -> Task:
  """Fills a task of any size up to a fixed one, as `split_episode` does.

  For tasks of one's own, on the host: what is compiled for one of them is
  compiled for all.

  Args:
    task: arrays; inputs `[examples, ...]`, integer targets `[examples]`.
    ways: the most classes that a task may have.
    support: examples of the support set that results.
    queries: queries that result.

  Returns:
    A task of NumPy arrays.

  Raises:
    ValueError: if the task is larger than that, if a batch is empty or a
      target is no class, or if queries are of a class without support.

  Example:
    >>> import numpy as np
    >>> small = Batch(np.zeros((2, 4, 4, 1)), np.array([1, 0]))
    >>> pad_task(Task(small, small), ways=5, support=4, queries=3)[0].targets
    array([ 1,  0, -1, -1], dtype=int32)
  """

  def padded(name: str, batch: Batch, size: int) -> Batch:
    targets = np.asarray(batch.targets, np.int32)
    if not 1 <= len(targets) <= size:
      raise ValueError(
        f'{name} of {len(targets)} examples cannot be filled up to {size}'
      )
    if targets.min() < 0 or targets.max() >= ways:
      raise ValueError(
        f'{name} has targets from {targets.min()} to {targets.max()}; a task of'
        f' at most {ways} ways has them from 0 to {ways - 1}'
      )
    again = np.arange(size) % len(targets)
    real = np.arange(size) < len(targets)
    return Batch(
      jax.tree.map(lambda leaf: np.asarray(leaf)[again], batch.inputs),
      np.where(real, targets[again], np.int32(PADDING)),
    )

  unknown = np.setdiff1d(task.query.targets, task.support.targets)
  if len(unknown):
    raise ValueError(
      f'there are queries of class {unknown[0]}, but no support examples of it'
    )
  return Task(
    padded('a support set', task.support, support),
    padded('a set of queries', task.query, queries),
  )


def episodes(
  images: np.ndarray | jax.Array,
  labels: np.ndarray,
  ways: int,
  shots: int,
  queries: int,
  *,
  min_ways: int | None = None,
  min_shots: int | None = None,
  groups: np.ndarray | None = None,
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
    min_ways: draw the number of classes of every task, from this one to
      `ways`. The shapes are those of the largest task: see `split_episode`.
    min_shots: draw the number of support examples too, one for all classes.
    groups: integers `[classes]`, in the order of sorted labels: all classes of
      a task are of one group, such as an alphabet. A group is drawn first,
      uniformly of those with `ways` classes or more.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images, so
    they are an argument of whatever is compiled, not a constant in it. Inputs
    are float32 `[examples, height, width, channels]`.

  Raises:
    ValueError: if a count is not positive, a least one above the greatest, if
      there are more or fewer labels than images or groups than classes, fewer
      classes than `ways` (in every group), or if a class has fewer than
      `shots + queries` examples.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = episodes(images, np.arange(12) % 3, ways=2, shots=1, queries=3)
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((2, 4, 4, 1), (6,))
  """
  _check_labels(images, labels)
  places = episode_places(
    labels,
    ways,
    shots,
    queries,
    min_ways=min_ways,
    min_shots=min_shots,
    groups=groups,
  )
  return device_tasks(images, places)


def classification(
  images: np.ndarray | jax.Array, labels: np.ndarray, batch_size: int
) -> jax.tree_util.Partial:
  """Batches of images of all classes: the task of telling all apart.

  It is what methods train on that know all classes of training, and adapt at
  test only. There is nothing to adapt to: the support set of such a task is
  its queries.

  Args:
    images: as for `episodes`.
    labels: integer classes `[examples]`, any values.
    batch_size: images in a batch, drawn uniformly with replacement.

  Returns:
    `sample(key) -> Task`, as `episodes` does. Targets are the ranks of the
    labels among all there are: from 0 to the number of classes - 1.

  Raises:
    ValueError: if `batch_size` is not positive, or if there are more or fewer
      labels than images.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = classification(images, np.arange(12) % 3, batch_size=8)
    >>> task = sample(jax.random.key(0))
    >>> task.query.inputs.shape, task.query.targets.shape
    ((8, 4, 4, 1), (8,))
  """
  _check_labels(images, labels)
  return device_tasks(images, classification_places(labels, batch_size))


def device_tasks(
  images: np.ndarray | jax.Array, places: jax.tree_util.Partial
) -> jax.tree_util.Partial:
  """Tasks of images that lie on the device.

  Args:
    images: as for `episodes`.
    places: `(key) -> Task` whose inputs are places in `images`, such as
      `episode_places`.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images.
  """
  if images.ndim == 3:
    images = images[..., None]
  return jax.tree_util.Partial(
    _sample_at, jnp.asarray(images), jax.tree.map(jnp.asarray, places)
  )


class HostTasks:
  """The tasks of `device_tasks`, from an array that stays on the host.

  With the same key it draws the same task. `make_train_step` streams from it:
  tasks are drawn ahead on the host while devices adapt to those before
  (`metajax.devices.streaming`). Elsewhere it is a sampler like any, which calls
  the host for its images.
  """

  def __init__(self, images: np.ndarray, places: jax.tree_util.Partial) -> None:
    """Reads nothing yet: `images` may be a `numpy.memmap`.

    Args:
      images: as for `episodes`.
      places: as for `device_tasks`.
    """
    self._images = images[..., None] if images.ndim == 3 else images
    self._places = jax.jit(lambda key: places(key))
    self._many_places = jax.jit(jax.vmap(self._places))

  def draw(self, keys: jax.Array) -> Task:
    """Draws one task per key on the host; images as they are stored."""
    tasks = jax.tree.map(np.asarray, self._many_places(keys))
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

    return _with_inputs(self._places(key), fetch)

  def _gather(self, indices: np.ndarray) -> np.ndarray:
    return self._images[np.asarray(indices)]


class HostEpisodes(HostTasks):
  """The tasks of `episodes`, from an array that stays on the host.

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
    _check_labels(images, labels)
    super().__init__(images, episode_places(labels, ways, shots, queries))


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
  classes, table, counts = _table_of(labels)
  if ways > len(classes):
    raise ValueError(f'{ways} ways, but there are only {len(classes)} classes')
  if counts.min() < shots + queries:
    smallest = classes[counts.argmin()]
    raise ValueError(
      f'{shots} shots + {queries} queries, but class {smallest} has only'
      f' {counts.min()} examples'
    )
  sample = partial(_sample_places, ways, shots, queries, min_ways, min_shots)
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
    partial(_sample_batch, batch_size), ranks.astype(np.int32)
  )


def _check_labels(images: np.ndarray | jax.Array, labels: np.ndarray) -> None:
  # A gather would clamp indices out of range without a word.
  if np.shape(labels) != (len(images),):
    raise ValueError(
      f'{len(images)} images need as many integer labels, in one dimension;'
      f' got {np.size(labels)} labels of shape {np.shape(labels)}'
    )


def _table_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
  _, table, counts = _table_of(groups)
  enough = counts >= ways
  if not enough.any():
    raise ValueError(
      f'{ways} ways within a group, but the largest of the {len(counts)}'
      f' groups has only {counts.max()} classes'
    )
  return table[enough], counts[enough]


def _sample_at(
  images: jax.Array, places: Callable[[jax.Array], Task], key: jax.Array
) -> Task:
  return _with_inputs(places(key), lambda inputs: _scaled(images[inputs]))


def _sample_batch(
  batch_size: int, labels: jax.Array | np.ndarray, key: jax.Array
) -> Task:
  chosen = jax.random.randint(key, (batch_size,), 0, len(labels), jnp.int32)
  batch = Batch(chosen, jnp.asarray(labels)[chosen])
  return Task(batch, batch)


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
  # Numbers that are none of the three above.
  size_key, group_key = (jax.random.fold_in(key, i) for i in (3, 4))
  if groups is None:
    classes = choose_without_replacement(class_key, len(table), ways)
  else:
    members, sizes = map(jnp.asarray, groups)
    group = jax.random.randint(group_key, (), 0, len(sizes))
    classes = members[group][
      choose_without_replacement(class_key, sizes[group], ways)
    ]

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
  size = draw_size(size_key, ways, shots, min_ways, min_shots)
  return split_episode(order_key, chosen, ways, shots, size)


def _with_inputs(task: Task, change: Callable[[Any], Any]) -> Task:
  """A task with other inputs for the same targets."""
  return Task(*(each._replace(inputs=change(each.inputs)) for each in task))


def _scaled(images: jax.Array) -> jax.Array:
  if jnp.issubdtype(images.dtype, jnp.integer):
    return images.astype(jnp.float32) / 255
  return images


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
