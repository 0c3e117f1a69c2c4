r"""MAML++: five remedies for the training of MAML.

.. math::
  \min \sum_i \sum_t w_t(n) \, L(\theta_i^t, Q_i), \qquad
  \theta_{i,l}^{t+1} = \theta_{i,l}^t - \alpha_{t,l} \nabla_l L(\theta_i^t, S_i)

1. Early in training the loss after every inner step counts. The weights
   :math:`w_t(n)` move, with the outer steps n, from all alike to the last.
2. Rates are learned, one for each array of parameters and inner step.
3. At first the inner gradients are held constant (first order), later they are
   differentiated.
4. The outer rate falls by a cosine; that is the outer optimiser's business.
5. Scales and biases of normalisation do not adapt: those of each inner step are
   learned.

Models are stateless, so normalisation is by the batch at hand, as everywhere
in metajax; the authors' running statistics of every step have no counterpart.

References:
  Antoniou, Edwards, Storkey (2019), How to train your MAML,
  https://arxiv.org/abs/1810.09502
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.adaptation.learned_descent import (
  LearnedDescent,
  at_step,
  by_step,
  learned_descent,
)
from metajax.base import (
  Learner,
  MetaGradient,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder

__all__ = [
  'LABELS',
  'PlusPlusParams',
  'maml_plus_plus',
  'step_weights',
]


class PlusPlusParams(NamedTuple):
  """Meta-parameters of MAML++."""

  params: PyTree  # of the model; its normalisation before the first step
  # It has for each array [steps, ...] the logarithms of its rates, and in
  # normalisation what it is after each step.
  inner: PyTree
  step: PyTree  # int32 [], outer steps taken


# For `metajax.outer_optimizer`.
LABELS = PlusPlusParams('weights', 'weights', 'state')


@by_value
def maml_plus_plus(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.1,
  num_steps: int = 5,
  *,
  multi_step: int = 0,
  first_order: int = 0,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """MAML++. Train it with `outer_optimizer` and `LABELS`: steps are counted.

  Test it with as many inner steps as it was trained with, or fewer; in any
  more, the last rates and normalisation are used again.

  Args:
    model: the network; layers with `Norm` in their names do not adapt.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: every rate at first, for a loss that is a mean.
    num_steps: inner steps.
    multi_step: outer steps until the loss after the last inner step is the only
      one that counts.
    first_order: outer steps with inner gradients held constant.
    second_order: how inner gradients are differentiated after them (see
      `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).

  Returns:
    A `MetaLearner` whose meta-parameters are `PlusPlusParams`; it adapts to
    `LearnedDescent`.

  Raises:
    ValueError: if `inner_lr` or `num_steps` is not positive, `multi_step` or
      `first_order` is negative, or `second_order` or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.maml_plus_plus(
    ...   conv4(5), metajax.cross_entropy, multi_step=100, first_order=500)
  """
  check_inner_loop(inner_lr, num_steps)
  if num_steps < 1:
    raise ValueError(f'num_steps must be 1 or more, got {num_steps}')
  if multi_step < 0 or first_order < 0:
    raise ValueError(
      'multi_step and first_order must be 0 or more, got'
      f' {multi_step} and {first_order}'
    )

  def init_inner(key: jax.Array, params: PyTree) -> PyTree:
    del key  # all alike

    def of_leaf(path: str, leaf: jax.Array) -> jax.Array:
      if partition.normalisation(path):
        return partition.repeat(leaf, num_steps)
      return jnp.full((num_steps,), jnp.log(inner_lr), leaf.dtype)

    return partition.map_with_path(of_leaf, params)

  def make(second_order: SecondOrder) -> Learner:
    return learned_descent(
      model,
      objective,
      num_steps,
      init_inner,
      _optimizer,
      second_order=second_order,
      checkpoint=checkpoint,
    )

  learner, approximate = make(second_order), make('none')

  def init(key: jax.Array, inputs: PyTree) -> PlusPlusParams:
    params, inner = learner.init(key, inputs)
    return PlusPlusParams(params, inner, jnp.int32(0))

  # The estimator changes at these steps, and not before.
  starts = sorted({0, first_order, multi_step})

  def grad(
    key: jax.Array, meta_params: PlusPlusParams, tasks: Task
  ) -> tuple[PlusPlusParams, Metrics]:
    params, inner, step = meta_params
    weights = step_weights(step, multi_step, num_steps)

    def estimator(start: int) -> MetaGradient:
      return backprop(
        approximate if start < first_order else learner,
        objective,
        weights if start < multi_step else None,
      )

    # The choice stands outside of the map over tasks: only one is computed.
    learned, metrics = jax.lax.switch(
      sum(jnp.int32(step >= start) for start in starts[1:]),
      [estimator(start) for start in starts],
      key,
      LearnedDescent(params, inner),
      tasks,
    )
    return PlusPlusParams(
      learned.params, learned.inner, step=-jnp.ones(())
    ), metrics

  return MetaLearner(init, learner.adapt, learner.predict, grad)


def _optimizer(inner: PyTree) -> optax.GradientTransformation:
  """Descends at learned rates; normalisation becomes what is learned for it."""

  def update(gradient: PyTree, params: PyTree, step: jax.Array) -> PyTree:
    def of_leaf(
      path: str, slope: jax.Array, param: jax.Array, learned: jax.Array
    ) -> jax.Array:
      if partition.normalisation(path):
        return at_step(learned, step) - param
      return -jnp.exp(at_step(learned, step)) * slope

    return partition.map_with_path(of_leaf, gradient, params, inner)

  return by_step(update)


def step_weights(
  step: jax.Array, multi_step: int, num_steps: int
) -> jax.Array | None:
  r"""Weighs the query loss after each inner step.

  .. math::
    w_t = \frac{1}{K} \left(1 - \frac{n}{N}\right) \; (t < K), \qquad
    w_K = 1 - \sum_{t < K} w_t

  Args:
    step: outer steps taken, n.
    multi_step: outer steps until only the last weight is left, N.
    num_steps: inner steps, K.

  Returns:
    [num_steps], with the sum 1; None without any step in which they matter.

  Example:
    >>> import jax.numpy as jnp
    >>> step_weights(jnp.int32(5), 10, 2).tolist()
    [0.25, 0.75]
  """
  if not multi_step:
    return None
  early = jnp.maximum(0, 1 - step / multi_step) / num_steps
  weights = jnp.full((num_steps,), early)
  return weights.at[-1].set(1 - early * (num_steps - 1))
