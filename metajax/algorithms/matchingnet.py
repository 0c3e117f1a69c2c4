r"""Matching networks: labels of the support set, by attention to it.

.. math::
  p(y \mid x) = \sum_i a(x, x_i) \, [y_i = y], \qquad
  a(x, \cdot) = \mathrm{softmax}(s \cos(f(x), g(x_i)))

with s = 1 in the paper. Without full context embeddings f and g are one
network f'. With them, g reads the support set with a bidirectional LSTM, and f
reads it, as g sees it, with an LSTM that attends for K steps:

.. math::
  g(x_i) = \overrightarrow{h}_i + \overleftarrow{h}_i + f'(x_i), \\
  h_k = \mathrm{LSTM}(f'(x), [h_{k-1}, r_{k-1}]) + f'(x), \qquad
  r_k = \sum_i \mathrm{softmax}(h_k^T g(x_i)) \, g(x_i)

References:
  Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra (2016), Matching networks
  for one shot learning, https://arxiv.org/abs/1606.04080
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  check_num_classes,
  encode_classes,
  one_step,
  present,
  rule_out_absent,
  unit_length,
)
from metajax.base import (
  EXCLUDED,
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
from metajax.models.modes import refuse_key

__all__ = ['FullContext', 'Lstm', 'Matching', 'MatchingParams', 'matchingnet']


class Lstm(NamedTuple):
  """Parameters of an LSTM."""

  kernel: jax.Array  # [whatever it sees, 4 * features]
  bias: jax.Array  # [4 * features]


class FullContext(NamedTuple):
  """Parameters of the full context embeddings."""

  forward: Lstm
  backward: Lstm
  attention: Lstm


class MatchingParams(NamedTuple):
  """Meta-parameters of a matching network."""

  params: PyTree  # of the embedding
  context: FullContext | tuple[()]


class Matching(NamedTuple):
  """What a matching network knows of a task."""

  meta_params: MatchingParams
  features: jax.Array  # [examples, features]
  members: jax.Array  # [examples, ways], the weight of a class in an example


@by_value
def matchingnet(
  model: Model,
  objective: Objective,
  num_classes: int,
  *,
  full_context: bool = False,
  num_steps: int = 5,
  scale: float = 1.0,
) -> MetaLearner:
  """A matching network, whose outputs are log-probabilities.

  Before adaptation every example may be of any class.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    full_context: whether embeddings depend on the whole support set. They
      also depend on its order, which is random.
    num_steps: K, how often a query attends to the support set for that.
    scale: factor of the cosines. With 1, one of five classes has at most two
      thirds of the probability, and training takes longer.

  Returns:
    A `MetaLearner` whose meta-parameters are `MatchingParams`.

  Raises:
    ValueError: if a number is not positive; in `adapt`, if targets are not
      classes.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> embedding = conv4(None, downsample='max_pool', pool='flatten')
    >>> learner = matchingnet(embedding, metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  refuse_key(model)
  if num_steps < 1:
    raise ValueError(f'num_steps must be 1 or more, got {num_steps}')
  if not scale > 0:
    raise ValueError(f'scale must be above 0, got {scale}')

  def init(key: jax.Array, inputs: PyTree) -> MatchingParams:
    params = model.init(key, inputs)
    if not full_context:
      return MatchingParams(params, ())
    features = jax.eval_shape(model.apply, params, inputs)
    context_key = jax.random.fold_in(key, 1)
    width, dtype = features.shape[-1], features.dtype
    return MatchingParams(params, _draw_context(context_key, width, dtype))

  def adapt(
    key: jax.Array, meta_params: MatchingParams, support: Batch
  ) -> tuple[Matching, Adaptation]:
    del key  # deterministic
    features = model.apply(meta_params.params, support.inputs)
    targets = encode_classes(support.targets, num_classes, features.dtype)
    if isinstance(meta_params.context, FullContext):
      features = _read_support(meta_params.context, features, targets.real)
    members = targets.members
    adapted = Matching(meta_params, features, members)
    anything = jnp.full_like(members, 1 / num_classes)
    return adapted, one_step(adapted._replace(members=anything), adapted)

  def predict(adapted: Matching, inputs: PyTree) -> jax.Array:
    meta_params, features, members = adapted
    real, occurs = (present(members, axis=axis) for axis in (1, 0))
    queries = model.apply(meta_params.params, inputs)
    context = meta_params.context
    if isinstance(context, FullContext):
      queries = jax.vmap(
        lambda query: _read_query(context, query, features, real, num_steps)
      )(queries)
    directions = unit_length(features, axis=1)
    cosines = unit_length(queries, axis=1) @ directions.T
    attention = jax.nn.log_softmax(_only(real[None], scale * cosines))
    # What is ruled out has a finite derivative too.
    weights = jnp.where(occurs[None], members, 1)
    logits = jax.scipy.special.logsumexp(
      attention[:, :, None], b=weights[None], axis=1
    )
    return rule_out_absent(logits, occurs)

  learner = Learner(init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _only(real: jax.Array, scores: jax.Array) -> jax.Array:
  """Leaves what is not real out of a softmax of scores."""
  return jnp.where(real, scores, EXCLUDED)


def _read_support(
  context: FullContext, features: jax.Array, real: jax.Array
) -> jax.Array:
  """g: each example in the context of the others.

  Args:
    context: parameters.
    features: `[examples, features]`.
    real: booleans `[examples]`; the others are passed over.

  Returns:
    `[examples, features]`.
  """

  def read(lstm: Lstm, reverse: bool) -> jax.Array:
    def step(
      state: tuple[jax.Array, jax.Array], example: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
      (cell, hidden), (features, real) = state, example
      cell_after, hidden_after = _lstm(
        lstm, cell, jnp.concatenate([features, hidden])
      )
      cell = jnp.where(real, cell_after, cell)
      hidden = jnp.where(real, hidden_after, hidden)
      return (cell, hidden), hidden

    nothing = jnp.zeros_like(features[0])
    _, read = jax.lax.scan(
      step, (nothing, nothing), (features, real), reverse=reverse
    )
    return read

  forward = read(context.forward, reverse=False)
  backward = read(context.backward, reverse=True)
  return forward + backward + features


def _read_query(
  context: FullContext,
  query: jax.Array,
  support: jax.Array,
  real: jax.Array,
  num_steps: int,
) -> jax.Array:
  """f: a query in the context of the support set.

  Args:
    context: parameters.
    query: `[features]`.
    support: g, `[examples, features]`.
    real: booleans `[examples]`; the others are not attended to.
    num_steps: how often it attends.

  Returns:
    `[features]`.
  """

  def step(
    _: int, state: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    cell, hidden = state
    read = jax.nn.softmax(_only(real, support @ hidden)) @ support
    seen = jnp.concatenate([query, hidden, read])
    cell, hidden = _lstm(context.attention, cell, seen)
    return cell, hidden + query

  nothing = jnp.zeros_like(query)
  _, hidden = jax.lax.fori_loop(0, num_steps, step, (nothing, nothing))
  return hidden


def _lstm(
  params: Lstm, cell: jax.Array, seen: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The next cell and the hidden state; `seen` holds the last one too."""
  gates = jnp.split(seen @ params.kernel + params.bias, 4)
  write, keep, show = (jax.nn.sigmoid(gate) for gate in gates[:3])
  cell = keep * cell + write * jnp.tanh(gates[3])
  return cell, show * jnp.tanh(cell)


def _draw_context(key: jax.Array, width: int, dtype: jnp.dtype) -> FullContext:
  def draw(key: jax.Array, seen: int) -> Lstm:
    kernel = nn.initializers.lecun_normal()(key, (seen, 4 * width), dtype)
    return Lstm(kernel, jnp.zeros((4 * width,), dtype))

  keys = jax.random.split(key, 3)
  return FullContext(
    draw(keys[0], 2 * width), draw(keys[1], 2 * width), draw(keys[2], 3 * width)
  )
