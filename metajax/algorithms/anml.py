r"""ANML: OML whose features pass a gate that a second network opens.

.. math:: f_{\phi, \psi}(x) = g_\phi(x) \odot \sigma(h_\psi(x))

The neuromodulatory network h decides, for every input, which features are
there: what is shut off has no part in the output, and its weights in the head
have no gradient, so that they are not overwritten. On these features a head
learns online, as in `metajax.oml`.

Paper and code of the authors do not say the same of what moves: here the head
alone does within a stream, in training as at test (theirs moves the whole
prediction network in training), and `moves` says what the outer step moves:
everything, `'^params/'` both networks, `'^params/gate/'` the gate alone.

References:
  Beaulieu, Frati, Miconi, Lehman, Stanley, Clune, Cheney (2020), Learning to
  continually learn, https://arxiv.org/abs/2002.09571
"""

from typing import NamedTuple

import jax

from metajax.algorithms.oml import oml
from metajax.base import MetaLearner, Model, Objective, PyTree
from metajax.equality import by_value
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import refuse_key

__all__ = ['Gated', 'anml', 'gated']


class Gated(NamedTuple):
  """Parameters of a network and of the one that gates its features."""

  prediction: PyTree
  gate: PyTree


@by_value
def gated(model: Model, gate: Model | None = None) -> Model:
  """Features of a network, each times a number from 0 to 1 by another.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    gate: of the same inputs and as many outputs; one like `model` without it.

  Returns:
    An embedding whose parameters are `Gated`.

  Raises:
    ValueError: if one of them is no model, or takes a key.
  """
  of_gate = model if gate is None else gate
  refuse_key(model)
  refuse_key(of_gate)

  def init(key: jax.Array, inputs: PyTree) -> Gated:
    keys = jax.random.split(key)
    return Gated(model.init(keys[0], inputs), of_gate.init(keys[1], inputs))

  def apply(params: Gated, inputs: PyTree) -> jax.Array:
    opened = jax.nn.sigmoid(of_gate.apply(params.gate, inputs))
    features: jax.Array = model.apply(params.prediction, inputs) * opened
    return features

  return Model(init, apply)


@by_value
def anml(
  model: Model,
  objective: Objective,
  num_classes: int,
  train_classes: int,
  inner_lr: float = 0.1,
  num_steps: int = 1,
  *,
  gate: Model | None = None,
  moves: str = '.',
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """ANML: `oml` on features that a second network gates.

  Args:
    model: as for `oml`.
    objective: as for `oml`.
    num_classes: as for `oml`.
    train_classes: as for `oml`.
    inner_lr: as for `oml`.
    num_steps: as for `oml`.
    gate: the neuromodulatory network, with as many outputs as `model` has; one
      like it without it.
    moves: as for `oml`; the networks are `params/prediction/...` and
      `params/gate/...`.
    second_order: as for `oml`.
    checkpoint: as for `oml`.

  Returns:
    A `MetaLearner` of `TransferParams`, of which `params` is `Gated`.

  Raises:
    ValueError: as for `oml`.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.anml(
    ...   conv4(None, normalisation='example'), metajax.cross_entropy, 5, 1200)
  """
  return oml(
    gated(model, gate),
    objective,
    num_classes,
    train_classes,
    inner_lr,
    num_steps,
    moves=moves,
    second_order=second_order,
    checkpoint=checkpoint,
  )
