"""What the tensors of published weights are called, and where they belong.

A table for each family: our path of a parameter, and the tensor that it is in,
by its name without the prefix that models with a head of words put before it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from metajax.models.pretrained.config import TransformerConfig

__all__ = [
  'OUTPUT_EMBEDDING',
  'PREFIXES',
  'Source',
  'canonical',
  'has_masked_words',
  'is_harmless',
  'sources',
]

PREFIXES = {'bert': 'bert.', 'gpt2': 'transformer.', 'llama': 'model.'}
OUTPUT_EMBEDDING = ('output_embedding', 'kernel')
_Path = tuple[str, ...]


class Source(NamedTuple):
  """Where a parameter is in a file."""

  name: str  # of the tensor, without a prefix
  transposed: bool = False  # [out, in] there, [in, out] here
  part: int | None = None  # which third along the last axis of a fused tensor
  outside: bool = False  # whether it never has the prefix


# What a file may hold besides, since nothing here is computed with it.
_HARMLESS = {
  'bert': r'pooler\..*|embeddings\.position_ids|cls\..*',
  'gpt2': r'h\.\d+\.attn\.(bias|masked_bias)',
  'llama': r'(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq',
}


def canonical(config: TransformerConfig, name: str) -> str:
  """The name of a tensor without prefix, in the spelling of today.

  Example:
    >>> config = TransformerConfig('bert', 100, 32, 2, 4, 64, 16, types=2)
    >>> canonical(config, 'bert.embeddings.LayerNorm.gamma')
    'embeddings.LayerNorm.weight'
  """
  name = name.removeprefix(PREFIXES[config.family])
  if config.family == 'bert':
    name = re.sub(r'LayerNorm\.gamma$', 'LayerNorm.weight', name)
    name = re.sub(r'LayerNorm\.beta$', 'LayerNorm.bias', name)
  return name


def is_harmless(config: TransformerConfig, name: str) -> bool:
  """Whether a tensor that is not wanted may be there; by canonical name."""
  if config.tied and name == 'lm_head.weight':
    return config.causal
  return re.fullmatch(_HARMLESS[config.family], name) is not None


def has_masked_words(names: Iterable[str]) -> bool:
  """Whether tensors are there that BERT predicts masked words with."""
  return not set(_MASKED_WORDS.values()).isdisjoint(names)


def sources(
  paths: Iterable[_Path], config: TransformerConfig
) -> dict[_Path, Source]:
  """The tensor of every parameter.

  Args:
    paths: of the parameters, as in `shapes`.
    config: of the transformer.

  Returns:
    A dictionary from paths to `Source`s.
  """
  find = {'bert': _bert, 'gpt2': _gpt2, 'llama': _llama}[config.family]
  return {path: find(path) for path in paths}


_WEIGHTS = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
_BERT_LAYERS = {
  'attention/query': 'attention.self.query',
  'attention/key': 'attention.self.key',
  'attention/value': 'attention.self.value',
  'attention/output': 'attention.output.dense',
  'attention_norm': 'attention.output.LayerNorm',
  'feed_forward/in': 'intermediate.dense',
  'feed_forward/out': 'output.dense',
  'feed_forward_norm': 'output.LayerNorm',
}
_BERT_OTHERS = {
  'embeddings/token': 'embeddings.word_embeddings.weight',
  'embeddings/position': 'embeddings.position_embeddings.weight',
  'embeddings/type': 'embeddings.token_type_embeddings.weight',
  'embeddings/norm/scale': 'embeddings.LayerNorm.weight',
  'embeddings/norm/bias': 'embeddings.LayerNorm.bias',
}
_MASKED_WORDS = {
  'masked_words/transform/kernel': 'cls.predictions.transform.dense.weight',
  'masked_words/transform/bias': 'cls.predictions.transform.dense.bias',
  'masked_words/norm/scale': 'cls.predictions.transform.LayerNorm.weight',
  'masked_words/norm/bias': 'cls.predictions.transform.LayerNorm.bias',
  'masked_words/bias': 'cls.predictions.bias',
}
_GPT2_LAYERS = {
  'attention/output': 'attn.c_proj',
  'attention_norm': 'ln_1',
  'feed_forward/in': 'mlp.c_fc',
  'feed_forward/out': 'mlp.c_proj',
  'feed_forward_norm': 'ln_2',
}
_GPT2_OTHERS = {
  'embeddings/token': 'wte.weight',
  'embeddings/position': 'wpe.weight',
  'final_norm/scale': 'ln_f.weight',
  'final_norm/bias': 'ln_f.bias',
}
_FUSED = ('attention/query', 'attention/key', 'attention/value')
_LLAMA_LAYERS = {
  'attention/query': 'self_attn.q_proj',
  'attention/key': 'self_attn.k_proj',
  'attention/value': 'self_attn.v_proj',
  'attention/output': 'self_attn.o_proj',
  'attention_norm': 'input_layernorm',
  'feed_forward/gate': 'mlp.gate_proj',
  'feed_forward/in': 'mlp.up_proj',
  'feed_forward/out': 'mlp.down_proj',
  'feed_forward_norm': 'post_attention_layernorm',
}
_LLAMA_OTHERS = {
  'embeddings/token': 'embed_tokens.weight',
  'final_norm/scale': 'norm.weight',
}


def _layer(path: _Path) -> tuple[str, str, str] | None:
  """Number, layer and kind of a parameter that is in a block."""
  found = re.fullmatch(r'block_(\d+)', path[0])
  return found and (found[1], '/'.join(path[1:-1]), _WEIGHTS[path[-1]])


def _bert(path: _Path) -> Source:
  transposed = path[-1] == 'kernel'
  if within := _layer(path):
    index, layer, weight = within
    name = f'encoder.layer.{index}.{_BERT_LAYERS[layer]}.{weight}'
    return Source(name, transposed)
  whole = '/'.join(path)
  if whole in _MASKED_WORDS:
    return Source(_MASKED_WORDS[whole], transposed, outside=True)
  return Source(_BERT_OTHERS[whole])


def _gpt2(path: _Path) -> Source:
  if path == OUTPUT_EMBEDDING:
    return Source('lm_head.weight', transposed=True, outside=True)
  if within := _layer(path):
    index, layer, weight = within
    if layer in _FUSED:
      name = f'h.{index}.attn.c_attn.{weight}'
      return Source(name, part=_FUSED.index(layer))
    return Source(f'h.{index}.{_GPT2_LAYERS[layer]}.{weight}')
  return Source(_GPT2_OTHERS['/'.join(path)])


def _llama(path: _Path) -> Source:
  transposed = path[-1] == 'kernel'
  if path == OUTPUT_EMBEDDING:
    return Source('lm_head.weight', transposed, outside=True)
  if within := _layer(path):
    index, layer, weight = within
    return Source(f'layers.{index}.{_LLAMA_LAYERS[layer]}.{weight}', transposed)
  return Source(_LLAMA_OTHERS['/'.join(path)])
