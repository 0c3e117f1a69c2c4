"""Writes small random transformers, and what `transformers` makes of tokens.

A Python with torch, transformers and safetensors runs it, which need not have
JAX: `python reference.py DIRECTORY`. Every model has a directory with its
config.json, its weights, and the arrays `expected.npz`.
"""

import sys
from pathlib import Path

import numpy as np

try:
  import torch
  import transformers
except ImportError:  # the Python that collects tests need not have them
  pass

VOCABULARY, LENGTH = 50, 12
LENGTHS = (12, 7, 1)  # of the texts; what is behind them is padding


def configurations():
  common = {
    'vocab_size': VOCABULARY,
    'hidden_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'intermediate_size': 40,
    'max_position_embeddings': 16,
  }
  bert = transformers.BertConfig(**common)
  yield 'bert', bert, transformers.BertModel
  relu = transformers.BertConfig(**common, hidden_act='relu')
  yield 'bert_words', relu, transformers.BertForMaskedLM
  special = {'bos_token_id': 0, 'eos_token_id': 0}
  gpt2 = transformers.GPT2Config(
    vocab_size=VOCABULARY,
    n_embd=24,
    n_layer=2,
    n_head=4,
    n_positions=16,
    **special,
  )
  yield 'gpt2', gpt2, transformers.GPT2LMHeadModel
  yield 'gpt2_body', gpt2, transformers.GPT2Model
  grouped = {**common, 'num_key_value_heads': 2, **special}
  llama = transformers.LlamaConfig(**grouped)
  yield 'llama', llama, transformers.LlamaForCausalLM
  yield 'llama_body', llama, transformers.LlamaModel
  tied = transformers.LlamaConfig(
    **grouped,
    head_dim=10,
    attention_bias=True,
    mlp_bias=True,
    tie_word_embeddings=True,
    rope_parameters={
      'rope_type': 'llama3',
      'rope_theta': 500.0,
      'factor': 8.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 8,
    },
  )
  yield 'llama_tied', tied, transformers.LlamaForCausalLM


def randomise(model) -> None:
  """Makes biases and scales matter, which start as zeros and ones."""
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  if hasattr(model, 'tie_weights'):
    model.tie_weights()


def write(directory: Path) -> None:
  tokens = np.random.default_rng(0).integers(VOCABULARY, size=(3, LENGTH))
  real = np.arange(LENGTH)[None] < np.array(LENGTHS)[:, None]
  for seed, (name, config, make) in enumerate(configurations()):
    torch.manual_seed(seed)
    model = make(config).eval()
    randomise(model)
    sharded = {'max_shard_size': '10KB'} if name == 'llama' else {}
    model.save_pretrained(directory / name, **sharded)
    with torch.no_grad():
      outputs = model(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(real.astype(np.int64)),
        output_hidden_states=True,
      )
    arrays = {'hidden': outputs.hidden_states[-1].numpy()}
    if 'logits' in outputs:
      arrays['logits'] = outputs.logits.numpy()
    np.savez(
      directory / name / 'expected.npz',
      tokens=np.where(real, tokens, -1).astype(np.int32),
      **arrays,
    )


if __name__ == '__main__':
  write(Path(sys.argv[1]))
