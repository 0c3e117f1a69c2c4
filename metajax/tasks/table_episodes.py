"""Tasks of the rows of a table: numbers to predict, or two classes."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Task
from metajax.equality import EqualPartial
from metajax.tasks._table_files import listed
from metajax.tasks.errors import DataError
from metajax.tasks.places import choose_without_replacement
from metajax.tasks.tables import Table

__all__ = ['Support', 'table_tasks', 'task_of', 'two_classes']

Support = Literal['random', 'first', 'window']


def table_tasks(
  part: Table,
  shots: int,
  queries: int,
  *,
  support: Support = 'random',
  classes: bool = False,
) -> jax.tree_util.Partial:
  """Makes a table a distribution of tasks.

  A task is drawn uniformly, however many rows it has, and then rows of it
  without replacement: none is both in the support set and a query.

  Args:
    part: the rows, such as one of `split_table_by_seed`.
    shots: rows of the support set.
    queries: other rows of the same task, to be predicted.
    support: `'random'` rows; the `'first'` of a task in the order of the
      table; or a `'window'` of neighbours in this order, from any place. Of
      both, queries are drawn from what comes later, so that a support set
      knows nothing of their future.
    classes: targets are two classes (`two_classes`), and become integers. A
      support set has one row or more of each: where all that were drawn are of
      one class, a row of the other one takes the place of the last.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the rows. Inputs
    are float32 `[rows, features]`, targets `[rows, targets]`, or int32 `[rows]`
    where they are classes.

  Raises:
    DataError: if a count is not positive, or more than a task has rows; if a
      table without an order is to have one; or if a task, or the first rows of
      one, have a single class.

  Example:
    >>> import jax, numpy as np
    >>> rows = np.zeros((20, 3), np.float32)
    >>> table = Table(
    ...   rows, rows[:, :1], np.arange(20) % 2, ('a', 'b'), tuple('uvw'), ('y',)
    ... )
    >>> task = table_tasks(table, shots=4, queries=5)(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((4, 3), (5, 1))
  """
  counts = _checked_counts(part, shots, queries, support)
  if classes:
    part = two_classes(part)
    _refuse_single(part, counts, shots, support)
  rank = _ranks(part, support)
  classes_first = (
    part.targets[:, 0] if classes and support == 'random' else rank
  )
  order = np.lexsort((classes_first, part.tasks))
  targets = part.targets[order]
  zeros = np.bincount(
    part.tasks[part.targets[:, 0] == 0], minlength=len(counts)
  )
  return jax.tree_util.Partial(
    EqualPartial(_sample, shots, queries, support, classes),
    jnp.asarray(part.features[order]),
    jnp.asarray(targets[:, 0].astype(np.int32) if classes else targets),
    jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
    jnp.asarray(counts, jnp.int32),
    jnp.asarray(zeros, jnp.int32),
  )


def task_of(sample: jax.tree_util.Partial, key: jax.Array) -> jax.Array:
  """Which task of a table a key draws, an index into `task_names`.

  Tasks of a small table are drawn again and again: an interval over draws is
  narrower than what other tasks would show. This is what to group them by.

  Args:
    sample: of `table_tasks`.
    key: that a task is drawn by.

  Returns:
    int32 [].
  """
  *_, counts, _ = sample.args
  task_key, _ = jax.random.split(key)
  return jax.random.randint(task_key, (), 0, len(counts))


def two_classes(part: Table) -> Table:
  """The same rows with targets of 0 and 1, the larger value being 1.

  Raises:
    DataError: if there are several targets, or other than two values.
  """
  if part.targets.shape[1] != 1:
    raise DataError(
      f'target_columns={listed(part.target_names)}: classes are those of one'
      ' column',
      parameter='target_columns',
    )
  values = np.unique(part.targets)
  if len(values) != 2:
    some = ', '.join(f'{value:g}' for value in values[:4])
    raise DataError(
      f'column {part.target_names[0]!r} has {len(values)} values ({some}'
      f'{", ..." if len(values) > 4 else ""}), and classes are two; make one of'
      ' them 1 and all else 0, or predict it as a number',
      parameter='target_columns',
    )
  return part._replace(targets=(part.targets == values[1]).astype(np.float32))


def _ranks(part: Table, support: Support) -> np.ndarray:
  """Which row of a task comes before which; all alike where that is nothing."""
  if support == 'random' or part.order is None:
    return np.zeros(len(part.tasks))
  return part.order


def _checked_counts(
  part: Table, shots: int, queries: int, support: Support
) -> np.ndarray:
  """How many rows each task has, which are enough."""
  for name, value in (('shots', shots), ('queries', queries)):
    if value < 1:
      raise DataError(f'{name}={value}: must be 1 or more')
  if support not in get_args(Support):
    raise DataError(
      f'support must be one of {", ".join(get_args(Support))}; got {support!r}'
    )
  if support != 'random' and part.order is None:
    raise DataError(
      f'support={support!r} needs a column that says which row comes first'
    )
  counts = np.bincount(part.tasks, minlength=len(part.task_names))
  if not len(counts):
    raise DataError('there is no task to draw rows of; the table is empty')
  short = np.flatnonzero(counts < shots + queries)
  if len(short):
    least = short[np.argmin(counts[short])]
    others = f' (and {len(short) - 1} more have too few)'
    raise DataError(
      f'shots={shots} and queries={queries}: task {part.task_names[least]!r}'
      f' has {counts[least]} rows{others if len(short) > 1 else ""}, but'
      f' {shots + queries} are needed; ask for fewer, or leave such tasks out'
    )
  return counts


def _refuse_single(
  part: Table, counts: np.ndarray, shots: int, support: Support
) -> None:
  """Refuses tasks that never show one of the classes."""
  if support == 'window':
    raise DataError("support='window' is for numbers; classes take another")
  if shots < 2:
    raise DataError(
      f'shots={shots}: a support set has a row of each of two classes; ask for'
      ' 2 or more'
    )
  order = np.lexsort((_ranks(part, support), part.tasks))
  targets = part.targets[order, 0]
  starts = np.cumsum(counts) - counts
  seen = counts if support == 'random' else np.full_like(counts, shots)
  ones = np.array(
    [
      targets[start : start + number].mean()
      for start, number in zip(starts, seen, strict=True)
    ]
  )
  single = np.flatnonzero((ones == 0) | (ones == 1))
  if len(single):
    where = '' if support == 'random' else f'the first {shots} of '
    more = f' (and {len(single) - 1} more)' if len(single) > 1 else ''
    raise DataError(
      f'{where}the rows of task {part.task_names[single[0]]!r}{more} are all of'
      ' one class; leave such tasks out'
      + ('' if support == 'random' else ', or ask for more --shots')
    )


def _sample(
  shots: int,
  queries: int,
  support: Support,
  classes: bool,
  features: jax.Array,
  targets: jax.Array,
  starts: jax.Array,  # rows of a task lie together: its first one
  counts: jax.Array,
  zeros: jax.Array,  # how many of them are of class 0, and lie before the rest
  key: jax.Array,
) -> Task:
  task_key, row_key = jax.random.split(key)
  task = jax.random.randint(task_key, (), 0, len(counts))
  start, count = starts[task], counts[task]
  if support == 'random':
    chosen = choose_without_replacement(row_key, count, shots + queries)
    if classes:
      chosen = _with_both(row_key, chosen, count, zeros[task], shots)
  else:
    row_key, window_key = jax.random.split(row_key)
    first = jnp.int32(0)
    if support == 'window':
      first = jax.random.randint(window_key, (), 0, count - shots - queries + 1)
    later = first + shots
    drawn = choose_without_replacement(row_key, count - later, queries)
    chosen = jnp.concatenate([first + jnp.arange(shots), later + drawn])
  rows = start + chosen
  inputs, outputs = features[rows], targets[rows]
  return Task(
    Batch(inputs[:shots], outputs[:shots]),
    Batch(inputs[shots:], outputs[shots:]),
  )


def _with_both(
  key: jax.Array,
  chosen: jax.Array,
  count: jax.Array,
  zeros: jax.Array,
  shots: int,
) -> jax.Array:
  """Exchanges the last row of a support set that has one class alone."""
  ones = chosen[:shots] >= zeros
  least = jnp.where(ones[0], 0, zeros)  # of the other class
  most = jnp.where(ones[0], zeros, count)
  other = jax.random.randint(jax.random.fold_in(key, 1), (), least, most)
  last = shots - 1
  # Where a query is that row already, the two change places.
  swapped = jnp.where(chosen == other, chosen[last], chosen)
  swapped = swapped.at[last].set(other)
  return jnp.where(jnp.all(ones == ones[0]), swapped, chosen)
