"""Transformers of three families as plain functions of their parameters.

Every linear layer computes `inputs @ kernel + bias`, where the kernel is an
array or any tree that multiplies from the right (`__rmatmul__`): low-rank
products, quantised weights. Softmax and normalisation are in float32 at least,
whatever the rest is in.

References:
  Devlin, Chang, Lee, Toutanova (2019), BERT.
  Radford et al. (2019), Language models are unsupervised multitask learners.
  Touvron et al. (2023), LLaMA.
  Ainslie et al. (2023), GQA. Su et al. (2021), RoFormer.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from metajax.base import EXCLUDED, PyTree
from metajax.models.pretrained.config import ACTIVATIONS, TransformerConfig
from metajax.models.pretrained.parameters import depth_of

__all__ = ['attend', 'hidden_states', 'linear', 'word_logits']


def linear(params: PyTree, inputs: jax.Array) -> jax.Array:
  """A linear layer; its kernel may be anything that multiplies from the right.

  .. math:: y = x W + b

  Args:
    params: `kernel` `[in, out]`, and `bias` `[out]` where there is one.
    inputs: `[..., in]`.

  Returns:
    `[..., out]`, of the type of `inputs`.
  """
  kernel = params['kernel']
  if isinstance(kernel, jax.Array | np.ndarray):
    kernel = jnp.asarray(kernel, inputs.dtype)
  outputs = (inputs @ kernel).astype(inputs.dtype)
  if 'bias' in params:
    outputs = outputs + _along(params['bias'].astype(inputs.dtype), outputs)
  return outputs


def hidden_states(
  config: TransformerConfig,
  params: PyTree,
  tokens: jax.Array,
  *,
  dtype: DTypeLike | None = None,
  rematerialise: bool = False,
) -> jax.Array:
  """What the last block, and the last normalisation, make of tokens.

  A soft prompt `params['prompt']` `[length, width]` stands in front of the
  tokens, in place of token embeddings: absolute positions are those of the
  whole, so tokens behind a prompt of length 5 begin at position 5. A prefix
  `block['attention']['prefix']`, keys and values `[length, heads of keys, head
  width]`, has no positions and moves none: its keys are taken as they are, not
  turned by rotary positions. Every position may attend to a prefix, and tokens
  to the whole prompt; what is no token is attended to by none.

  Args:
    config: of the transformer.
    params: its parameters, their blocks apart or stacked.
    tokens: integers `[examples, length]`, below 0 where there is no token.
    dtype: of the computation; None: that of the embeddings, float32 at least.
    rematerialise: compute a block again on the way back instead of keeping
      what is inside.

  Returns:
    `[examples, length, width]`, without the prompt; a token id beyond the
    vocabulary makes its example not a number.

  Raises:
    ValueError: if `tokens` are no integers `[examples, length]`, or, with the
      prompt, more than the model has positions for.
  """
  _check_tokens(tokens)
  hidden, real = _embed(config, params, tokens, dtype)
  rotary = _rotary(config, hidden.shape[1])

  def block(hidden: jax.Array, params: PyTree) -> jax.Array:
    return _block(config, params, hidden, real, rotary)

  if rematerialise:
    block = jax.checkpoint(block)
  _check_depth(config, params)
  if 'blocks' in params:
    hidden, _ = jax.lax.scan(
      lambda hidden, each: (block(hidden, each), None),
      hidden,
      params['blocks'],
    )
  else:
    for index in range(config.depth):
      hidden = block(hidden, params[f'block_{index}'])
  if 'final_norm' in params:
    hidden = _normalise(config, params['final_norm'], hidden)
  return hidden[:, hidden.shape[1] - tokens.shape[1] :]


def word_logits(
  config: TransformerConfig, params: PyTree, hidden: jax.Array
) -> jax.Array:
  """Scores of all words, by the output embedding or by that of the tokens.

  Args:
    config: of the transformer.
    params: its parameters; BERT's `masked_words` are used where they are.
    hidden: `[..., width]`.

  Returns:
    `[..., vocabulary]`.

  Raises:
    ValueError: if the output embedding is not tied and not there.
  """
  words = params.get('masked_words')
  if words is not None:
    hidden = ACTIVATIONS[config.activation](linear(words['transform'], hidden))
    hidden = _normalise(config, words['norm'], hidden)
  if 'output_embedding' in params:
    logits = linear(params['output_embedding'], hidden)
  elif config.tied:
    logits = hidden @ params['embeddings']['token'].T.astype(hidden.dtype)
  else:
    raise ValueError(
      'these parameters have no output_embedding, and by its configuration the'
      ' model does not use that of its tokens: it cannot predict words'
    )
  if words is not None:
    logits = logits + _along(words['bias'].astype(logits.dtype), logits)
  return logits


def _check_tokens(tokens: jax.Array) -> None:
  if not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.ndim != 2:
    raise ValueError(
      'tokens must be integers [examples, length], -1 where there is none; got'
      f' {tokens.dtype} of shape {tokens.shape}'
    )


def _check_depth(config: TransformerConfig, params: PyTree) -> None:
  depth = sum(name.startswith('block_') for name in params)
  if 'blocks' in params:
    depth += depth_of(params['blocks'])
  if depth != config.depth:
    raise ValueError(
      f'parameters of {depth} blocks do not fit a configuration of'
      f' {config.depth}'
    )


def _along(vector: jax.Array, outputs: jax.Array) -> jax.Array:
  """A vector along the last axis of what it is to be added to."""
  return jnp.expand_dims(vector, tuple(range(outputs.ndim - 1)))


def _embed(
  config: TransformerConfig,
  params: PyTree,
  tokens: jax.Array,
  dtype: DTypeLike | None,
) -> tuple[jax.Array, jax.Array]:
  """Embeddings of prompt and tokens, and where something real is."""
  embeddings = params['embeddings']
  table = jnp.asarray(embeddings['token'])
  if dtype is None:
    dtype = jnp.promote_types(table.dtype, jnp.float32)
  real = tokens >= 0
  # An index out of bounds would be clamped, to a wrong word.
  hidden = table.at[jnp.where(real, tokens, 0)].get(
    mode='fill', fill_value=jnp.nan
  )
  hidden = hidden.astype(dtype)
  if 'prompt' in params:
    prompt = params['prompt'].astype(dtype)[None]
    prompt = jnp.broadcast_to(prompt, (len(tokens), *prompt.shape[1:]))
    hidden = jnp.concatenate([prompt, hidden], axis=1)
    real = jnp.concatenate([jnp.ones(prompt.shape[:2], bool), real], axis=1)
  length = hidden.shape[1]
  if length > config.max_length:
    raise ValueError(
      f'{tokens.shape[1]} tokens and a prompt of {length - tokens.shape[1]} are'
      f' more than the {config.max_length} positions of the model: shorten the'
      ' texts'
    )
  if 'position' in embeddings:
    hidden = hidden + embeddings['position'][None, :length].astype(dtype)
  if 'type' in embeddings:
    hidden = hidden + embeddings['type'][None, :1].astype(dtype)
  if 'norm' in embeddings:
    hidden = _normalise(config, embeddings['norm'], hidden)
  return hidden, real


def _normalise(
  config: TransformerConfig, params: PyTree, hidden: jax.Array
) -> jax.Array:
  """Normalises the last axis: by its root mean square, or its deviation."""
  wide = jnp.promote_types(hidden.dtype, jnp.float32)
  values = hidden.astype(wide)
  if config.family != 'llama':
    values = values - jnp.mean(values, -1, keepdims=True)
  square = jnp.mean(jnp.square(values), -1, keepdims=True)
  values = values * jax.lax.rsqrt(square + config.epsilon)
  values = values * _along(params['scale'].astype(wide), values)
  if 'bias' in params:
    values = values + _along(params['bias'].astype(wide), values)
  return values.astype(hidden.dtype)


def _block(
  config: TransformerConfig,
  params: PyTree,
  hidden: jax.Array,
  real: jax.Array,
  rotary: tuple[jax.Array, jax.Array] | None,
) -> jax.Array:
  """Attention and a feed-forward network, each added to what it is given."""
  attention_norm, feed_forward_norm = (
    params['attention_norm'],
    params['feed_forward_norm'],
  )
  if config.family == 'bert':
    mixed = attend(config, params['attention'], hidden, real, rotary)
    hidden = _normalise(config, attention_norm, hidden + mixed)
    fed = _feed_forward(config, params['feed_forward'], hidden)
    return _normalise(config, feed_forward_norm, hidden + fed)
  normed = _normalise(config, attention_norm, hidden)
  hidden = hidden + attend(config, params['attention'], normed, real, rotary)
  normed = _normalise(config, feed_forward_norm, hidden)
  return hidden + _feed_forward(config, params['feed_forward'], normed)


def _feed_forward(
  config: TransformerConfig, params: PyTree, hidden: jax.Array
) -> jax.Array:
  activation = ACTIVATIONS[config.activation]
  if 'gate' in params:
    gate = activation(linear(params['gate'], hidden))
    return linear(params['out'], gate * linear(params['in'], hidden))
  return linear(params['out'], activation(linear(params['in'], hidden)))


def attend(
  config: TransformerConfig,
  params: PyTree,
  hidden: jax.Array,
  real: jax.Array,
  rotary: tuple[jax.Array, jax.Array] | None,
) -> jax.Array:
  r"""Attention; heads of queries may share a head of keys and values.

  .. math:: \mathrm{softmax}(Q K^\top / \sqrt d) V

  Args:
    config: of the transformer.
    params: `query`, `key`, `value` and `output`; a `prefix` if there is one.
    hidden: `[examples, length, width]`.
    real: `[examples, length]`, where something is that may be attended to.
    rotary: cosine and sine of the angles of positions, `[length, pairs]`.

  Returns:
    `[examples, length, width]`.
  """
  examples, length, _ = hidden.shape
  assert config.heads_of_keys is not None
  assert config.head_width is not None
  groups = config.heads // config.heads_of_keys
  shape = (examples, length, config.heads_of_keys)
  query = linear(params['query'], hidden)
  query = query.reshape(*shape, groups, config.head_width)
  key = linear(params['key'], hidden).reshape(*shape, config.head_width)
  value = linear(params['value'], hidden).reshape(*shape, config.head_width)
  if rotary is not None:
    query, key = _turn(query, rotary), _turn(key, rotary)
  seen = real[:, None, :]
  if config.causal:
    seen = seen & jnp.tril(jnp.ones((length, length), bool))[None]
  if 'prefix' in params:
    prefix = params['prefix']
    key, value = _behind(prefix['key'], key), _behind(prefix['value'], value)
    ahead = ((0, 0), (0, 0), (len(prefix['key']), 0))
    seen = jnp.pad(seen, ahead, constant_values=True)
  wide = jnp.promote_types(hidden.dtype, jnp.float32)
  scores = jnp.einsum(
    'nqkgd,nskd->nkgqs', query, key, preferred_element_type=wide
  )
  scores = scores / math.sqrt(config.head_width)
  scores = jnp.where(seen[:, None, None], scores, EXCLUDED)
  weights = jax.nn.softmax(scores).astype(value.dtype)
  mixed = jnp.einsum('nkgqs,nskd->nqkgd', weights, value)
  return linear(params['output'], mixed.reshape(examples, length, -1))


def _behind(prefix: jax.Array, rest: jax.Array) -> jax.Array:
  """Puts a prefix, the same for all examples, in front of keys or values."""
  prefix = jnp.asarray(prefix, rest.dtype)[None]
  prefix = jnp.broadcast_to(prefix, (len(rest), *prefix.shape[1:]))
  return jnp.concatenate([prefix, rest], axis=1)


def _rotary(
  config: TransformerConfig, length: int
) -> tuple[jax.Array, jax.Array] | None:
  """Cosines and sines of the angle of every position, `[length, pairs]`."""
  if config.family != 'llama':
    return None
  assert config.head_width is not None
  exponents = jnp.arange(0, config.head_width, 2) / config.head_width
  frequencies = config.rotary_base**-exponents
  if config.rotary_scaling is not None:
    factor, low, high, before = config.rotary_scaling
    turns = before * frequencies / (2 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    frequencies = kept * frequencies + (1 - kept) * frequencies / factor
  angles = jnp.arange(length)[:, None] * frequencies[None]
  return jnp.cos(angles), jnp.sin(angles)


def _turn(vectors: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns pairs of numbers, one of each half, by the angle of the position."""
  axes = (0, *range(2, vectors.ndim - 1))
  cosine, sine = (jnp.expand_dims(each, axes) for each in rotary)
  first, second = jnp.split(vectors.astype(cosine.dtype), 2, axis=-1)
  halves: list[Any] = [
    first * cosine - second * sine,
    second * cosine + first * sine,
  ]
  return jnp.concatenate(halves, axis=-1).astype(vectors.dtype)
