r"""Out of scope: queries that are of no class of their task.

A learner that scores classes says how sure it is by its highest score,

.. math:: c(x) = \max_k s_k(x)

and takes a query for one of no class where that is below a threshold, which is
tuned on tasks of validation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import (
  Batch,
  SampleTask,
  Task,
  Weighted,
  as_argument,
)
from metajax.equality import EqualPartial
from metajax.tasks._examples import decoded, stored
from metajax.tasks.episodes import as_examples
from metajax.tasks.places import choose_without_replacement

__all__ = [
  'accuracy_with_rejection',
  'area_under_curve',
  'is_out_of_scope',
  'tune_threshold',
  'with_classes_apart',
  'with_out_of_scope',
]


def with_out_of_scope(
  sample: SampleTask, examples: np.ndarray | jax.Array, share: float
) -> jax.tree_util.Partial:
  """Adds queries that are of no class to the tasks of a sampler.

  Args:
    sample: `(key) -> Task`, such as `episodes`, with tasks of one size.
    examples: what is of none of its classes, as for `episodes`.
    share: of all queries, above 0 and below 1; rounded to whole queries, of
      which one or more are out of scope.

  Returns:
    `sample(key) -> Task` whose queries are in random order. Their targets are
    `Weighted`: those out of scope have a weight of 0, so that losses and
    accuracies leave them out (`is_out_of_scope`). The support set stays.

  Raises:
    ValueError: if `share` is not such, if there are too few examples, or, when
      it is first called, if the queries of a task are weighted already, or of
      another shape or type.

  Example:
    >>> import metajax
    >>> tokens, others = np.full((12, 7), 5), np.full((9, 7), 6)
    >>> sample = metajax.tasks.episodes(tokens, np.arange(12) % 3, 2, 1, 3)
    >>> task = with_out_of_scope(sample, others, 0.25)(jax.random.key(0))
    >>> int(is_out_of_scope(task.query.targets).sum()), len(task.query.inputs)
    (2, 8)
  """
  if not 0 < share < 1:
    raise ValueError(f'share must be above 0 and below 1; got {share}')
  examples = as_examples(examples)
  if not len(examples):
    raise ValueError('there is no example that is out of scope')
  return jax.tree_util.Partial(
    EqualPartial(_with_others, float(share)),
    as_argument(sample),
    jnp.asarray(stored(examples)),
  )


def _with_others(
  share: float, sample: SampleTask, examples: jax.Array, key: jax.Array
) -> Task:
  # None of these is the key of the task itself.
  draw_key, order_key = (jax.random.fold_in(key, each) for each in (17, 18))
  task = sample(key)
  inputs, targets = task.query
  if isinstance(targets, Weighted):
    raise ValueError(
      'the queries of these tasks are weighted already; leave min_ways and'
      ' min_shots out where queries are to be out of scope'
    )
  others = jax.eval_shape(decoded, examples)
  if (inputs.dtype, *inputs.shape[1:]) != (others.dtype, *others.shape[1:]):
    raise ValueError(
      f'what is out of scope is {others.dtype} of the shape'
      f' {others.shape[1:]} an example, and queries are {inputs.dtype} of'
      f' {inputs.shape[1:]}'
    )
  number = max(1, round(len(inputs) * share / (1 - share)))
  if number > len(examples):
    raise ValueError(
      f'share={share} of queries are {number} that are out of scope, but there'
      f' are {len(examples)} examples'
    )
  chosen = choose_without_replacement(draw_key, len(examples), number)
  order = jax.random.permutation(order_key, len(inputs) + number)
  nothing = jnp.zeros((number, *targets.shape[1:]), targets.dtype)
  query = Batch(
    jnp.concatenate([inputs, decoded(examples[chosen])]),
    Weighted(
      jnp.concatenate([targets, nothing]),
      jnp.arange(len(inputs) + number) < len(inputs),
    ),
  )
  return task._replace(query=jax.tree.map(lambda leaf: leaf[order], query))


def with_classes_apart(
  sample: SampleTask, ways: int, apart: int
) -> jax.tree_util.Partial:
  """Takes the support of some classes away: their queries are of no class then.

  It is for data without examples of no class; such queries are more like those
  in scope.

  Args:
    sample: `(key) -> Task`, such as `episodes`, of `ways + apart` classes in
      random order, each of which has as many support examples.
    ways: classes that are left.
    apart: classes that are taken away.

  Returns:
    `sample(key) -> Task` of `ways` classes, the queries of which are as
    `with_out_of_scope` has them.

  Raises:
    ValueError: if a number is less than 1, or if a task, which is drawn, has
      other classes, not as many examples of each, or weighted targets, as those
      of several sizes do.

  Example:
    >>> import metajax
    >>> tokens, labels = np.full((12, 7), 5), np.arange(12) % 3
    >>> sample = metajax.tasks.episodes(tokens, labels, 3, 1, 2)
    >>> task = with_classes_apart(sample, 2, 1)(jax.random.key(0))
    >>> sorted(task.support.targets.tolist())
    [0, 1]
    >>> int(is_out_of_scope(task.query.targets).sum()), len(task.query.inputs)
    (2, 6)
  """
  if ways < 1 or apart < 1:
    raise ValueError(f'ways and apart must be 1 or more; got {ways}, {apart}')
  sample = as_argument(sample)
  _check_classes(ways, apart, sample)
  return jax.tree_util.Partial(EqualPartial(_of_classes, ways, apart), sample)


def _check_classes(ways: int, apart: int, sample: Any) -> None:
  """Looks at the classes of a task, which its shapes do not say."""
  leaves = jax.tree.leaves(sample)
  if any(isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) for x in leaves):
    return  # there are no values to look at
  targets, queries = map(np.asarray, _targets(sample))
  wanted = np.arange(ways + apart)
  found, counts = np.unique(targets, return_counts=True)
  if (
    not np.array_equal(found, wanted)
    or len(set(counts)) > 1
    or not np.isin(queries, wanted).all()
  ):
    raise ValueError(
      f'tasks must have as many support examples of each of {ways} + {apart}'
      f' classes, from 0 to {ways + apart - 1}; got {counts.tolist()} of'
      f' {found.tolist()} and queries of {np.unique(queries).tolist()}'
    )


@jax.jit  # which leaves out what makes no targets
def _targets(sample: SampleTask) -> tuple[jax.Array, jax.Array]:
  support, query = sample(jax.random.key(0))
  _refuse_weighted(support.targets)
  return support.targets, query.targets


def _refuse_weighted(targets: Any) -> None:
  if isinstance(targets, Weighted):
    raise ValueError(
      'these tasks are weighted already; leave min_ways and min_shots out where'
      ' classes are to be out of scope'
    )


def _of_classes(
  ways: int, apart: int, sample: SampleTask, key: jax.Array
) -> Task:
  support, query = sample(key)
  _refuse_weighted(support.targets)
  shots = len(support.targets) // (ways + apart)
  # Those that stay come first, in the order that they had.
  order = jnp.argsort(support.targets >= ways, stable=True)[: shots * ways]
  inside = query.targets < ways
  targets = Weighted(jnp.where(inside, query.targets, 0), inside)
  return Task(
    jax.tree.map(lambda leaf: leaf[order], support),
    query._replace(targets=targets),
  )


def is_out_of_scope(targets: Weighted) -> jax.Array:
  """Which queries are of no class of their task: booleans `[queries]`."""
  return jnp.asarray(targets.weights) == 0


def area_under_curve(scores: jax.Array, out_of_scope: jax.Array) -> jax.Array:
  r"""How well the highest score tells what is in scope from what is not.

  .. math:: P(c(x) > c(x')) + \tfrac12 P(c(x) = c(x'))

  for x in scope and x' out of it: the area under the receiver operating
  characteristic; 1 is perfect, and 1/2 is chance.

  Args:
    scores: of classes, `[queries, ways]`.
    out_of_scope: booleans `[queries]`.

  Returns:
    The area; nan where all queries are in scope, or none is.

  Example:
    >>> scores = jnp.array([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.5]])
    >>> float(area_under_curve(scores, jnp.array([False, False, True, True])))
    0.875
  """
  sure = jnp.max(scores, axis=-1)
  one, other = sure[:, None], sure[None]
  pairs = ~out_of_scope[:, None] & out_of_scope[None]
  won = jnp.where(one > other, 1.0, jnp.where(one == other, 0.5, 0.0))
  # What is no number is neither above nor equal: it is to be seen.
  won = jnp.where(jnp.isnan(one) | jnp.isnan(other), jnp.nan, won)
  total = jnp.sum(jnp.where(pairs, won, 0.0))
  return total / jnp.sum(pairs)


def accuracy_with_rejection(
  scores: jax.Array,
  targets: jax.Array,
  out_of_scope: jax.Array,
  threshold: float | jax.Array,
) -> jax.Array:
  """The share of queries that are answered, or rejected, as they should be.

  Args:
    scores: of classes, `[queries, ways]`.
    targets: integer classes `[queries]`; any where a query is out of scope.
    out_of_scope: booleans `[queries]`.
    threshold: a query whose highest score is below it is rejected.

  Returns:
    A number in [0, 1].

  Example:
    >>> scores = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    >>> outside = jnp.array([False, False, True])
    >>> float(accuracy_with_rejection(scores, jnp.array([0, 1, 0]), outside, 1))
    1.0
  """
  accepted = jnp.max(scores, axis=-1) >= threshold
  right = accepted & (jnp.argmax(scores, axis=-1) == targets)
  return jnp.mean(jnp.where(out_of_scope, ~accepted, right), dtype=jnp.float32)


def tune_threshold(
  scores: np.ndarray | jax.Array,
  targets: np.ndarray | jax.Array,
  out_of_scope: np.ndarray | jax.Array,
) -> float:
  """The threshold of the best `accuracy_with_rejection`, on the host.

  Args:
    scores: of classes, `[..., queries, ways]`, of one task or of many.
    targets: `[..., queries]`.
    out_of_scope: `[..., queries]`.

  Returns:
    The threshold, half way between two scores; the lowest of those that are
    equally good. It is infinite where the best is to reject, or accept, all.

  Raises:
    ValueError: if shapes do not fit, or a score is no number.

  Example:
    >>> scores = np.array([[3.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    >>> tune_threshold(scores, np.array([0, 1, 0]), np.array([0, 0, 1]) > 0)
    0.75
  """
  scores, targets = np.asarray(scores), np.asarray(targets)
  outside = np.asarray(out_of_scope, bool)
  if not scores.shape[:-1] == targets.shape == outside.shape or not scores.size:
    raise ValueError(
      f'scores of shape {scores.shape} need targets and out_of_scope of shape'
      f' {scores.shape[:-1]}; got {targets.shape} and {outside.shape}'
    )
  if np.isnan(scores).any():
    raise ValueError('there are scores that are no numbers (nan)')
  sure = scores.max(axis=-1).reshape(-1).astype(np.float64)
  right = ((scores.argmax(axis=-1) == targets) & ~outside).reshape(-1)
  order = np.argsort(-sure, kind='stable')
  sure = sure[order]
  # What is gained by accepting so many, the surest first.
  gain = right[order].astype(int) - outside.reshape(-1)[order]
  gained = np.concatenate([[0], np.cumsum(gain)])
  # Equal scores are accepted together.
  possible = np.concatenate([[True], sure[1:] < sure[:-1], [True]])
  gained = np.where(possible, gained, -len(sure) - 1)
  accepted = int(np.flatnonzero(gained == gained.max())[-1])
  if accepted == 0:
    return float('inf')
  if accepted == len(sure):
    return float('-inf')
  surest, next_one = sure[accepted - 1], sure[accepted]
  middle = (surest + next_one) / 2
  # Neighbours in the precision of scores have nothing between them.
  apart = middle.astype(scores.dtype) > next_one
  return float(middle if apart else surest)
