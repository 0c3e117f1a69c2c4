r"""La-MAML: look-ahead MAML, which learns a rate for every weight online.

.. math::
  \theta^{t+1} = \theta^t - \max(0, \alpha) \circ
    \nabla L(\theta^t, x_t, y_t), \qquad
  \nabla_\alpha L(\theta^K, Q) = - \nabla L(\theta^K, Q) \circ
    \sum_t \nabla L(\theta^t, x_t, y_t)

The stream moves the weights one example at a time; the queries are the same
examples and some that were kept of those before. The rates fall where old and
new examples want opposite things. The formula for their gradient is the
authors' first order, which is the derivative where inner gradients are held
constant (`second_order='none'`, the default), and rates are above 0.

References:
  Gupta, Yadav, Paull (2020), La-MAML: look-ahead meta learning for continual
  learning, https://arxiv.org/abs/2007.13904
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.adaptation.learned_descent import LearnedDescent
from metajax.adaptation.streams import learn_stream
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Model,
  Objective,
  PyTree,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics

__all__ = ['by_learned_rates', 'la_maml']


@by_value
def la_maml(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.1,
  num_steps: int = 1,
  *,
  second_order: SecondOrder = 'none',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """La-MAML: a learned rate for every weight, on a stream.

  What is adapted has the rates still, so the next stream can start from it.
  The authors' online procedure is one outer step a few examples, by
  `by_learned_rates`, with the queries those examples and some kept ones.

  Args:
    model: the network.
    objective: of one example while adapting, and of the queries outside.
    inner_lr: every rate at first.
    num_steps: how often the stream comes, in the same order.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).

  Returns:
    A `MetaLearner` of `LearnedDescent`, with the rates.

  Raises:
    ValueError: if `inner_lr` is not positive, `num_steps` is negative, or
      `second_order` or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.la_maml(
    ...   conv4(5, normalisation='example'), metajax.cross_entropy)
  """
  refuse_key(model)
  check_inner_loop(inner_lr, num_steps)

  def init(key: jax.Array, inputs: PyTree) -> LearnedDescent:
    params = model.init(key, inputs)
    learned, _ = partition.split_learned(params)
    rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, inner_lr), learned)
    return LearnedDescent(params, rates)

  def adapt(
    key: jax.Array, meta_params: LearnedDescent, support: Batch
  ) -> tuple[LearnedDescent, Adaptation]:
    del key  # nothing is drawn

    def loss(params: PyTree, one: Batch) -> jax.Array:
      outputs = model.apply(params, one.inputs)
      return loss_and_metrics(objective, outputs, one.targets)[0]

    descent = optax.stateless(
      lambda gradient, params: _scaled(meta_params.inner, gradient)
    )
    params, way = learn_stream(
      loss,
      meta_params.params,
      descent,
      support,
      num_steps,
      second_order=second_order,
      checkpoint=checkpoint,
    )
    stay = partition.nothing_of(meta_params.inner)
    return (
      LearnedDescent(params, meta_params.inner),
      Adaptation(way.losses, LearnedDescent(way.trajectory, stay)),
    )

  def predict(adapted: LearnedDescent, inputs: PyTree) -> PyTree:
    return model.apply(adapted.params, inputs)

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def by_learned_rates(
  rate: float, max_norm: float = 2.0
) -> optax.GradientTransformation:
  r"""The outer step of La-MAML: rates first, and weights by the new rates.

  .. math::
    \alpha \leftarrow \alpha - \eta \nabla_\alpha L, \qquad
    \theta \leftarrow \theta - \max(0, \alpha) \circ \nabla_\theta L

  Args:
    rate: of the rates.
    max_norm: to which the gradient of the weights, and that of the rates, are
      clipped.

  Returns:
    An optimiser of `LearnedDescent`.

  Raises:
    ValueError: if `rate` or `max_norm` is not positive.

  Example:
    >>> outer = by_learned_rates(0.2)
    >>> params, slope = LearnedDescent(1.0, 0.5), LearnedDescent(0.2, 1.0)
    >>> updates, _ = outer.update(slope, outer.init(params), params)
    >>> round(float(updates.inner), 3), round(float(updates.params), 3)
    (-0.2, -0.06)
  """
  for name, value in (('rate', rate), ('max_norm', max_norm)):
    if not value > 0:
      raise ValueError(f'{name} must be above 0, got {value}')

  def clipped(gradient: PyTree) -> PyTree:
    norm = optax.tree.norm(gradient)
    factor = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda leaf: factor * leaf, gradient)

  def update(gradient: PyTree, params: PyTree | None) -> PyTree:
    assert params is not None
    rates = jax.tree.map(lambda leaf: -rate * leaf, clipped(gradient.inner))
    moved = jax.tree.map(jnp.add, params.inner, rates)
    return LearnedDescent(_scaled(moved, clipped(gradient.params)), rates)

  return optax.stateless(update)


def _scaled(rates: PyTree, gradient: PyTree) -> PyTree:
  def scaled(rate: jax.Array | None, leaf: jax.Array | None) -> Any:
    if leaf is None or rate is None:  # what is not learned stays
      return None if leaf is None else jnp.zeros_like(leaf)
    return -jnp.maximum(rate, 0) * leaf

  return jax.tree.map(
    scaled, rates, gradient, is_leaf=lambda leaf: leaf is None
  )
