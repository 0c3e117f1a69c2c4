"""Configurations: read, written, refused in one line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import CONFIGS

from metajax.models.pretrained import TransformerConfig, read_config
from metajax.models.pretrained.config import ACTIVATIONS

BERT = {
  'model_type': 'bert',
  'vocab_size': 30,
  'hidden_size': 8,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 12,
  'max_position_embeddings': 10,
}
GPT2 = {
  'model_type': 'gpt2',
  'vocab_size': 30,
  'n_embd': 8,
  'n_layer': 2,
  'n_head': 2,
  'n_positions': 10,
}
LLAMA = {**BERT, 'model_type': 'llama', 'num_key_value_heads': 1}


def written(directory, fields):
  (directory / 'config.json').write_text(json.dumps(fields))
  return read_config(directory)


def test_what_a_configuration_leaves_out_is_what_its_family_takes(tmp_path):
  assert written(tmp_path, BERT) == CONFIGS['bert']
  gpt2 = written(tmp_path, GPT2)
  assert gpt2 == dataclasses.replace(CONFIGS['gpt2'], feed_forward_width=32)
  llama = written(tmp_path, LLAMA)
  assert (llama.heads_of_keys, llama.head_width, llama.tied) == (1, 4, False)
  assert (llama.activation, llama.attention_bias) == ('silu', False)


@pytest.mark.parametrize('family', CONFIGS)
def test_what_is_written_is_read(tmp_path, family):
  config = CONFIGS[family]
  (tmp_path / 'config.json').write_text(config.to_json())
  assert read_config(tmp_path) == config


@pytest.mark.parametrize('name', ['rope_scaling', 'rope_parameters'])
def test_rotary_positions_in_old_files_and_new_ones(tmp_path, name):
  rotary = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8,
  }
  base = {'rope_theta': 5e5}
  within, outside = (base, {}) if name == 'rope_parameters' else ({}, base)
  fields = {**LLAMA, **outside, name: {**rotary, **within}}
  config = written(tmp_path, fields)
  assert config.rotary_base == 5e5
  assert config.rotary_scaling == (8, 1, 4, 8)
  (tmp_path / 'config.json').write_text(config.to_json())
  assert read_config(tmp_path) == config
  # Whoever knows one of the forms alone reads the same.
  held = json.loads(config.to_json())
  for form in (('rope_parameters',), ('rope_theta', 'rope_scaling')):
    others = {'rope_parameters', 'rope_theta', 'rope_scaling'} - {*form}
    alone = {key: held[key] for key in held if key not in others}
    assert written(tmp_path, alone) == config
  assert held['rope_scaling'] == rotary
  for changed in ({'factor': 4.0}, {'rope_type': 'default'}):
    contradicting = {
      **held,
      'rope_scaling': {**held['rope_scaling'], **changed},
    }
    with pytest.raises(ValueError, match=r'rope_scaling differ: .* leave one'):
      written(tmp_path, contradicting)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({}, 'model_type must be one of bert, gpt2, llama, got None'),
    ({**BERT, 'model_type': 't5'}, "got 't5'"),
    ({**BERT, 'model_type': ['bert']}, 'model_type must be one of'),
    ({**BERT, 'hidden_act': 'swiglu'}, "hidden_act must be .* got 'swiglu'"),
    ({**BERT, 'hidden_act': ['gelu']}, 'hidden_act must be'),
    ({**BERT, 'vocab_size': 0}, 'vocab_size must be a whole number from 1'),
    ({**BERT, 'vocab_size': 10**12}, 'vocab_size must be a whole number'),
    ({**BERT, 'vocab_size': None}, 'vocab_size must be a whole number'),
    ({**BERT, 'hidden_size': 8.0}, 'hidden_size must be a whole number'),
    (
      {**BERT, 'num_hidden_layers': True},
      'num_hidden_layers must be a whole number',
    ),
    ({**BERT, 'num_hidden_layers': '2'}, "got '2'"),
    ({**BERT, 'num_attention_heads': 3}, '3 heads do not divide a width of 8'),
    (
      {**BERT, 'num_attention_heads': 0},
      'num_attention_heads must be a whole number',
    ),
    ({**BERT, 'layer_norm_eps': 0}, 'layer_norm_eps must be a number above 0'),
    ({**BERT, 'layer_norm_eps': float('nan')}, 'layer_norm_eps must be'),
    (
      {**BERT, 'type_vocab_size': -1},
      'type_vocab_size must be a whole number from 0',
    ),
    ({**BERT, 'is_decoder': True}, 'is_decoder must be false, got true'),
    (
      {**BERT, 'position_embedding_type': 'relative_key'},
      'position_embedding_type must be "absolute"',
    ),
    ({**BERT, 'quantization_config': {'bits': 4}}, 'weights are quantised'),
    (
      {**BERT, 'tie_word_embeddings': 'no'},
      "tie_word_embeddings must be .* got 'no'",
    ),
    ({**GPT2, 'scale_attn_by_inverse_layer_idx': True}, 'must be false'),
    ({**GPT2, 'n_embd': 'x'}, "n_embd must be a whole number .* got 'x'"),
    ({**LLAMA, 'num_key_value_heads': 3}, '3 heads of keys do not divide 2'),
    ({**LLAMA, 'head_dim': 3}, 'even width, got 3'),
    ({**LLAMA, 'sliding_window': 4}, 'sliding_window must be null'),
    ({**LLAMA, 'rope_parameters': {'rope_type': 'yarn'}}, "got 'yarn'"),
    (
      {**LLAMA, 'rope_parameters': {'rope_type': 'llama3'}},
      'factor of rope_parameters is missing',
    ),
    ({**LLAMA, 'rope_parameters': [1]}, 'must be an object'),
    ({**LLAMA, 'rope_theta': -1}, 'rope_theta must be a number above 0'),
    ([BERT], 'no JSON object'),
  ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(
  tmp_path, fields, message
):
  with pytest.raises(ValueError, match=message) as caught:
    written(tmp_path, fields)
  assert str(caught.value).startswith(str(tmp_path))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('family', [BERT, GPT2, LLAMA])
def test_sizes_have_no_default(tmp_path, family):
  for name in [*family][1:]:
    if name == 'num_key_value_heads':  # as many as of queries
      continue
    less = {key: value for key, value in family.items() if key != name}
    with pytest.raises(ValueError, match=f'{name} is missing'):
      written(tmp_path, less)


@pytest.mark.parametrize('text', [b'', b'{', b'\xff\xfe', b'[' * 100_000])
def test_what_is_no_json_is_refused_in_one_line(tmp_path, text):
  (tmp_path / 'config.json').write_bytes(text)
  with pytest.raises(ValueError, match='cannot be read as a configuration'):
    read_config(tmp_path)


def test_a_directory_without_configuration_is_refused(tmp_path):
  with pytest.raises(ValueError, match='cannot be read as a configuration'):
    read_config(tmp_path)


def test_token_types_are_of_bert_alone():
  with pytest.raises(ValueError, match='gpt2 has no token types, got 2'):
    dataclasses.replace(CONFIGS['gpt2'], types=2)


def test_heads_of_another_width_are_of_llama_alone():
  with pytest.raises(ValueError, match='heads that divide the width'):
    TransformerConfig('bert', 30, 8, 2, 2, 12, 10, head_width=8)


@pytest.mark.parametrize('name', sorted(set(ACTIVATIONS) - {'relu'}))
def test_an_activation_keeps_its_input_alone_for_its_derivative(name):
  inputs = jnp.linspace(-4.0, 4.0, 35).reshape(7, 5)
  function = ACTIVATIONS[name]
  _, pull = jax.vjp(function, inputs)
  kept = [leaf for leaf in jax.tree.leaves(pull) if jnp.shape(leaf) == (7, 5)]
  assert len(kept) == 1
  np.testing.assert_array_equal(kept[0], inputs)
