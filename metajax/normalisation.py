"""What a query shares its batch statistics with, when a model is tested.

Models of few-shot learning normalise by the batch at hand, so a test says
little before it says what that batch was:

- `transductive`: all queries of a task together. The common figure, and the
  highest; the model sees the other queries.
- `support`: each query with the support set, never with another query.
- `population`: statistics measured once over training inputs and held fixed,
  the usual choice for methods that do not adapt weights.

In the last two, the prediction for a query does not depend on other queries. A
query alone has no others: normalised by itself, a model that was trained on
batches predicts little better than chance, and `BatchNorm` warns of it.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Model,
  PyTree,
  Task,
)
from metajax.equality import Frozen, by_value
from metajax.inner import partition

__all__ = ['Normalisation', 'population', 'predict_queries']

Normalisation = Literal['transductive', 'support']


def predict_queries(
  learner: Learner | MetaLearner | Frozen,
  adapted: PyTree,
  task: Task,
  normalisation: Normalisation,
) -> PyTree:
  """Outputs for the queries of a task.

  Args:
    learner: any method.
    adapted: what it made of the support set of this task.
    task: the task.
    normalisation: `'transductive'` or `'support'`.

  Returns:
    Leaves `[queries, ...]`.

  Raises:
    ValueError: if `normalisation` is none of these.
  """
  if normalisation == 'transductive':
    return learner.predict(adapted, task.query.inputs)
  if normalisation != 'support':
    raise ValueError(
      "normalisation must be 'transductive' or 'support', got"
      f' {normalisation!r}'
    )

  def predict_one(query: PyTree) -> PyTree:
    batch = jax.tree.map(
      lambda shared, own: jnp.concatenate([shared, own[None]]),
      task.support.inputs,
      query,
    )
    outputs = learner.predict(adapted, batch)
    return jax.tree.map(lambda leaf: leaf[-1], outputs)

  return jax.vmap(predict_one)(task.query.inputs)


@by_value
def population(
  make: Callable[[Model], Learner | MetaLearner], model: Model
) -> Learner:
  """A learner whose normalisation statistics are part of what it is given.

  Args:
    make: builds the learner on a model, such as
      `lambda model: maml(model, objective)`.
    model: with `measure` and `freeze`.

  Returns:
    A `Learner` of meta-parameters `(meta_params, statistics)`, with statistics
    from `model.measure(params, inputs)`.

  Raises:
    ValueError: if the model has no statistics to hold.

  Example:
    >>> import jax, jax.numpy as jnp, metajax
    >>> from metajax.models import conv4
    >>> model = conv4(5, width=4)
    >>> images = jnp.zeros((8, 28, 28, 1))
    >>> params = model.init(jax.random.key(0), images)
    >>> learner = population(
    ...   lambda model: metajax.maml(model, metajax.cross_entropy), model)
    >>> meta_params = (params, model.measure(params, images))
  """
  measure, freeze = model.measure, model.freeze
  if measure is None or freeze is None:
    raise ValueError(
      'this model has no measure and freeze, so it has no population'
      " statistics; use 'transductive' or 'support'"
    )

  def on(statistics: PyTree) -> Learner | MetaLearner:
    return make(freeze(statistics))

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    meta_params = make(model).init(key, inputs)
    params = model.init(key, inputs)
    return meta_params, measure(params, inputs)

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    meta_params, statistics = meta_params
    adapted, adaptation = on(statistics).adapt(key, meta_params, support)
    trajectory = adaptation.trajectory, partition.nothing_of(statistics)
    return (adapted, statistics), Adaptation(adaptation.losses, trajectory)

  def predict(adapted: PyTree, inputs: PyTree) -> PyTree:
    adapted, statistics = adapted
    return on(statistics).predict(adapted, inputs)

  predict.normalisation = 'population'  # type: ignore[attr-defined]
  return Learner(init, adapt, predict)
