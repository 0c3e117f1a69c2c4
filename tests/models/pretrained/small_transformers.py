"""Small transformers of each family, their parameters, and a tokenizer."""

import functools

import jax
import numpy as np
from numpy_draws import numbers_like
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from metajax.models.pretrained import TransformerConfig
from metajax.models.pretrained.parameters import draw, shapes

CONFIGS = {
  'bert': TransformerConfig(
    'bert', 30, 8, 2, 2, 12, 10, types=2, epsilon=1e-12
  ),
  'gpt2': TransformerConfig('gpt2', 30, 8, 2, 2, 12, 10, activation='gelu_new'),
  'llama': TransformerConfig(
    'llama', 30, 8, 2, 4, 12, 10, heads_of_keys=2, head_width=4,
    activation='silu', tied=False, attention_bias=False,
    feed_forward_bias=False,
  ),
}  # fmt: skip
TOKENS = np.array([[3, 4, 5, 6, 7, 8], [9, 4, 2, -1, -1, -1]], np.int32)


@functools.cache
def params_of(family: str, masked_words: bool = False):
  """Numbers in double precision, near those that a training starts with."""
  tree = jax.eval_shape(
    lambda key: draw(key, shapes(CONFIGS[family], masked_words=masked_words)),
    jax.random.key(0),
  )
  wide = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float64), tree
  )
  return jax.tree.map(np.float32, numbers_like(wide))


WORDS = ['[UNK]', '[CLS]', '[SEP]', '[PAD]', 'a', 'b', 'c']


def text_of(words=WORDS, special: bool = True, fixed: int | None = 128) -> str:
  """A tokenizer.json of whole words; it pads and truncates, as many do."""
  vocabulary = {word: index for index, word in enumerate(words)}
  inner = Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
  inner.pre_tokenizer = pre_tokenizers.Whitespace()
  if special:
    inner.post_processor = processors.TemplateProcessing(
      single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 1), ('[SEP]', 2)]
    )
  if fixed:
    inner.enable_padding(length=fixed, pad_id=3, pad_token='[PAD]')
    inner.enable_truncation(fixed)
  return inner.to_str()
