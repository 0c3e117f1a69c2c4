"""A transformer of a few lines, that honours what tuning adds."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Model

WIDTH, HEADS, VOCABULARY = 8, 2, 11


def linear(params, inputs):
  kernel = params['kernel']
  if isinstance(kernel, jax.Array | np.ndarray):
    kernel = kernel.astype(inputs.dtype)
  outputs = inputs @ kernel
  if 'bias' not in params:
    return outputs
  bias = params['bias'].astype(outputs.dtype)
  return outputs + jnp.expand_dims(bias, tuple(range(outputs.ndim - 1)))


def norm(params, inputs):
  centred = inputs - inputs.mean(-1, keepdims=True)
  scaled = centred / jnp.sqrt(
    jnp.square(centred).mean(-1, keepdims=True) + 1e-6
  )
  return scaled * params['scale'][None, None] + params['bias'][None, None]


def attention(params, hidden):
  query, key, value = (
    (linear(params[name], hidden)).reshape(*hidden.shape[:2], HEADS, -1)
    for name in ('query', 'key', 'value')
  )
  if 'prefix' in params:
    rows = len(hidden)
    key, value = (
      jnp.concatenate(
        [jnp.broadcast_to(params['prefix'][name], (rows, *shape)), own], 1
      )
      for name, own in (('key', key), ('value', value))
      for shape in [params['prefix'][name].shape]
    )
  scores = jnp.einsum('nqhd,nkhd->nhqk', query, key) / (WIDTH / HEADS) ** 0.5
  mixed = jnp.einsum('nhqk,nkhd->nqhd', jax.nn.softmax(scores), value)
  return linear(params['output'], mixed.reshape(hidden.shape))


def block(params, hidden):
  hidden += attention(
    params['attention'], norm(params['attention_norm'], hidden)
  )
  wide = linear(
    params['feed_forward']['in'], norm(params['feed_forward_norm'], hidden)
  )
  return hidden + linear(params['feed_forward']['out'], jnp.tanh(wide))


def apply(params, tokens):
  hidden = jnp.asarray(params['embeddings']['token'])[tokens]
  if 'prompt' in params:
    prompt = params['prompt']
    prompt = jnp.broadcast_to(prompt, (len(tokens), *prompt.shape))
    hidden = jnp.concatenate([prompt, hidden], 1)
  if 'blocks' in params:
    hidden, _ = jax.lax.scan(
      lambda hidden, layer: (block(layer, hidden), None),
      hidden,
      params['blocks'],
    )
  depth = sum(name.startswith('block_') for name in params)
  for index in range(depth):
    hidden = block(params[f'block_{index}'], hidden)
  hidden = norm(params['final_norm'], hidden).mean(1)
  return linear(params['head'], hidden)


def drawn(dtype=np.float32, depth=2, outputs=3):
  """Parameters, made without a program that is compiled."""
  random = np.random.default_rng(0)

  def normal(*shape):
    return random.normal(size=shape).astype(dtype)

  def layer(inputs, outputs):
    return {
      'kernel': normal(inputs, outputs) / np.asarray(inputs**0.5, dtype),
      'bias': normal(outputs) / np.asarray(10, dtype),
    }

  def norm():
    return {
      'scale': np.ones(WIDTH, dtype),
      'bias': np.zeros(WIDTH, dtype),
    }

  return {
    'embeddings': {'token': normal(VOCABULARY, WIDTH)},
    **{
      f'block_{index}': {
        'attention': {
          name: layer(WIDTH, WIDTH)
          for name in ('query', 'key', 'value', 'output')
        },
        'attention_norm': norm(),
        'feed_forward': {
          'in': layer(WIDTH, 12),
          'out': layer(12, WIDTH),
        },
        'feed_forward_norm': norm(),
      }
      for index in range(depth)
    },
    'final_norm': norm(),
    'head': layer(WIDTH, outputs),
  }


def stacked(params):
  """The same parameters, with the blocks as one."""
  names = sorted(name for name in params if name.startswith('block_'))
  rest = {name: leaf for name, leaf in params.items() if name not in names}
  blocks = jax.tree.map(
    lambda *leaves: np.stack(leaves), *(params[name] for name in names)
  )
  return {**rest, 'blocks': blocks}


def init(key, tokens):
  del key, tokens
  return drawn()


TOKENS = np.arange(20, dtype=np.int32).reshape(4, 5) * 7 % VOCABULARY
MODEL = Model(init, apply)


def moved(learned, seed=0, size=0.3):
  """What was learned after something has been."""
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: (
      leaf + (size * random.normal(size=leaf.shape)).astype(leaf.dtype)
    ),
    learned,
  )
