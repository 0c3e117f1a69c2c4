"""The parameters of a transformer: what there are, drawn, stacked, with a head.

All families have one form of tree, `embeddings`, `block_0`, `block_1`, ...; the
leaves in it are what a family has.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.models.pretrained.config import TransformerConfig

__all__ = [
  'add_head',
  'depth_of',
  'draw',
  'shapes',
  'stack_blocks',
  'unstack_blocks',
]

_SCALE = 0.02  # of normal numbers at the start, in all three families
_Shapes = dict[str, Any]  # of dictionaries like it, and of tuples


def shapes(
  config: TransformerConfig,
  *,
  output_embedding: bool = True,
  masked_words: bool = False,
) -> _Shapes:
  """The shapes of all parameters of a transformer.

  Args:
    config: of the transformer.
    output_embedding: whether an untied output embedding is among them.
    masked_words: whether the layers are that BERT predicts words with.

  Returns:
    A tree of dictionaries, its leaves tuples.

  Example:
    >>> config = TransformerConfig('gpt2', 100, 32, 2, 4, 128, 64)
    >>> shapes(config)['block_1']['attention']['query']['kernel']
    (32, 32)
  """
  vocabulary, width = config.vocabulary, config.width
  embeddings: _Shapes = {'token': (vocabulary, width)}
  if config.family != 'llama':
    embeddings['position'] = (config.max_length, width)
  if config.types:
    embeddings['type'] = (config.types, width)
  if config.family == 'bert':
    embeddings['norm'] = _norm(config)
  tree: _Shapes = {'embeddings': embeddings}
  for index in range(config.depth):
    tree[f'block_{index}'] = _block(config)
  if config.family != 'bert':
    tree['final_norm'] = _norm(config)
    if not config.tied and output_embedding:
      tree['output_embedding'] = {'kernel': (width, vocabulary)}
  elif masked_words:
    tree['masked_words'] = {
      'transform': _linear(width, width, bias=True),
      'norm': _norm(config),
      'bias': (vocabulary,),
    }
  return tree


def _block(config: TransformerConfig) -> _Shapes:
  assert config.head_width is not None
  assert config.heads_of_keys is not None
  width, wide = config.width, config.feed_forward_width
  queries = config.heads * config.head_width
  keys = config.heads_of_keys * config.head_width
  bias = config.attention_bias
  parts = ['in', 'gate'] if config.family == 'llama' else ['in']
  feed_forward = {
    part: _linear(width, wide, config.feed_forward_bias) for part in parts
  }
  return {
    'attention': {
      'query': _linear(width, queries, bias),
      'key': _linear(width, keys, bias),
      'value': _linear(width, keys, bias),
      'output': _linear(queries, width, bias),
    },
    'attention_norm': _norm(config),
    'feed_forward': {
      **feed_forward,
      'out': _linear(wide, width, config.feed_forward_bias),
    },
    'feed_forward_norm': _norm(config),
  }


def _linear(inputs: int, outputs: int, bias: bool) -> _Shapes:
  kernel: _Shapes = {'kernel': (inputs, outputs)}
  return {**kernel, 'bias': (outputs,)} if bias else kernel


def _norm(config: TransformerConfig) -> _Shapes:
  scale: _Shapes = {'scale': (config.width,)}
  return (
    scale if config.family == 'llama' else {**scale, 'bias': scale['scale']}
  )


def draw(key: jax.Array, tree: _Shapes) -> PyTree:
  """Draws parameters of such shapes: what a training from nothing starts with.

  Kernels and embeddings are normal with a deviation of 0.02, scales 1, biases
  0, all of them float32.

  Args:
    key: to draw from.
    tree: what `shapes` returns, or a part of it.

  Returns:
    A tree of arrays.
  """
  leaves, structure = jax.tree.flatten_with_path(
    tree, is_leaf=lambda each: isinstance(each, tuple)
  )
  drawn = []
  for index, (path, shape) in enumerate(leaves):
    name = path[-1].key
    if name in ('scale', 'bias'):
      drawn.append(jnp.full(shape, float(name == 'scale'), jnp.float32))
    else:
      of_leaf = jax.random.fold_in(key, index)
      drawn.append(_SCALE * jax.random.normal(of_leaf, shape, jnp.float32))
  return jax.tree.unflatten(structure, drawn)


def add_head(key: jax.Array, params: PyTree, num_outputs: int) -> PyTree:
  """Parameters with a new head, which pretrained ones do not have.

  Args:
    key: to draw from.
    params: of a transformer.
    num_outputs: of the linear layer that is to be called `head`.

  Returns:
    The same parameters and `head`, drawn, in place of another if there was one.

  Raises:
    ValueError: if `num_outputs` is no number above 0.

  Example:
    >>> config = TransformerConfig('gpt2', 100, 32, 2, 4, 128, 64)
    >>> params = jax.jit(lambda key: draw(key, shapes(config)))(
    ...   jax.random.key(0)
    ... )
    >>> add_head(jax.random.key(1), params, 5)['head']['kernel'].shape
    (32, 5)
  """
  if num_outputs < 1:
    raise ValueError(f'a head has 1 output or more, got {num_outputs}')
  width = params['embeddings']['token'].shape[-1]
  return {**params, 'head': draw(key, _linear(width, num_outputs, bias=True))}


def _indices(params: PyTree) -> list[int]:
  """The numbers of the blocks, in order."""
  found = (re.fullmatch(r'block_(\d+)', name) for name in params)
  return sorted(int(each[1]) for each in found if each)


def stack_blocks(params: PyTree) -> PyTree:
  """Parameters whose blocks are one, `blocks`, that is scanned over.

  A deep model is then a short program, which compiles quickly. What it computes
  is the same.

  Args:
    params: of a transformer, with `block_0`, `block_1`, ...; kernels may be
      any tree that a linear layer takes.

  Returns:
    The same with `blocks` instead, the same tree as one block, its leaves with
    a leading axis of layers. Parameters that are stacked already are returned
    as they are.

  Raises:
    ValueError: if blocks differ in what they have, or are not all there.

  Example:
    >>> config = TransformerConfig('gpt2', 100, 32, 2, 4, 128, 64)
    >>> params = jax.jit(lambda key: draw(key, shapes(config)))(
    ...   jax.random.key(0)
    ... )
    >>> stack_blocks(params)['blocks']['attention_norm']['scale'].shape
    (2, 32)
  """
  indices = _indices(params)
  if 'blocks' in params:
    if indices:
      raise ValueError(
        f'there are both blocks that are stacked and block_{indices[0]}'
      )
    return params
  if not indices or indices != list(range(len(indices))):
    raise ValueError(
      'there must be blocks block_0, block_1, ... to stack; there are'
      f' {", ".join(map(str, sorted(params)))}'
    )
  blocks = [params[f'block_{index}'] for index in indices]
  first = _form(blocks[0])
  for index, block in enumerate(blocks):
    if _form(block) != first:
      raise ValueError(
        f'block_{index} is not of the form of block_0, so they cannot be'
        ' stacked: leave the blocks apart, or adapt all of them alike'
      )
  rest = {
    name: each
    for name, each in params.items()
    if not re.fullmatch(r'block_\d+', name)
  }
  return {
    **rest,
    'blocks': jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks),
  }


def unstack_blocks(params: PyTree) -> PyTree:
  """The inverse of `stack_blocks`: parameters with a block for every layer.

  Args:
    params: of a transformer; those without `blocks` are returned as they are.

  Returns:
    The same with `block_0`, `block_1`, ... instead.

  Raises:
    ValueError: if the leaves of `blocks` differ in their leading axis.
  """
  if 'blocks' not in params:
    return params
  depth = depth_of(params['blocks'])
  rest = {name: each for name, each in params.items() if name != 'blocks'}
  for index in range(depth):
    rest[f'block_{index}'] = jax.tree.map(
      lambda leaf, index=index: leaf[index], params['blocks']
    )
  return rest


def depth_of(blocks: PyTree) -> int:
  """How many layers are stacked."""
  lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(blocks)}
  if len(lengths) != 1 or () in lengths:
    raise ValueError(
      'the leaves of stacked blocks must have one leading axis of layers; got'
      f' the leading axes {sorted(lengths)}'
    )
  return lengths.pop()[0]


def _form(block: PyTree) -> tuple[Any, ...]:
  leaves, structure = jax.tree.flatten(block)
  return structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]
