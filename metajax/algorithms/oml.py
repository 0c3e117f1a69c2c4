r"""OML: a representation on which a head can be learned online.

.. math::
  W^{t+1} = W^t - \alpha \nabla_W L(W^t \cdot f_\phi(x_t), y_t), \qquad
  \min_{\phi, W^0} L(W^K \cdot f_\phi(x), y), \quad (x, y) \in S \cup R

The head W learns from a stream S, one example a step, in which classes come one
after another; the representation :math:`f_\phi` does not move within. Judged
are the examples of the stream and R, others of all classes of training, which
must not have been forgotten. Before the stream the rows of its classes are set
to zero, as a new class has them at test.

Paper and code of the authors do not say the same of what the outer step moves:
the text learns the representation, and the code gives every parameter to Adam,
the start of the head among them. Here `moves` says which it is; everything by
default.

References:
  Javed, White (2019), Meta-learning representations for continual learning,
  https://arxiv.org/abs/1905.12588
"""

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation.classes import check_num_classes
from metajax.adaptation.gradient_learner import check_inner_loop
from metajax.adaptation.heads import TransferParams, linear_head, with_head
from metajax.adaptation.streams import learn_stream
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
  values_and_weights,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of
from metajax.inner import partition
from metajax.inner.descend import Checkpoint
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics

__all__ = ['oml']


@by_value
def oml(
  model: Model,
  objective: Objective,
  num_classes: int,
  train_classes: int,
  inner_lr: float = 0.1,
  num_steps: int = 1,
  *,
  moves: str = '.',
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """OML: learns features on which a linear head can be learned online.

  It trains with the labels of all classes, such as those of
  `metajax.tasks.class_streams`: the support set is the stream, the queries are
  the stream and what is to be remembered. To adapt it starts with a new head of
  zeros, and takes one step an example, in their order.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`; each
      example by itself, as the others of a stream are not there yet.
    objective: of one example while adapting, and of the queries outside.
    num_classes: that are told apart after adaptation.
    train_classes: all classes of training, see above.
    inner_lr: rate of the inner steps.
    num_steps: how often the stream comes, in the same order; the authors' once.
    moves: which meta-parameters the outer step moves: a regular expression of
      their paths. `'.'` is everything (the authors' code), `'^params/'` the
      representation alone (their text).
    second_order: how inner gradients are differentiated (see `descend`);
      `'none'` is first order.
    checkpoint: what is computed again instead of kept (see `descend`).

  Returns:
    A `MetaLearner` of `TransferParams`.

  Raises:
    ValueError: if a number of classes or `inner_lr` is not positive,
      `num_steps` is negative, or `moves` is no pattern; while training, if it
      selects nothing.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = metajax.oml(
    ...   conv4(None, normalisation='example'), metajax.cross_entropy, 5, 1200)
  """
  refuse_key(model)
  check_num_classes(num_classes)
  check_num_classes(train_classes, 2)
  check_inner_loop(inner_lr, num_steps)
  select = partition.matching(moves)
  whole = with_head(model, linear_head(train_classes))
  new = linear_head(num_classes)
  on_features = linear_head(1).apply  # of any number of classes

  def learn(
    head: PyTree, features: jax.Array, targets: PyTree
  ) -> tuple[PyTree, Adaptation]:
    def loss(head: PyTree, one: Batch) -> jax.Array:
      outputs = on_features(head, one.inputs)
      return loss_and_metrics(objective, outputs, one.targets)[0]

    return learn_stream(
      loss,
      head,
      optax.sgd(inner_lr),
      Batch(features, targets),
      num_steps,
      second_order=second_order,
      checkpoint=checkpoint,
    )

  def adapt(
    key: jax.Array, meta_params: TransferParams, support: Batch
  ) -> tuple[TransferParams, Adaptation]:
    params = meta_params.params
    features = model.apply(params, support.inputs)
    start = new.init(key, features)
    head, way = learn(start, features, support.targets)
    stays = partition.nothing_of(params)
    return (
      TransferParams(params, head),
      Adaptation(way.losses, TransferParams(stays, way.trajectory)),
    )

  def task_loss(
    key: jax.Array, meta_params: TransferParams, task: Task
  ) -> tuple[jax.Array, Metrics]:
    del key  # nothing is drawn
    moving, still = partition.split(meta_params, select)
    params, head = partition.merge(moving, jax.lax.stop_gradient(still))
    features = model.apply(params, task.support.inputs)
    start = _without(head, task.support.targets, train_classes)
    head, _ = learn(start, features, task.support.targets)
    outputs = on_features(head, model.apply(params, task.query.inputs))
    loss, metrics = loss_and_metrics(objective, outputs, task.query.targets)
    return loss, {'loss': loss, **metrics}

  learner = Learner(whole.init, adapt, whole.apply)
  return MetaLearner(*learner, grad=gradient_of(task_loss))


def _without(head: PyTree, targets: PyTree, train_classes: int) -> PyTree:
  """The head with zeros for the classes that are in a stream."""
  classes, weights = values_and_weights(targets)
  if weights is not None:
    classes = jnp.where(weights == 0, -1, classes)
  comes = jnp.any(classes[:, None] == jnp.arange(train_classes)[None], axis=0)
  return jax.tree.map(
    lambda leaf: jnp.where(comes, jnp.zeros_like(leaf), leaf), head
  )
