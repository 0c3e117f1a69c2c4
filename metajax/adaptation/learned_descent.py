r"""Gradient descent of which more is learned than where it starts.

.. math::
  \theta_i^0 = \phi, \qquad
  \theta_i^{t+1} = \theta_i^t + u_\psi(\nabla L(\theta_i^t, S_i),
    \theta_i^t, t)

The inner optimiser :math:`u_\psi` is an optax transformation, made from learned
parameters inside of every adaptation. Since `descend` differentiates through
all that its optimiser closes over, they are learned like the start.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import (
  InnerOptimizer,
  check_inner_loop,
  gradient_learner,
)
from metajax.base import Adaptation, Batch, Learner, Model, Objective, PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import check_model, like, with_key

__all__ = [
  'InitInner',
  'LearnedDescent',
  'UpdateOfStep',
  'at_step',
  'by_step',
  'learned_descent',
]


class LearnedDescent(NamedTuple):
  """Meta-parameters of a learned descent, and what adapting makes of them."""

  params: PyTree  # of the model
  inner: PyTree = ()  # of the inner optimiser; predictions do not need it


class InitInner(Protocol):
  """Draws what an inner optimiser learns, for the parameters that adapt."""

  def __call__(self, key: jax.Array, params: PyTree, /) -> PyTree: ...


@by_value
def learned_descent(
  model: Model,
  objective: Objective,
  num_steps: int,
  init_inner: InitInner,
  inner_optimizer: InnerOptimizer,
  *,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  adapts: partition.Select = partition.everything,
) -> Learner:
  """A learner that descends by an optimiser that is learned too.

  Args:
    model: the network.
    objective: of the support set.
    num_steps: inner steps.
    init_inner: `(key, params) -> inner`, for the parameters that adapt.
    inner_optimizer: makes an optax transformation from `inner`.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    adapts: which parameters adapt; the others are learned outside only.

  Returns:
    A `Learner` whose meta-parameters are `LearnedDescent`.

  Raises:
    ValueError: if `num_steps` is negative.

  Example:
    >>> import jax, jax.numpy as jnp, metajax, optax
    >>> from metajax.models import mlp
    >>> one_learned_rate = learned_descent(
    ...   mlp([40, 40], 1), metajax.mean_squared_error, 1,
    ...   init_inner=lambda key, params: jnp.log(0.01),
    ...   inner_optimizer=lambda rate: optax.sgd(jnp.exp(rate)))
  """
  check_model(model)
  check_inner_loop(None, num_steps, inner_optimizer)

  def init(key: jax.Array, inputs: PyTree) -> LearnedDescent:
    params = model.init(key, inputs)
    adapted, _ = partition.split(params, adapts)
    return LearnedDescent(
      params, init_inner(jax.random.fold_in(key, 1), adapted)
    )

  def adapt(
    key: jax.Array, meta_params: LearnedDescent, support: Batch
  ) -> tuple[LearnedDescent, Adaptation]:
    learner = gradient_learner(
      model,
      objective,
      meta_params.inner,
      num_steps,
      second_order=second_order,
      checkpoint=checkpoint,
      inner_optimizer=inner_optimizer,
      adapts=adapts,
    )
    params, adaptation = learner.adapt(key, meta_params.params, support)
    return LearnedDescent(params), Adaptation(
      adaptation.losses, LearnedDescent(adaptation.trajectory)
    )

  def predict(
    adapted: LearnedDescent, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    return with_key(model.apply, key)(adapted.params, inputs)

  return Learner(init, adapt, like(model.apply, predict))


UpdateOfStep = Callable[[PyTree, PyTree, jax.Array], PyTree]


def by_step(update: UpdateOfStep) -> optax.GradientTransformation:
  """An inner optimiser whose rule depends on the number of the step.

  Args:
    update: `(gradient, params, step) -> update`; `step` counts from 0.

  Returns:
    The optax transformation.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> rates = jnp.array([0.5, 0.25])
    >>> slower = by_step(lambda gradient, params, step: jax.tree.map(
    ...   lambda leaf: -at_step(rates, step) * leaf, gradient))
  """

  def transform(
    gradient: PyTree, step: optax.OptState, params: PyTree | None = None
  ) -> tuple[PyTree, optax.OptState]:
    assert isinstance(step, jax.Array)
    return update(gradient, params, step), step + 1

  return optax.GradientTransformation(lambda params: jnp.int32(0), transform)


def at_step(values: jax.Array, step: jax.Array) -> jax.Array:
  """The value of a step, of `[steps, ...]`; later steps have the last one."""
  return values[jnp.minimum(step, len(values) - 1)]
