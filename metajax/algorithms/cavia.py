r"""CAVIA: adapt a few context parameters, and share all weights.

.. math::
  c_i^0 = 0, \qquad
  c_i^{t+1} = c_i^t - \alpha \nabla_c L(f_{\phi + c_i^t W}, S_i)

The context moves scales and biases of the network along learned directions:
for each of them, :math:`b + c W`. In a fully connected layer this is what the
authors' concatenation of the context to its inputs computes, :math:`[x, c] (K,
W) + b`, and after batch normalisation it is their feature-wise modulation,
:math:`\gamma(c) \circ h + \beta(c)`. It is a function of parameters, so it does
for any `Model`. (A constant input channel would do nothing here: the first
batch normalisation takes it away again.)

References:
  Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019), Fast context adaptation
  via meta-learning, https://arxiv.org/abs/1810.03642
  Perez et al. (2018), FiLM: visual reasoning with a general conditioning layer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.gradient_learner import (
  check_inner_loop,
  gradient_learner,
)
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
from metajax.models.modes import like, with_key

__all__ = ['ContextParams', 'cavia', 'shifts']


class ContextParams(NamedTuple):
  """Meta-parameters of CAVIA, and what adapting makes of them."""

  params: PyTree  # of the model
  directions: PyTree  # [context, features] for each scale and bias
  context: jax.Array  # [context]; zeros before adaptation


def shifts(path: str) -> bool:
  """Selects scales and biases of all but the last layer."""
  return partition.body(path) and path.split('/')[-1] in ('scale', 'bias')


@by_value
def cavia(
  model: Model,
  objective: Objective,
  inner_lr: float = 1.0,
  num_steps: int = 2,
  *,
  num_context: int = 100,
  moves: partition.Select = shifts,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """CAVIA for any model with scales or biases.

  Args:
    model: the network.
    objective: of the support set while adapting, and of the queries outside.
    inner_lr: rate of the inner steps, for a loss that is a mean.
    num_steps: inner steps.
    num_context: context parameters, all that adapts.
    moves: which parameters the context moves, vectors `[features]`; by default
      every scale and bias outside of the layer called `head`. (The authors
      move those of one layer.)
    second_order: how inner gradients are differentiated (see `descend`).
    checkpoint: what is computed again instead of kept (see `descend`).

  Returns:
    A `MetaLearner` whose meta-parameters are `ContextParams`. Their context is
    not learned: adaptation starts at zero, since what another start could do
    the scales and biases can do.

  Raises:
    ValueError: if `inner_lr` or `num_context` is not positive, `num_steps` is
      negative, or `second_order` or `checkpoint` is unknown; while
      initialising, if the model has nothing to move.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.cavia(conv4(5), metajax.cross_entropy)
  """
  check_inner_loop(inner_lr, num_steps)
  if num_context < 1:
    raise ValueError(f'num_context must be 1 or more, got {num_context}')

  def init(key: jax.Array, inputs: PyTree) -> ContextParams:
    params = model.init(key, inputs)
    moved, _ = partition.split(params, moves)
    directions = _draw_directions(
      jax.random.fold_in(key, 1), moved, num_context
    )
    dtype = jnp.result_type(*jax.tree.leaves(moved))
    return ContextParams(params, directions, jnp.zeros(num_context, dtype))

  def apply(
    meta_params: ContextParams, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    params, directions, context = meta_params
    moved, rest = partition.split(params, moves)
    moved = jax.tree.map(
      lambda leaf, along: leaf + context @ along, moved, directions
    )
    return with_key(model.apply, key)(partition.merge(moved, rest), inputs)

  whole = Model(init, like(model.apply, apply))
  descender = gradient_learner(
    whole,
    objective,
    inner_lr,
    num_steps,
    second_order=second_order,
    checkpoint=checkpoint,
    adapts=lambda path: path == 'context',
  )

  def adapt(
    key: jax.Array, meta_params: ContextParams, support: Batch
  ) -> tuple[ContextParams, Adaptation]:
    context = jnp.zeros_like(meta_params.context)
    start = meta_params._replace(context=context)
    return descender.adapt(key, start, support)

  learner = Learner(init, adapt, whole.apply)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _draw_directions(key: jax.Array, moved: PyTree, num_context: int) -> PyTree:
  leaves, structure = jax.tree.flatten(moved)
  keys = jax.random.split(key, len(leaves))
  draw = jax.nn.initializers.lecun_normal()
  return jax.tree.unflatten(
    structure,
    [
      draw(key, (num_context, len(leaf)), leaf.dtype)
      for key, leaf in zip(keys, leaves, strict=True)
    ],
  )
