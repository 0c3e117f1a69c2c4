r"""Choosing a learner for each task, by cross-validation in its support set.

.. math::
  m_i = \arg\min_m \sum_{f} L(\mathrm{adapt}_m(\phi_m, S_i \setminus S_{if}),
    S_{if})

Every learner adapts once without each fold and is judged on that fold; the one
that does best adapts to the whole. Queries have no part in it.

References:
  Stone (1974), Cross-validatory choice and assessment of statistical
  predictions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.adaptation.classes import Targets, encode_classes, one_step
from metajax.base import (
  Adaptation,
  Batch,
  InitLearner,
  Learner,
  MetaGradient,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  Task,
)
from metajax.equality import by_value
from metajax.objectives import loss_and_metrics

__all__ = ['Selection', 'each_by_itself', 'held_out', 'select']


class Selection(NamedTuple):
  """What is known of a task: every learner adapted, and which is asked."""

  adapted: tuple[PyTree, ...]
  choice: jax.Array  # int32 []


@by_value
def select(
  learners: Sequence[MetaLearner],
  objective: Objective,
  num_classes: int | None = None,
  *,
  num_folds: int | None = None,
) -> MetaLearner:
  """A learner that is another one of `learners` for each task.

  Args:
    learners: any methods, of any architecture, with outputs of one shape.
    objective: of the examples that were left out; the lowest wins.
    num_classes: classes per task, with the same number of support examples
      each, 2 or more; at most so many, where tasks are filled up. None for
      regression.
    num_folds: how often examples are left out. By default one of every class
      at a time, or one at a time in regression; it has to divide the number of
      support examples, and this number itself leaves out one at a time.

  Returns:
    A `MetaLearner` whose meta-parameters are a tuple of those of the learners,
    each of which is trained as by itself. Adaptation counts as one step;
    before it, the first of them is asked.

  Raises:
    ValueError: if there is no learner; when it adapts, if the support set
      cannot be divided so.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> objective = metajax.mean_squared_error
    >>> learner = select(
    ...   [metajax.maml(mlp([width], 1), objective, 0.01, 1)
    ...    for width in (8, 40)],
    ...   objective, num_folds=5)
    >>> task = metajax.tasks.sinusoid(10, 10)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = jax.eval_shape(
    ...   learner.adapt, jax.random.key(2), phi, task.support)
    >>> adapted.choice.dtype
    dtype('int32')
  """
  if not learners:
    raise ValueError('select needs a learner to choose')
  learners = tuple(learners)

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Selection, Adaptation]:
    scores, before, after = [], [], []
    for learner, params in zip(learners, meta_params, strict=True):
      outputs, targets = held_out(
        learner, key, params, support, num_classes, num_folds
      )
      score, _ = loss_and_metrics(objective, outputs, targets)
      scores.append(jnp.where(jnp.isnan(score), jnp.inf, score))
      adapted, adaptation = learner.adapt(key, params, support)
      before.append(adaptation.after(0, adapted))
      after.append(adapted)
    choice = jnp.argmin(jnp.stack(scores)).astype(jnp.int32)
    unknown = Selection(tuple(before), jnp.zeros_like(choice))
    known = Selection(tuple(after), choice)
    return known, one_step(unknown, known)

  def predict(adapted: Selection, inputs: PyTree) -> PyTree:
    outputs = [
      learner.predict(own, inputs)
      for learner, own in zip(learners, adapted.adapted, strict=True)
    ]
    return jax.tree.map(
      lambda *leaves: jnp.stack(leaves)[adapted.choice], *outputs
    )

  init, grad = each_by_itself(learners)
  return MetaLearner(init, adapt, predict, grad)


def each_by_itself(
  learners: Sequence[MetaLearner],
) -> tuple[InitLearner, MetaGradient]:
  """How learners that answer together are drawn and trained: as if alone.

  Args:
    learners: of any methods.

  Returns:
    Their `init` and `grad`, for a tuple of the meta-parameters of each;
    metrics are those that all have, averaged.
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    keys = jax.random.split(key, len(learners))
    return tuple(
      learner.init(key, inputs)
      for learner, key in zip(learners, keys, strict=True)
    )

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    gradients, metrics = zip(
      *(
        learner.grad(key, params, tasks)
        for learner, params in zip(learners, meta_params, strict=True)
      ),
      strict=True,
    )
    common = set.intersection(*(set(each) for each in metrics))
    return gradients, {
      name: sum(each[name] for each in metrics) / len(metrics)
      for name in sorted(common)
    }

  return init, grad


def held_out(
  learner: Learner | MetaLearner,
  key: jax.Array,
  meta_params: PyTree,
  support: Batch,
  num_classes: int | None = None,
  num_folds: int | None = None,
) -> tuple[PyTree, PyTree]:
  """Outputs for every support example, of a learner that did not see it.

  Args:
    learner: any method.
    key: of all its adaptations.
    meta_params: of the learner.
    support: leaves `[examples, ...]`.
    num_classes: as for `select`.
    num_folds: as for `select`.

  Returns:
    Outputs and targets, in the same order, that of the folds.

  Raises:
    ValueError: if the support set cannot be divided so.
  """
  folds = _folds(support, num_classes, num_folds)
  number = len(folds)
  others = np.array(
    [[each for each in range(number) if each != own] for own in range(number)]
  )

  def without(own: jax.Array, rest: jax.Array) -> PyTree:
    seen = jax.tree.map(lambda leaf: leaf[rest], support)
    adapted, _ = learner.adapt(key, meta_params, seen)
    left_out = jax.tree.map(lambda leaf: leaf[own], support.inputs)
    return learner.predict(adapted, left_out)

  outputs = jax.vmap(without)(folds, folds[others].reshape(number, -1))
  return (
    jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs),
    jax.tree.map(lambda leaf: leaf[folds.reshape(-1)], support.targets),
  )


def _folds(
  support: Batch, num_classes: int | None, num_folds: int | None
) -> jax.Array:
  """Indices `[folds, examples of a fold]`, one class after the other."""
  number = len(jax.tree.leaves(support)[0])
  if num_classes is None:
    order = jnp.arange(number)
    num_folds = number if num_folds is None else num_folds
  else:
    if number < 2 * num_classes:
      raise ValueError(
        f'cross-validation needs 2 shots or more; there are {number} support'
        f' examples of {num_classes} classes'
      )
    num_folds = number // num_classes if num_folds is None else num_folds
    targets = encode_classes(support.targets, num_classes, jnp.float32)
    order = jnp.argsort(_rounds(targets), stable=True)
  if num_folds < 2 or number % num_folds:
    raise ValueError(
      f'num_folds must be 2 or more and divide the {number} support examples;'
      f' got {num_folds}'
    )
  return order.reshape(num_folds, -1)


def _rounds(targets: Targets) -> jax.Array:
  """Numbers rounds: one example of every class, then another one of each, ...

  Padding goes where a round has fewer: otherwise rounds would shift, and a fold
  could have all there is of a class.
  """
  real = targets.real
  number, num_classes = targets.rows.shape
  # Padding is a class of its own.
  kinds = jnp.where(real, jnp.argmax(targets.rows, axis=1), num_classes)
  same = kinds[:, None] == kinds[None, :]
  earlier = jnp.tril(jnp.ones_like(same), -1)
  rank = jnp.sum(same & earlier, axis=1)
  rounds = jnp.arange(-(-number // num_classes))
  taken = jnp.sum(real[:, None] & (rank[:, None] == rounds[None]), axis=0)
  free = jnp.cumsum(num_classes - taken)
  return jnp.where(real, rank, jnp.searchsorted(free, rank, side='right'))
