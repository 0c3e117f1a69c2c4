r"""Learners of different kinds that answer together.

.. math:: o(x) = \sum_m w_m \, o_m(x) \quad \text{or} \quad
  \log \sum_m w_m \, p_m(x)

of predictions of numbers, or of probabilities of classes. Weights are given;
or fitted to tasks of validation, once for all (`fit_weights`); or to the
support set of each task, by cross-validation inside it. Queries of a test have
no part in them.

References:
  Wolpert (1992), Stacked generalization; Breiman (1996), Stacked regressions.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import one_step
from metajax.base import (
  EXCLUDED,
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  PyTree,
  SampleTask,
  task_keys,
  values_and_weights,
)
from metajax.equality import by_value
from metajax.wrappers.ensemble import combine, stack
from metajax.wrappers.selection import each_by_itself, held_out

__all__ = ['Committee', 'committee', 'fit_weights', 'stack_numbers']

_ROUNDS = 1000  # of exponentiated gradient, for numbers


class Committee(NamedTuple):
  """What is known of a task: every learner adapted, and what each counts."""

  adapted: tuple[PyTree, ...]
  weights: jax.Array  # [learners], with sum 1


@by_value
def committee(
  learners: Sequence[MetaLearner],
  weights: Sequence[float] | Literal['stacked', 'alike'] = 'alike',
  num_classes: int | None = None,
  *,
  votes: bool = False,
  num_folds: int | None = None,
) -> MetaLearner:
  """Several learners, of any methods and networks, whose answers are mixed.

  Args:
    learners: with outputs of one shape: logits of the same classes, or
      predictions of the same numbers.
    weights: one of each, from 0; `'alike'`; or `'stacked'`, fitted to every
      task by what learners say of support examples that they did not see.
    num_classes: classes per task; None for regression. For `'stacked'` there
      are 2 support examples or more of each.
    votes: of classes: how much weight has a class first, with half a vote for
      the mean, which breaks ties.
    num_folds: as for `metajax.select`.

  Returns:
    A `MetaLearner` whose meta-parameters are a tuple of those of the learners,
    each of which is trained as by itself. Adaptation counts as one step. Where
    all weight is on one learner, its outputs are what comes out, unchanged.

  Raises:
    ValueError: if there is no learner, weights are not one of each, or none is
      above 0; if numbers are to vote; when it adapts, if the support set cannot
      be divided.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> loss = metajax.mean_squared_error
    >>> ridge = metajax.r2d2(mlp([8], 8), loss)
    >>> learner = committee([metajax.maml(mlp([8], 1), loss, 0.01, 1), ridge])
    >>> task = metajax.tasks.sinusoid(10, 10)(jax.random.key(0))
    >>> phi = learner.init(jax.random.key(1), task.support.inputs)
    >>> adapted, _ = learner.adapt(jax.random.key(2), phi, task.support)
    >>> adapted.weights.tolist()
    [0.5, 0.5]
  """
  learners = tuple(learners)
  if not learners:
    raise ValueError('a committee needs a learner')
  if votes and num_classes is None:
    raise ValueError(
      'numbers do not vote; leave votes out, or give num_classes'
    )
  given = _given(weights, len(learners))

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Committee, Adaptation]:
    before, after, unseen = [], [], []
    for learner, params in zip(learners, meta_params, strict=True):
      adapted, adaptation = learner.adapt(key, params, support)
      before.append(adaptation.after(0, adapted))
      after.append(adapted)
      if given is None:
        unseen.append(
          held_out(learner, key, params, support, num_classes, num_folds)
        )
    if given is None:
      found = _stacked([each for each, _ in unseen], unseen[0][1], num_classes)
    else:
      found = jnp.asarray(given)
    alike = jnp.full_like(found, 1 / len(learners)) if given is None else found
    known = Committee(tuple(after), found)
    return known, one_step(Committee(tuple(before), alike), known)

  def predict(adapted: Committee, inputs: PyTree) -> jax.Array:
    outputs = jnp.stack(
      [
        learner.predict(own, inputs)
        for learner, own in zip(learners, adapted.adapted, strict=True)
      ]
    )
    return _mixed(outputs, adapted.weights, num_classes, votes)

  init, grad = each_by_itself(learners)
  return MetaLearner(init, adapt, predict, grad)


def fit_weights(
  learners: Sequence[Learner | MetaLearner],
  meta_params: Sequence[PyTree],
  sample: SampleTask,
  *,
  key: jax.Array,
  num_tasks: int,
  num_classes: int | None = None,
) -> jax.Array:
  """Weights of a committee, fitted to the queries of tasks of validation.

  Args:
    learners: as for `committee`.
    meta_params: those of each.
    sample: draws tasks that are neither for training nor for the test.
    key: fixes the tasks.
    num_tasks: how many.
    num_classes: as for `committee`.

  Returns:
    `[learners]`, from 0, with sum 1.

  Raises:
    ValueError: if learners and meta-parameters are not as many, or if there are
      no tasks.
  """
  if len(learners) != len(meta_params) or not learners:
    raise ValueError(
      f'{len(learners)} learners want as many meta-parameters, got'
      f' {len(meta_params)}'
    )
  if operator.index(num_tasks) < 1:
    raise ValueError(f'num_tasks must be 1 or more, got {num_tasks}')

  def answers(key: jax.Array) -> tuple[jax.Array, PyTree]:
    draw_key, adapt_key = jax.random.split(key)
    task = sample(draw_key)
    found = []
    for learner, params in zip(learners, meta_params, strict=True):
      adapted, _ = learner.adapt(adapt_key, params, task.support)
      found.append(learner.predict(adapted, task.query.inputs))
    return jnp.stack(found), task.query.targets

  outputs, targets = jax.jit(
    lambda keys: jax.lax.map(answers, keys, batch_size=8)
  )(task_keys(key, num_tasks))
  flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), targets)
  of_learners = [
    outputs[:, place].reshape(-1, *outputs.shape[3:])
    for place in range(len(learners))
  ]
  return _stacked(of_learners, flat, num_classes)


def stack_numbers(outputs: jax.Array, targets: PyTree) -> jax.Array:
  r"""Weights from 0, with sum 1, that make a mean of squared errors least.

  .. math::
    w_m \leftarrow \frac{w_m}{Z} \exp\left(-\frac{\eta \, (E w)_m}
      {\sum_k w_k E_{kk}}\right), \qquad L = w^\top E w

  with E the products of errors, and eta falling from 2 to a tenth. A step is as
  long as those learners allow that have weight, so one that is far off does not
  hold up the others; the best weights on the way are returned. A learner with
  an error that is no number has none; if all are so, weights are no numbers.

  Args:
    outputs: `[learners, examples, ...]`.
    targets: `[examples, ...]`, or `Weighted` ones.

  Returns:
    `[learners]`.

  Example:
    >>> import jax.numpy as jnp
    >>> outputs = jnp.array([[2.0, 4.0], [-2.0, -4.0]])
    >>> weights = stack_numbers(outputs, jnp.array([1.0, 2.0]))
    >>> [round(float(weight), 3) for weight in weights]
    [0.75, 0.25]
  """
  values, counts = values_and_weights(targets)
  errors = (outputs - values[None]).reshape(len(outputs), len(values), -1)
  if counts is not None:
    root = jnp.sqrt(counts).reshape(1, len(values), -1)
    errors = jnp.where(root > 0, errors, 0) * root
  flat = errors.reshape(len(outputs), -1)
  fine = jnp.all(jnp.isfinite(flat), axis=1)
  flat = jnp.where(fine[:, None], flat, 0)
  size = jnp.max(jnp.abs(flat))
  flat = flat / jnp.where(size > 0, size, 1)
  # Of weights with sum 1 the error is w' E w.
  products = flat @ flat.T

  def round_of(carry: Any, rate: jax.Array) -> tuple[Any, None]:
    weights, best, least = carry
    slopes = products @ weights
    own = jnp.vdot(weights, jnp.diagonal(products))
    steps = rate * slopes / jnp.where(own > 0, own, 1)
    weights = jax.nn.softmax(jnp.log(weights) - steps)
    loss = weights @ products @ weights
    better = loss < least
    best = jnp.where(better, weights, best)
    return (weights, best, jnp.where(better, loss, least)), None

  start = jnp.where(fine, 1.0, 0.0).astype(flat.dtype)
  start /= jnp.sum(start)
  first = start, start, start @ products @ start
  rates = jnp.linspace(2, 0.1, _ROUNDS, dtype=flat.dtype)
  (_, best, _), _ = jax.lax.scan(round_of, first, rates)
  return best


def _given(
  weights: Sequence[float] | str, number: int
) -> tuple[float, ...] | None:
  """Weights with sum 1; None where they are fitted to each task."""
  if isinstance(weights, str) and weights == 'stacked':
    return None
  if isinstance(weights, str) and weights == 'alike':
    return (1 / number,) * number
  try:
    if isinstance(weights, str):
      raise TypeError
    own = tuple(map(float, weights))
  except (TypeError, ValueError):
    raise ValueError(
      f"weights must be numbers, 'alike' or 'stacked'; got {weights!r}"
    ) from None
  fine = len(own) == number and all(0 <= each < math.inf for each in own)
  if not fine or not any(own):
    raise ValueError(
      f'weights must be {number} numbers from 0, of which one is above; got'
      f' {own}'
    )
  shares = [each / max(own) for each in own]  # whose sum does not overflow
  return tuple(each / sum(shares) for each in shares)


def _stacked(
  outputs: Sequence[jax.Array], targets: PyTree, num_classes: int | None
) -> jax.Array:
  together = jnp.stack(outputs)
  if num_classes is None:
    return stack_numbers(together, targets)
  classes, counts = values_and_weights(targets)
  told = jnp.all(jnp.isfinite(together), axis=-1)
  if counts is not None:
    told = told | (counts == 0)
  # Who says no number is as wrong as can be.
  right = jax.nn.one_hot(classes, num_classes, dtype=together.dtype)
  fine = jnp.all(told, axis=1)[:, None, None]
  together = jnp.where(fine, together, EXCLUDED * right[None])
  alike = jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (len(outputs), *leaf.shape)), targets
  )
  return stack(together, alike)


def _mixed(
  outputs: jax.Array, weights: jax.Array, num_classes: int | None, votes: bool
) -> jax.Array:
  """The mixture; that of one learner are its outputs, to the last bit."""
  if num_classes is None:
    along = weights.reshape(-1, *(1,) * (outputs.ndim - 1))
    # A learner without weight says nothing, even where it is no number.
    mixed = jnp.sum(jnp.where(along == 0, 0, along * outputs), axis=0)
  elif votes:
    first = jax.nn.one_hot(
      jnp.argmax(outputs, axis=-1), outputs.shape[-1], dtype=outputs.dtype
    )
    counts = jnp.einsum('m,mec->ec', weights, first)
    mean = jnp.exp(_combined(outputs, weights))
    half = 0.5 / len(outputs)
    mixed = jnp.log((counts + half * mean) / (1 + half))
  else:
    mixed = _combined(outputs, weights)
  sole = jnp.max(weights) == 1
  return jnp.where(sole, outputs[jnp.argmax(weights)], mixed)


def _combined(outputs: jax.Array, weights: jax.Array) -> jax.Array:
  told = jnp.where((weights == 0)[:, None, None], 0, outputs)
  return combine(told, weights)
