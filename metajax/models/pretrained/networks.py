"""Transformers as models: of texts, and of the words in them."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from metajax.base import Model, PyTree
from metajax.equality import by_value
from metajax.models.pretrained.attention import linear
from metajax.models.pretrained.config import TransformerConfig
from metajax.models.pretrained.parameters import add_head, draw, shapes
from metajax.models.pretrained.transformer import hidden_states, word_logits

__all__ = ['Words', 'language_model', 'text_encoder', 'unit_length']


@by_value
def text_encoder(
  config: TransformerConfig,
  num_outputs: int | None = None,
  *,
  pool: Literal['mean', 'first', 'last'] = 'mean',
  normalise: bool = False,
  rematerialise: bool = False,
  dtype: DTypeLike | None = None,
) -> Model:
  """A transformer that makes one vector of a text, or the outputs of a head.

  Pretrained weights are its parameters as they are; a head they do not have
  (`add_head`). Dropout is off, in training too.

  Args:
    config: of the transformer.
    num_outputs: of a linear layer called `head`; None: a vector of features.
    pool: of the positions where a token is: their mean, the first (`[CLS]` of
      BERT), or the last, which in a causal model alone has seen the others.
    normalise: whether features have unit length, before a head too.
    rematerialise: compute a block again on the way back instead of keeping
      what is inside.
    dtype: of the computation, such as `jnp.bfloat16`; None: that of the
      parameters, float32 at least. Outputs are float32 at least.

  Returns:
    A model of tokens, integers `[examples, length]`, -1 where there is none;
    the features of a text without any token are zero.

  Raises:
    ValueError: if `pool` is none of the above, or the first position of a
      causal model; when it is used, if the parameters have no head, or one of
      another number of outputs.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> config = TransformerConfig('bert', 100, 32, 2, 4, 64, 16, types=2)
    >>> model = text_encoder(config, 5)
    >>> tokens = jnp.array([[7, 8, 9], [7, 8, -1]])
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> jax.jit(model.apply)(params, tokens).shape
    (2, 5)
  """
  if pool not in ('mean', 'first', 'last'):
    raise ValueError(f"pool must be 'mean', 'first' or 'last', got {pool!r}")
  if pool == 'first' and config.causal:
    raise ValueError(
      f"pool='first' is blind in {config.family}: the first position of a"
      " causal model sees no other; take 'last' or 'mean'"
    )

  def init(key: jax.Array, inputs: jax.Array) -> PyTree:
    del inputs  # of any length
    body, head = jax.random.split(key)
    params = draw(body, shapes(config, output_embedding=False))
    return (
      params if num_outputs is None else add_head(head, params, num_outputs)
    )

  def apply(params: PyTree, inputs: jax.Array) -> jax.Array:
    hidden = hidden_states(
      config, params, inputs, dtype=dtype, rematerialise=rematerialise
    )
    hidden = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    features = _pool(hidden, inputs >= 0, pool)
    if normalise:
      features = unit_length(features)
    if num_outputs is None:
      return features
    return _outputs(params, features, num_outputs)

  return Model(init, apply)


def unit_length(features: jax.Array) -> jax.Array:
  """Vectors along the last axis, each of length 1; zero stays zero.

  Example:
    >>> unit_length(jnp.array([[0.0, 2.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
  """
  square = jnp.sum(jnp.square(features), -1, keepdims=True)
  return features * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def _outputs(
  params: PyTree, features: jax.Array, num_outputs: int
) -> jax.Array:
  if 'head' not in params:
    raise ValueError(
      f'these parameters have no head of {num_outputs} outputs: give them one'
      ' by metajax.models.pretrained.add_head'
    )
  outputs = linear(params['head'], features)
  if outputs.shape[-1] != num_outputs:
    raise ValueError(
      f'the head of these parameters has {outputs.shape[-1]} outputs, and the'
      f' model {num_outputs}: give them another by'
      ' metajax.models.pretrained.add_head'
    )
  return outputs


def _pool(hidden: jax.Array, real: jax.Array, pool: str) -> jax.Array:
  """One vector of those that are real, or zero if none is."""
  _, length, _ = hidden.shape
  if pool == 'mean':
    counts = jnp.sum(real, axis=1, keepdims=True)
    weights = real / jnp.maximum(counts, 1)
  else:
    places = jnp.arange(length)[None]
    at = (
      jnp.min(jnp.where(real, places, length), 1, keepdims=True)
      if pool == 'first'
      else jnp.max(jnp.where(real, places, -1), 1, keepdims=True)
    )
    weights = places == at
  # What is not real may be anything, and 0 times it not be 0.
  hidden = jnp.where(real[..., None], hidden, 0)
  return jnp.einsum('nl,nld->nd', weights.astype(hidden.dtype), hidden)


class Words(NamedTuple):
  """Tokens of texts, of which scores are wanted at some places alone."""

  tokens: jax.Array  # integers [examples, length], -1 where there is none
  places: jax.Array | None = None  # integers [examples, places]; None: all
  # [length], -1 at its end alone: one text that all of them stand behind, which
  # is read once; of causal models.
  behind: jax.Array | None = None


@by_value
def language_model(
  config: TransformerConfig,
  *,
  rematerialise: bool = False,
  dtype: DTypeLike | None = None,
) -> Model:
  """A transformer that scores all words at every position.

  In a causal model those are scores of the word that comes next; in BERT of
  the word that stands, or was masked, there. Dropout is off, in training too.

  Args:
    config: of the transformer.
    rematerialise: compute a block again on the way back instead of keeping
      what is inside.
    dtype: of the computation, such as `jnp.bfloat16`; None: that of the
      parameters, float32 at least. Outputs are float32 at least.

  Returns:
    A model of tokens, integers `[examples, length]`, -1 where there is none,
    and outputs `[examples, length, vocabulary]`; or of `Words`, which a large
    vocabulary wants where few places matter. A BERT that was loaded without
    its `masked_words` scores by its token embeddings alone.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> config = TransformerConfig('gpt2', 100, 32, 2, 4, 64, 16)
    >>> model = language_model(config)
    >>> tokens = jnp.array([[7, 8, 9], [7, 8, -1]])
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> jax.jit(model.apply)(params, tokens).shape
    (2, 3, 100)
    >>> last = Words(tokens, places=jnp.array([[2], [1]]))
    >>> jax.jit(model.apply)(params, last).shape
    (2, 1, 100)
  """

  def init(key: jax.Array, inputs: jax.Array) -> PyTree:
    del inputs  # of any length
    return draw(key, shapes(config, masked_words=config.tied))

  def apply(params: PyTree, inputs: jax.Array | Words) -> jax.Array:
    words = inputs if isinstance(inputs, Words) else Words(inputs)
    hidden = hidden_states(
      config,
      params,
      words.tokens,
      behind=words.behind,
      dtype=dtype,
      rematerialise=rematerialise,
    )
    if words.places is not None:
      hidden = jnp.take_along_axis(hidden, words.places[..., None], axis=1)
    logits = word_logits(config, params, hidden)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  return Model(init, apply)
