r"""What a transformer is trained on before there is a task: its own words.

For one of BERT's family words that are hidden from it, for a causal one the
word that comes next,

.. math::
  -\frac{1}{|M|} \sum_{i \in M} \log p(w_i \mid \tilde w), \qquad
  -\frac{1}{n} \sum_i \log p(w_i \mid w_1 \ldots w_{i-1})

with M the chosen places and \tilde w the text with these hidden.

References:
  Devlin, Chang, Lee, Toutanova (2019), BERT, section 3.1.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from metajax.base import Model, PyTree
from metajax.equality import by_value
from metajax.models.modes import with_key
from metajax.models.pretrained.config import TransformerConfig
from metajax.models.pretrained.networks import Words
from metajax.models.pretrained.parameters import draw, shapes

__all__ = ['WordLoss', 'masked_words', 'next_words', 'with_words']

# Of the chosen words so many are hidden, the next so many are random words;
# the others stay, and are to be predicted nevertheless.
_HIDDEN, _RANDOM = 0.8, 0.1


class WordLoss(Protocol):
  """How badly a transformer predicts words of some texts."""

  def __call__(
    self, key: jax.Array, params: PyTree, tokens: jax.Array, /
  ) -> jax.Array: ...


@by_value
def masked_words(
  model: Model,
  config: TransformerConfig,
  mask: int,
  special: Sequence[int] = (),
  *,
  share: float = 0.15,
) -> WordLoss:
  """The loss of words that are hidden: 80% masked, 10% others, 10% as they are.

  Args:
    model: `language_model`, or what a tuning makes of it.
    config: of the transformer.
    mask: the token that hides a word, `[MASK]` of BERT.
    special: tokens that are never chosen, such as `[CLS]` and `[SEP]`.
    share: of the words of a text that are chosen, one at least.

  Returns:
    `(key, params, tokens) -> loss`, the mean over all chosen places; 0 if there
    is no word.

  Raises:
    ValueError: if the transformer is causal, `mask` is no token of it, or
      `share` is not above 0 and below 1.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models.pretrained import TransformerConfig, language_model
    >>> config = TransformerConfig('bert', 100, 32, 2, 4, 64, 16, types=2)
    >>> model = language_model(config)
    >>> tokens = jnp.array([[1, 8, 9, 2], [1, 8, 2, -1]])
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> loss = masked_words(model, config, mask=3, special=(1, 2))
    >>> round(float(jax.jit(loss)(jax.random.key(1), params, tokens)))
    5
  """
  if config.causal:
    raise ValueError(
      f'{config.family} is causal: it sees no word behind, so take next_words'
    )
  if not 0 <= mask < config.vocabulary:
    raise ValueError(
      f'mask must be a token, from 0 to {config.vocabulary - 1}; got {mask}'
    )
  if not 0 < share < 1:
    raise ValueError(f'share must be above 0 and below 1, got {share}')
  never = jnp.array([*special, -1], jnp.int32)

  def loss(key: jax.Array, params: PyTree, tokens: jax.Array) -> jax.Array:
    of_model, of_places, of_choice, of_words = jax.random.split(key, 4)
    tokens = jnp.asarray(tokens)
    examples, length = tokens.shape
    able = ~jnp.isin(tokens, never) & (tokens >= 0)
    number = jnp.sum(able, axis=1, keepdims=True)
    most = max(1, math.ceil(share * length))
    luck = jax.random.uniform(of_places, tokens.shape)
    places = jnp.argsort(jnp.where(able, luck, 2.0), axis=1)[:, :most]
    wanted = jnp.maximum(1, jnp.round(share * number))
    chosen = jnp.arange(most)[None] < jnp.minimum(wanted, number)
    words = jnp.take_along_axis(tokens, places, axis=1)
    choice = jax.random.uniform(of_choice, words.shape)
    others = jax.random.randint(of_words, words.shape, 0, config.vocabulary)
    seen = jnp.where(
      choice < _HIDDEN,
      mask,
      jnp.where(choice < _HIDDEN + _RANDOM, others, words),
    ).astype(tokens.dtype)
    seen = jnp.where(chosen, seen, words)
    hidden = tokens.at[jnp.arange(examples)[:, None], places].set(seen)
    scores = with_key(model.apply, of_model)(params, Words(hidden, places))
    return _mean_loss(scores, words, chosen)

  return loss


@by_value
def next_words(model: Model, config: TransformerConfig) -> WordLoss:
  """The loss of each word but the first, from those before it.

  Args:
    model: `language_model`, or what a tuning makes of it.
    config: of the transformer, a causal one.

  Returns:
    `(key, params, tokens) -> loss`, the mean over all words that stand behind
    another; 0 if no text has two of them.

  Raises:
    ValueError: if the transformer is not causal.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models.pretrained import TransformerConfig, language_model
    >>> config = TransformerConfig('gpt2', 100, 32, 2, 4, 64, 16)
    >>> model = language_model(config)
    >>> tokens = jnp.array([[7, 8, 9], [7, 8, -1]])
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> loss = jax.jit(next_words(model, config))
    >>> round(float(loss(jax.random.key(1), params, tokens)))
    5
  """
  if not config.causal:
    raise ValueError(
      f'{config.family} is not causal: it sees the word that it is to predict,'
      ' so take masked_words'
    )

  def loss(key: jax.Array, params: PyTree, tokens: jax.Array) -> jax.Array:
    tokens = jnp.asarray(tokens)
    scores = with_key(model.apply, key)(params, tokens)[:, :-1]
    # Padding may be in front; what it predicts is nothing.
    counted = (tokens[:, 1:] >= 0) & (tokens[:, :-1] >= 0)
    return _mean_loss(scores, tokens[:, 1:], counted)

  return loss


def _mean_loss(
  scores: jax.Array, words: jax.Array, counted: jax.Array
) -> jax.Array:
  """The mean cross-entropy of words that count."""
  logs = jax.nn.log_softmax(scores)
  right = jnp.maximum(words, 0)[..., None]
  each = jnp.take_along_axis(logs, right, axis=-1)[..., 0]
  total = -jnp.sum(jnp.where(counted, each, 0))
  return total / jnp.maximum(jnp.sum(counted), 1)


@by_value
def with_words(model: Model, config: TransformerConfig) -> Model:
  """A model of texts whose parameters can predict masked words too.

  Args:
    model: such as `text_encoder`, which makes no use of these.
    config: of the transformer.

  Returns:
    The same model, which initialises `masked_words` in addition, as
    `language_model` has them.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models.pretrained import TransformerConfig, text_encoder
    >>> config = TransformerConfig('bert', 100, 32, 2, 4, 64, 16, types=2)
    >>> model = with_words(text_encoder(config), config)
    >>> tokens = jnp.array([[7, 8, 9], [7, 8, -1]])
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> sorted(params['masked_words'])
    ['bias', 'norm', 'transform']
  """
  own = shapes(config, masked_words=True).get('masked_words', {})

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    of_words = jax.random.fold_in(key, 1)
    words = {'masked_words': draw(of_words, own)} if own else {}
    return {**model.init(key, inputs), **words}

  return model._replace(init=init)
