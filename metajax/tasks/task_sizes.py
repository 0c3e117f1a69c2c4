"""The size of a task: classes and examples, and filling smaller tasks up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, PyTree, Task, Weighted, values_and_weights

__all__ = [
  'TaskSize',
  'check_sizes',
  'draw_size',
  'pad_task',
  'split_episode',
]


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
  leaves the statistics of a batch about as they are; targets are `Weighted`,
  and those of what fills it up have a weight of 0.

  Args:
    key: of the order.
    inputs: `[ways, shots + queries, ...]`; class i of the task is row i.
    ways: number of classes.
    shots: how many of each class go to the support set, the first ones.
    size: use the first ways alone, and the first shots of them.

  Returns:
    A task with inputs `[examples, ...]` and integer targets `[examples]`, which
    are `Weighted` where there is a size.
  """

  def shuffled(
    key: jax.Array, inputs: jax.Array, real_each: jax.Array | None = None
  ) -> Batch:
    each = inputs.shape[1]
    order = jax.random.permutation(key, ways * each)
    targets: PyTree = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), each)
    if size is not None:
      way, example = targets, jnp.arange(ways * each) % each
      real_each = jnp.int32(each) if real_each is None else real_each
      real = (way < size.ways) & (example < real_each)
      again = (way % size.ways, example % real_each)
      targets = Weighted(again[0], real)
      inputs = inputs[again].reshape(inputs.shape)
    inputs = inputs.reshape(-1, *inputs.shape[2:])
    return jax.tree.map(lambda leaf: leaf[order], Batch(inputs, targets))

  support_key, query_key = jax.random.split(key)
  return Task(
    shuffled(support_key, inputs[:, :shots], size.shots if size else None),
    shuffled(query_key, inputs[:, shots:]),
  )


def pad_task(task: Task, ways: int | None, support: int, queries: int) -> Task:
  """Fills a task of any size up to a fixed one, as `split_episode` does.

  For tasks of one's own, on the host: what is compiled for one of them is
  compiled for all.

  Args:
    task: arrays; inputs `[examples, ...]`, and as targets integer classes
      `[examples]`, or numbers `[examples, ...]`; possibly `Weighted`.
    ways: the most classes that a task may have; None where targets are numbers.
    support: examples of the support set that results.
    queries: queries that result.

  Returns:
    A task of NumPy arrays with `Weighted` targets; what fills it up has a
    weight of 0.

  Raises:
    ValueError: if the task is larger than that, if a batch is empty, if its
      arrays are not as long as each other, if targets are integers and no
      `ways` are given, or the other way round, if a target is no class, or if
      queries are of a class without support.

  Example:
    >>> import numpy as np
    >>> small = Batch(np.zeros((2, 4, 4, 1)), np.array([1, 0]))
    >>> padded = pad_task(Task(small, small), ways=5, support=4, queries=3)
    >>> values, weights = padded.support.targets
    >>> values.tolist(), weights.tolist()
    ([1, 0, 1, 0], [1.0, 1.0, 0.0, 0.0])
  """
  known, asked = (
    _checked_targets(name, batch, ways)
    for name, batch in zip(('support set', 'set of queries'), task, strict=True)
  )
  if ways is not None:
    unknown = np.setdiff1d(
      asked.values[asked.weights > 0], known.values[known.weights > 0]
    )
    if len(unknown):
      raise ValueError(
        f'there are queries of class {unknown[0]}, but no support examples of'
        ' it'
      )
  return Task(
    _padded('support set', task.support.inputs, known, support),
    _padded('set of queries', task.query.inputs, asked, queries),
  )


def _checked_targets(name: str, batch: Batch, ways: int | None) -> Weighted:
  """Targets and weights as arrays, with what they say checked."""
  targets, given = values_and_weights(batch.targets)
  values = np.asarray(targets)
  weights = np.ones(values.shape[:1], np.float32)
  if given is not None:
    weights = np.asarray(given)
  if weights.dtype.kind not in 'iufb' or not (weights >= 0).all():
    raise ValueError(f'the {name} has weights that are no numbers from 0')
  are_classes = values.dtype.kind in 'iu'
  if are_classes != (ways is not None):
    raise ValueError(
      f'the {name} has targets of type {values.dtype}: ways are given for'
      ' integer classes, and for nothing else'
    )
  if values.ndim == 0 or weights.shape != values.shape[: max(1, weights.ndim)]:
    raise ValueError(
      f'the {name} has targets of shape {values.shape} and weights of shape'
      f' {weights.shape}'
    )
  if ways is not None and values.size:
    real = np.broadcast_to(
      np.expand_dims(weights, tuple(range(weights.ndim, values.ndim))),
      values.shape,
    )
    counted = values[real > 0]
    if counted.size and not 0 <= counted.min() <= counted.max() < ways:
      raise ValueError(
        f'the {name} has targets from {counted.min()} to {counted.max()}; a'
        f' task of at most {ways} ways has them from 0 to {ways - 1}'
      )
  return Weighted(values, weights)


def _padded(name: str, inputs: PyTree, targets: Weighted, size: int) -> Batch:
  number = len(targets.values)
  lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
  if lengths - {(number,)}:
    raise ValueError(
      f'the {name} has {number} targets, and inputs of {sorted(lengths)}'
    )
  if not 1 <= number <= size:
    raise ValueError(
      f'a {name} of {number} examples cannot be filled up to {size}'
    )
  again = np.arange(size) % number
  repeated = jax.tree.map(
    lambda leaf: np.asarray(leaf)[again], Batch(inputs, targets)
  )
  weights = repeated.targets.weights.copy()
  weights[number:] = 0
  return repeated._replace(
    targets=targets._replace(values=repeated.targets.values, weights=weights)
  )
