r"""MetaICL: a decoder reads the support set and a query as one text.

.. math::
  p(c \mid x) \propto
    p_\theta(v_c \mid x_1 v_{y_1} \ldots x_n v_{y_n} \, x)
  \qquad \text{or} \qquad
    p_\theta(x \mid v_{y_1} x_1 \ldots v_{y_n} x_n \, v_c)

with v the tokens that stand for classes. The former is the direct model, the
latter the channel: which label makes the words of the query the most likely.
There is no gradient at test.

The tokens of classes are drawn anew for every task, as the order of the support
set is, and classes take them in the order in which they appear there. So the
numbers of classes mean nothing: exchanging two exchanges their outputs, and
nothing else. Padding is left out of a sequence, not attended to in it.

Departures: the authors train the channel on the likelihood of the words alone;
here both are trained on the objective of the classes, which is what is tested.
Label words of theirs have a meaning.

References:
  Min, Lewis, Zettlemoyer, Hajishirzi (2022), MetaICL: learning to learn in
  context, https://arxiv.org/abs/2110.15943
  Min, Lewis, Hajishirzi, Zettlemoyer (2022), Noisy channel language model
  prompting for few-shot text classification, https://arxiv.org/abs/2108.04106
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from metajax.adaptation.classes import (
  check_num_classes,
  encode_classes,
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
from metajax.models.modes import refuse_key
from metajax.models.pretrained import Words
from metajax.models.pretrained.transformer import check_tokens

__all__ = ['Direction', 'ReadTask', 'metaicl']

Direction = Literal['direct', 'channel']
_NONE = -1  # no token
_BEYOND = int(np.iinfo(np.int32).max)  # no vocabulary has it


class ReadTask(NamedTuple):
  """What a decoder knows of a task."""

  meta_params: PyTree
  text: jax.Array  # [examples * (length + 1)], -1 at its end alone
  labels: jax.Array  # [classes], their tokens
  present: jax.Array  # booleans [classes], whether the task has the class


@by_value
def metaicl(
  model: Model,
  objective: Objective,
  num_classes: int,
  *,
  direction: Direction = 'direct',
  labels: int | Sequence[int] = 32,
) -> MetaLearner:
  """A decoder over the tokens of a support set and a query.

  Before adaptation there is no support set in the text.

  Args:
    model: `metajax.models.pretrained.language_model` of a causal transformer,
      or what a tuning makes of it; or any other of `Words`, to scores of all
      words. It has to have positions for the whole text.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    direction: `'direct'`, a label is read behind its text; `'channel'`, before
      it, which takes as many sequences as there are classes.
    labels: the tokens that may stand for classes, `num_classes` or more, which
      no text has; or how many of the last of the vocabulary they are.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the model. Its outputs
    are no numbers for a query without a token, and where the support set has an
    example of no class.

  Raises:
    ValueError: if `num_classes` is not positive, `direction` is none of these,
      there are fewer `labels` than classes, one of them twice, or what is no
      token; in `adapt`, if inputs are no tokens, targets no classes, or the
      model knows no such labels.

  Example:
    >>> import metajax
    >>> from metajax.models.pretrained import TransformerConfig, language_model
    >>> config = TransformerConfig('llama', 300, 32, 2, 4, 64, 512)
    >>> model = language_model(config)
    >>> learner = metaicl(model, metajax.cross_entropy, 5)
  """
  check_num_classes(num_classes)
  refuse_key(model)
  if direction not in get_args(Direction):
    raise ValueError(f'direction must be direct or channel, got {direction!r}')
  own = None if isinstance(labels, int) else _own_labels(labels)
  number = labels if isinstance(labels, int) else len(labels)
  if number < num_classes or (own and len(set(own)) < number):
    raise ValueError(
      f'labels must be {num_classes} different tokens or more, one for each'
      f' class; got {labels}'
    )
  is_direct = direction == 'direct'

  def tokens_of_labels(meta_params: PyTree) -> jax.Array:
    one = jnp.zeros((1, 1), jnp.int32)
    scores = jax.eval_shape(model.apply, meta_params, Words(one, one))
    vocabulary = scores.shape[-1]
    if number > vocabulary or (own and max(own) >= vocabulary):
      raise ValueError(
        f'the model knows {vocabulary} tokens, from 0 to {vocabulary - 1}; got'
        f' labels={labels}, which it does not have'
      )
    if own:
      return jnp.array(own, jnp.int32)
    return jnp.arange(vocabulary - number, vocabulary, dtype=jnp.int32)

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[ReadTask, Adaptation]:
    check_tokens(support.inputs)
    order_key, label_key = jax.random.split(key)
    classes = encode_classes(support.targets, num_classes, jnp.float32)
    # In random order, what is no example behind all others.
    luck = jax.random.uniform(order_key, support.inputs.shape[:1])
    order = jnp.argsort(jnp.where(classes.real, luck, 2.0))
    real = classes.real[order][:, None]
    rows = classes.rows[order]
    drawn = jax.random.permutation(label_key, tokens_of_labels(meta_params))
    # A class has the token of its place among those that appear.
    first = jnp.where(classes.present, jnp.argmax(rows > 0, 0), rows.shape[0])
    own_labels = drawn[jnp.argsort(jnp.argsort(first))]  # of each class
    label = own_labels[jnp.argmax(rows, axis=1)][:, None]
    # An example of no class there is shows in all outputs, as no number.
    unknown = jnp.isnan(rows).any(axis=1, keepdims=True)
    label = jnp.where(unknown, _BEYOND, label)
    inputs = jnp.asarray(support.inputs, jnp.int32)[order]
    pair = [inputs, label]
    pairs = jnp.concatenate(pair if is_direct else pair[::-1], axis=1)
    text = jnp.where(real, pairs, _NONE).reshape(-1)
    text = text[jnp.argsort(text < 0, stable=True)]
    adapted = ReadTask(meta_params, text, own_labels, classes.present)
    before = adapted._replace(
      text=jnp.full_like(text, _NONE),
      labels=drawn[:num_classes],
      present=jnp.ones_like(classes.present),
    )
    return adapted, one_step(before, adapted)

  def predict(adapted: ReadTask, inputs: jax.Array) -> jax.Array:
    check_tokens(inputs)
    # Padding behind all tokens, where the model expects it.
    order = jnp.argsort(inputs < 0, axis=1, stable=True)
    queries = jnp.take_along_axis(inputs.astype(jnp.int32), order, axis=1)
    read = _label_scores if is_direct else _text_scores
    outputs = read(model, adapted, queries)
    outputs = jnp.where(queries[:, :1] >= 0, outputs, jnp.nan)
    return rule_out_absent(outputs, adapted.present)

  learner = Learner(model.init, adapt, predict)
  return MetaLearner(*learner, grad=backprop(learner, objective))


def _own_labels(labels: Sequence[int]) -> tuple[int, ...]:
  own = tuple(labels)
  for token in own:
    if not isinstance(token, int | np.integer) or not 0 <= token < _BEYOND:
      raise ValueError(f'labels must be tokens, numbers from 0; got {labels}')
  return tuple(map(int, own))


def _label_scores(
  model: Model, adapted: ReadTask, queries: jax.Array
) -> jax.Array:
  """How likely each label is behind a query, `[queries, classes]`."""
  lengths = jnp.sum(queries >= 0, axis=1, keepdims=True)
  words = Words(queries, jnp.maximum(lengths - 1, 0), adapted.text)
  scores = model.apply(adapted.meta_params, words)[:, 0]
  return jnp.take(scores, adapted.labels, axis=1)


def _text_scores(
  model: Model, adapted: ReadTask, queries: jax.Array
) -> jax.Array:
  """How likely a query is behind each label, `[queries, classes]`."""
  number, _ = queries.shape
  classes = len(adapted.labels)
  labels = jnp.tile(adapted.labels, number)[:, None]
  words = jnp.repeat(queries, classes, axis=0)
  asked = jnp.concatenate([labels, words], axis=1)
  scores = model.apply(
    adapted.meta_params, Words(asked[:, :-1], behind=adapted.text)
  )
  each = jnp.take_along_axis(
    jax.nn.log_softmax(scores), jnp.maximum(words, 0)[..., None], axis=-1
  )[..., 0]
  total = jnp.sum(jnp.where(words >= 0, each, 0), axis=1)
  return total.reshape(number, classes)
