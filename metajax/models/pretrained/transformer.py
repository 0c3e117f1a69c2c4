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

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from metajax.base import PyTree
from metajax.models.pretrained.attention import (
  along,
  attend,
  keys_and_values,
  linear,
  rotary_angles,
)
from metajax.models.pretrained.config import ACTIVATIONS, TransformerConfig
from metajax.models.pretrained.parameters import depth_of

__all__ = ['check_tokens', 'hidden_states', 'word_logits']


def hidden_states(
  config: TransformerConfig,
  params: PyTree,
  tokens: jax.Array,
  *,
  behind: jax.Array | None = None,
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
    behind: tokens `[length]` of one text, with none at its end alone, that all
      examples stand behind in a causal model. It is read once for all, and
      gives the same as if it stood in each.
    dtype: of the computation; None: that of the embeddings, float32 at least.
    rematerialise: compute a block again on the way back instead of keeping
      what is inside.

  Returns:
    `[examples, length, width]`, without the prompt; a token id beyond the
    vocabulary makes its example not a number.

  Raises:
    ValueError: if `tokens` are no integers `[examples, length]`, or, with the
      prompt, more than the model has positions for; if examples are to stand
      behind a text in a model that is not causal.
  """
  check_tokens(tokens)
  _check_depth(config, params)
  before, start = 0, jnp.int32(0)
  if behind is not None:
    params, before, start = _reading(
      config, params, behind, dtype, rematerialise
    )
  hidden, real = _embed(config, params, tokens, dtype, before, start)
  rotary = rotary_angles(config, start + jnp.arange(hidden.shape[1]))

  def block(hidden: jax.Array, params: PyTree) -> jax.Array:
    return _block(config, params, hidden, real, rotary)

  if rematerialise:
    block = jax.checkpoint(block)
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


def _reading(
  config: TransformerConfig,
  params: PyTree,
  text: jax.Array,
  dtype: DTypeLike | None,
  rematerialise: bool,
) -> tuple[PyTree, int, jax.Array]:
  """Reads a text: its keys and values become a prefix of every block.

  Returns:
    The parameters for what stands behind it; the positions that the text has
    room in, and those that it takes.
  """
  if not config.causal:
    raise ValueError(
      f'{config.family} is not causal: what stands behind a text changes it'
    )
  hidden, real = _embed(config, params, text[None], dtype)
  rotary = rotary_angles(config, jnp.arange(hidden.shape[1]))

  def read(hidden: jax.Array, block: PyTree) -> tuple[jax.Array, PyTree]:
    attention = block['attention']
    normed = _normalise(config, block['attention_norm'], hidden)
    key, value = keys_and_values(config, attention, normed, rotary)
    seen = {'key': key[0], 'value': value[0], 'real': real[0]}
    if (prefix := attention.get('prefix')) is not None:
      shown = {'real': jnp.ones(len(prefix['key']), bool), **prefix}
      seen = {
        name: jnp.concatenate([shown[name].astype(each.dtype), each])
        for name, each in seen.items()
      }
    return _block(config, block, hidden, real, rotary), {'prefix': seen}

  if rematerialise:
    read = jax.checkpoint(read)
  params = {name: each for name, each in params.items() if name != 'prompt'}
  if 'blocks' in params:
    _, seen = jax.lax.scan(read, hidden, params['blocks'])
    found = {'blocks': seen}
  else:
    found = {}
    for name in (f'block_{index}' for index in range(config.depth)):
      hidden, found[name] = read(hidden, params[name])
  for name, seen in found.items():
    attention = {**params[name]['attention'], **seen}
    params = {**params, name: {**params[name], 'attention': attention}}
  return params, hidden.shape[1], jnp.sum(real)


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
    logits = logits + along(words['bias'].astype(logits.dtype), logits)
  return logits


def check_tokens(tokens: jax.Array) -> None:
  """Refuses what is no text.

  Raises:
    ValueError: if it is no integers `[examples, length]`.
  """
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


def _embed(
  config: TransformerConfig,
  params: PyTree,
  tokens: jax.Array,
  dtype: DTypeLike | None,
  before: int = 0,
  start: jax.Array | int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Embeddings of prompt and tokens, and where something real is.

  Behind a text that has room in some positions, and takes those up to `start`.
  """
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
    prompt = jnp.broadcast_to(prompt, (tokens.shape[0], *prompt.shape[1:]))
    hidden = jnp.concatenate([prompt, hidden], axis=1)
    real = jnp.concatenate([jnp.ones(prompt.shape[:2], bool), real], axis=1)
  length = hidden.shape[1]
  if before + length > config.max_length:
    raise ValueError(
      f'{before + tokens.shape[1]} tokens and a prompt of'
      f' {length - tokens.shape[1]} are more than the {config.max_length}'
      ' positions of the model: shorten the texts'
    )
  if 'position' in embeddings:
    positions = embeddings['position']
    positions = jax.lax.dynamic_slice_in_dim(positions, start, length)
    hidden = hidden + positions[None].astype(dtype)
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
  values = values * along(params['scale'].astype(wide), values)
  if 'bias' in params:
    values = values + along(params['bias'].astype(wide), values)
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
