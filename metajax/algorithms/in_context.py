r"""In-context learning: a transformer reads the support set and one query.

.. math::
  o(x) = \frac{1}{\sqrt{m}} C^T \, t_\psi\big([f(x_1), C y_1], \ldots,
    [f(x_n), C y_n], [f(x), 0]\big)_{n+1}

Nothing is computed from labels but in the pass over this sequence, so there is
no gradient at test. A query shares its sequence with the support set alone. The
transformer knows no positions: the order of the support set has no effect.

The columns of C, of m numbers 1 or -1, stand for the classes. They are drawn
anew for every task, so that the numbers of classes mean nothing, and a learner
that was trained with some number of ways can be tested with another. Where
targets are numbers, C is the identity.

References:
  Mishra, Rohaninejad, Chen, Abbeel (2018), A simple neural attentive
  meta-learner, https://arxiv.org/abs/1707.03141
  Fifty et al. (2024), Context-aware meta-learning,
  https://arxiv.org/abs/2310.10971
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  Targets,
  are_numbers,
  check_num_classes,
  encode_targets,
  one_step,
  rule_out_absent,
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
from metajax.models import transformer
from metajax.models.modes import refuse_key
from metajax.precision import drawn_like_inputs

__all__ = ['Context', 'InContextParams', 'in_context']


class InContextParams(NamedTuple):
  """Meta-parameters of an in-context learner."""

  params: PyTree  # of the embedding
  reader: PyTree  # of the transformer


class Context(NamedTuple):
  """What an in-context learner knows of a task."""

  meta_params: InContextParams
  features: jax.Array  # [examples, features]
  labels: jax.Array  # [examples, label_size]
  code: jax.Array  # C^T, [outputs, label_size]
  real: jax.Array  # booleans [examples]; the others are padding
  present: jax.Array  # booleans [outputs], whether the task has the class


@by_value
def in_context(
  model: Model,
  objective: Objective,
  num_classes: int | None = None,
  *,
  label_size: int = 32,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
) -> MetaLearner:
  """A transformer over the support set and a query.

  Before adaptation the labels of the support set are zero, and so are C and
  with it all outputs.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, or predictions of targets `[examples, outputs]`.
    num_classes: classes per task; not needed where targets are numbers.
    label_size: of the vectors that stand for labels.
    width: of the transformer.
    depth: of the transformer.
    heads: of the transformer, which divide the width.

  Returns:
    A `MetaLearner` whose meta-parameters are `InContextParams`.

  Raises:
    ValueError: if `num_classes` or `label_size` is not positive, or `heads` do
      not divide `width`; in `adapt`, if targets are neither classes nor up to
      `label_size` numbers.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = in_context(conv4(None), metajax.cross_entropy, 5)
  """
  if num_classes is not None:
    check_num_classes(num_classes)
  refuse_key(model)
  if label_size < 1:
    raise ValueError(f'label_size must be 1 or more, got {label_size}')
  reader = drawn_like_inputs(
    transformer(
      label_size,
      width=width,
      depth=depth,
      heads=heads,
      pool='none',
      positions=False,
      alike=True,
    )
  )

  def init(key: jax.Array, inputs: PyTree) -> InContextParams:
    params = model.init(key, inputs)
    features = jax.eval_shape(model.apply, params, inputs)
    size = features.shape[1] + label_size + 1
    sequences = jnp.zeros((1, 2, size), features.dtype)
    return InContextParams(
      params, reader.init(jax.random.fold_in(key, 1), sequences)
    )

  def adapt(
    key: jax.Array, meta_params: InContextParams, support: Batch
  ) -> tuple[Context, Adaptation]:
    features = model.apply(meta_params.params, support.inputs)
    encoded = encode_targets(support.targets, num_classes, features.dtype)
    present = encoded.present
    code = _draw_code(key, support.targets, encoded, label_size)
    adapted = Context(
      meta_params, features, encoded.rows @ code, code, encoded.real, present
    )
    before = adapted._replace(
      labels=jnp.zeros_like(adapted.labels),
      code=jnp.zeros_like(code),
      present=jnp.ones_like(present),
    )
    return adapted, one_step(before, adapted)

  def predict(adapted: Context, inputs: PyTree) -> jax.Array:
    meta_params, features, labels, code, real, present = adapted
    queries = model.apply(meta_params.params, inputs)
    sequences, attended = _sequences(features, labels, real, queries)
    read = reader.apply(meta_params.reader, (sequences, attended))
    outputs = read[:, -1] @ code.T / label_size**0.5
    return rule_out_absent(outputs, present)

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _draw_code(
  key: jax.Array, targets: PyTree, encoded: Targets, label_size: int
) -> jax.Array:
  """C^T, `[outputs, label_size]`: at random for classes, else the identity."""
  outputs, dtype = encoded.rows.shape[1], encoded.rows.dtype
  if not are_numbers(targets):
    return jax.random.rademacher(key, (outputs, label_size), dtype)
  if outputs > label_size:
    raise ValueError(
      f'label_size is {label_size}, but an example has {outputs} targets'
    )
  return jnp.eye(outputs, label_size, dtype=dtype)


def _sequences(
  features: jax.Array, labels: jax.Array, real: jax.Array, queries: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """A sequence for each query: the support set, and the query behind it.

  Args:
    features: `[examples, features]`.
    labels: `[examples, label_size]`.
    real: booleans `[examples]`; the others are padding.
    queries: `[queries, features]`.

  Returns:
    `[queries, examples + 1, features + label_size + 1]`, and which of the
    places count, booleans `[queries, examples + 1]`.
  """
  # What follows features and label is 1 for a query, which has no label.
  examples = jnp.pad(
    jnp.concatenate([features, labels], axis=1), ((0, 0), (0, 1))
  )
  asked = jnp.pad(queries, ((0, 0), (0, labels.shape[1] + 1)))
  asked = asked.at[:, -1].set(1)
  sequences = jnp.concatenate(
    [
      jnp.broadcast_to(examples[None], (asked.shape[0], *examples.shape)),
      asked[:, None],
    ],
    axis=1,
  )
  attended = jnp.broadcast_to(jnp.append(real, True)[None], sequences.shape[:2])
  return sequences, attended
