"""Strokes: an endless, procedural set of handwritten signs.

Classes and examples are pure functions of their keys (see
`metajax.tasks.signs`), so nothing is downloaded or stored, and classes never
run out.
"""

import jax
import jax.numpy as jnp

from metajax.base import Batch, SampleTask, Task
from metajax.equality import by_value
from metajax.tasks.signs import SIZE, StrokeProgram, draw_class, render
from metajax.tasks.task_sizes import check_sizes, draw_size, split_episode

__all__ = [
  'SIZE',
  'SPLITS',
  'StrokeProgram',
  'class_key',
  'draw_class',
  'render',
  'split_key',
  'strokes',
  'strokes_classification',
]

SPLITS = ('train', 'validation', 'test')


def class_key(split: str, index: jax.Array | int) -> jax.Array:
  """The key of class `index` of a split.

  A split has 2^32 classes, and no class is in two splits.

  Args:
    split: one of `SPLITS`.
    index: which class, from 0.

  Returns:
    A key for `draw_class`.

  Raises:
    ValueError: if there is no such split.
  """
  return jax.random.fold_in(split_key(split), index)


def split_key(split: str) -> jax.Array:
  """The key that those of all classes of a split are folded from.

  Args:
    split: one of `SPLITS`.

  Returns:
    A typed key.

  Raises:
    ValueError: if there is no such split.
  """
  # It is always this generator: a class looks the same in every program.
  seed = jnp.asarray([0x5742, _split_index(split)], jnp.uint32)
  return jax.random.wrap_key_data(seed, impl='threefry2x32')


@by_value
def strokes(
  ways: int,
  shots: int,
  queries: int,
  *,
  split: str = 'train',
  min_ways: int | None = None,
  min_shots: int | None = None,
) -> SampleTask:
  """A distribution over tasks of telling `ways` handwritten signs apart.

  Every task has its own classes, in random order, and its examples are in
  random order too, so that neither a label nor a place says anything.

  Args:
    ways: classes of a task.
    shots: support examples per class.
    queries: query examples per class.
    split: where classes come from: 'train', 'validation' or 'test'.
    min_ways: as for `metajax.tasks.episodes`.
    min_shots: as for `metajax.tasks.episodes`.

  Returns:
    `sample(key) -> Task` with inputs `[examples, 28, 28, 1]`, float32 in
    [0, 1] (ink is 1), and targets `[examples]`, int32 in [0, ways).

  Raises:
    ValueError: if a count is not positive, a least one above the greatest, or
      if there is no such split.

  Example:
    >>> sample = strokes(ways=5, shots=1, queries=3, split='test')
    >>> task = jax.jit(sample)(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((5, 28, 28, 1), (15,))
  """
  check_sizes(ways, shots, queries, min_ways, min_shots)
  _split_index(split)  # an unknown one is refused now, not when sampling
  each = shots + queries

  def sample(key: jax.Array) -> Task:
    class_draw, hand_key, order_key = jax.random.split(key, 3)
    # This key is none of the three above.
    size_key = jax.random.fold_in(key, 3)
    indices = jax.random.bits(class_draw, (ways,), jnp.uint32)
    programs = jax.vmap(lambda i: draw_class(class_key(split, i)))(indices)
    hands = jax.random.split(hand_key, (ways, each))
    examples = jax.vmap(render, in_axes=(0, None))
    size = draw_size(size_key, ways, shots, min_ways, min_shots)
    return split_episode(
      order_key, jax.vmap(examples)(hands, programs), ways, shots, size
    )

  return sample


@by_value
def strokes_classification(
  num_classes: int, batch_size: int, *, split: str = 'train'
) -> SampleTask:
  """Batches of signs of the first classes of a split, to tell all apart.

  What `metajax.tasks.classification` is for images that are stored.

  Args:
    num_classes: how many; the classes are those of the indices below it.
    batch_size: images in a batch.
    split: where classes come from: 'train', 'validation' or 'test'.

  Returns:
    `sample(key) -> Task` like that of `strokes`, with targets in
    [0, num_classes). Its support set is its queries.

  Raises:
    ValueError: if a count is not positive, or if there is no such split.

  Example:
    >>> sample = strokes_classification(num_classes=100, batch_size=8)
    >>> task = jax.eval_shape(sample, jax.random.key(0))
    >>> task.query.inputs.shape, task.query.targets.shape
    ((8, 28, 28, 1), (8,))
  """
  for name, count in (('num_classes', num_classes), ('batch_size', batch_size)):
    if count < 1:
      raise ValueError(f'{name} must be 1 or more, got {count}')
  _split_index(split)

  def sample(key: jax.Array) -> Task:
    class_draw, hand_key = jax.random.split(key)
    indices = jax.random.randint(class_draw, (batch_size,), 0, num_classes)

    def draw(key: jax.Array, index: jax.Array) -> jax.Array:
      return render(key, draw_class(class_key(split, index)))

    hands = jax.random.split(hand_key, batch_size)
    batch = Batch(jax.vmap(draw)(hands, indices), indices.astype(jnp.int32))
    return Task(batch, batch)

  return sample


def _split_index(split: str) -> int:
  if split not in SPLITS:
    raise ValueError(f'split must be one of {", ".join(SPLITS)}; got {split!r}')
  return SPLITS.index(split)
