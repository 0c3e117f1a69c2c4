"""Transformers that somebody has trained: BERT, GPT-2 and Llama families."""

from metajax.models.pretrained.config import TransformerConfig, read_config
from metajax.models.pretrained.networks import (
  Words,
  language_model,
  text_encoder,
)
from metajax.models.pretrained.objectives import (
  WordLoss,
  masked_words,
  next_words,
  with_words,
)
from metajax.models.pretrained.parameters import (
  add_head,
  stack_blocks,
  unstack_blocks,
)
from metajax.models.pretrained.tokenizer import (
  Encoded,
  TextError,
  Tokenizer,
  read_tokenizer,
)
from metajax.models.pretrained.weights import (
  Pretrained,
  first_blocks,
  load,
  save,
)

__all__ = [
  'Encoded',
  'Pretrained',
  'TextError',
  'Tokenizer',
  'TransformerConfig',
  'WordLoss',
  'Words',
  'add_head',
  'first_blocks',
  'language_model',
  'load',
  'masked_words',
  'next_words',
  'read_config',
  'read_tokenizer',
  'save',
  'stack_blocks',
  'text_encoder',
  'unstack_blocks',
  'with_words',
]
