r"""ALFA: rates and decay of every step, from what the step sees of the task.

.. math::
  \theta_l^{t+1} = \beta_l^t \, \theta_l^t - \alpha_l^t \nabla_l L(\theta^t,
    S), \qquad (\alpha^t, \beta^t) = g_\psi\bigl(
      (\overline{\theta_l^t}, \overline{\nabla_l L(\theta^t, S)})_l \bigr)

A small network g is given the means of the weights and of the gradient of every
array l of parameters, and answers with two numbers for each. They multiply
learned constants of the array and step,

.. math::
  \alpha_l^t = 2 \sigma(a_l) \, e^{A_{t,l}}, \qquad
  \beta_l^t = 1 - \tanh(b_l) \, e^{B_{t,l}}.

The sigmoid and the hyperbolic tangent, which the authors do without, bound what
one step can do. Answers are 0 at first, so that it starts as MAML. (In their
code scales and biases of normalisation do not adapt, and the gradient is held
constant where the network sees it.)

References:
  Baik, Choi, Choi, Kim, Lee (2020), Meta-learning with adaptive
  hyperparameters, https://arxiv.org/abs/2011.00209
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.adaptation.learned_descent import (
  at_step,
  by_step,
  learned_descent,
)
from metajax.base import MetaLearner, Model, Objective, PyTree
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder
from metajax.models import mlp

__all__ = ['AdaptiveRule', 'alfa']


class AdaptiveRule(NamedTuple):
  """What is learned of the inner optimiser; arrays are those that adapt."""

  network: PyTree  # from 2 * arrays to 2 * arrays numbers
  rates: jax.Array  # [steps, arrays], logarithms
  decays: jax.Array  # [steps, arrays], logarithms


@by_value
def alfa(
  model: Model,
  objective: Objective,
  inner_lr: float = 0.1,
  num_steps: int = 5,
  *,
  decay: float = 0.1,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
  adapts: partition.Select = partition.everything,
) -> MetaLearner:
  """MAML with inner rates and weight decay made for the task and step.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: every rate at first, for a loss that is a mean.
    num_steps: inner steps; at test there may be more, which have the constants
      of the last.
    decay: the share of the weights that a step may take away at most, at first.
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).
    adapts: which parameters adapt; the others are learned outside only.

  Returns:
    A `MetaLearner` whose meta-parameters are `LearnedDescent`, with an
    `AdaptiveRule`.

  Raises:
    ValueError: if `inner_lr` or `decay` is not positive, `num_steps` is not
      positive, or `second_order` or `checkpoint` is unknown.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.alfa(conv4(5), metajax.cross_entropy)
  """
  check_inner_loop(inner_lr, num_steps)
  if num_steps < 1:
    raise ValueError(f'num_steps must be 1 or more, got {num_steps}')
  if not decay > 0:
    raise ValueError(f'decay must be above 0, got {decay}')

  def init_rule(key: jax.Array, params: PyTree) -> AdaptiveRule:
    arrays = len(jax.tree.leaves(params))
    dtype = jnp.result_type(*jax.tree.leaves(params))
    network = _network(arrays).init(key, jnp.zeros((1, 2 * arrays)))
    network['head'] = jax.tree.map(jnp.zeros_like, network['head'])
    shape = (num_steps, arrays)
    return AdaptiveRule(
      jax.tree.map(lambda leaf: leaf.astype(dtype), network),
      jnp.full(shape, jnp.log(inner_lr), dtype),
      jnp.full(shape, jnp.log(decay), dtype),
    )

  learner = learned_descent(
    model,
    objective,
    num_steps,
    init_rule,
    _optimizer,
    second_order=second_order,
    checkpoint=checkpoint,
    adapts=adapts,
  )
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _network(arrays: int) -> Model:
  return mlp([2 * arrays], 2 * arrays)


def _optimizer(rule: AdaptiveRule) -> optax.GradientTransformation:
  def update(gradient: PyTree, params: PyTree, step: jax.Array) -> PyTree:
    slopes, structure = jax.tree.flatten(gradient)
    weights = jax.tree.leaves(params)
    seen = jnp.stack([jnp.mean(leaf) for leaf in weights + slopes])
    answer = _network(len(slopes)).apply(rule.network, seen[None])[0]
    for_rates, for_decays = jnp.split(answer, 2)
    rates = 2 * jax.nn.sigmoid(for_rates) * jnp.exp(at_step(rule.rates, step))
    decays = jnp.tanh(for_decays) * jnp.exp(at_step(rule.decays, step))
    return jax.tree.unflatten(
      structure,
      [
        -decay * weight - rate * slope
        for decay, weight, rate, slope in zip(
          decays, weights, rates, slopes, strict=True
        )
      ],
    )

  return by_step(update)
