"""Transformers too large to be here, of which a config.json is enough."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from experiments import text
from experiments.runner.errors import UsageError
from metajax.models import pretrained
from metajax.models.pretrained.parameters import draw, shapes

DEPTH = 13  # from here on blocks are in one stack
CONFIG = {
  'model_type': 'llama', 'vocab_size': 500, 'hidden_size': 16,
  'num_hidden_layers': DEPTH, 'num_attention_heads': 2,
  'num_key_value_heads': 1, 'intermediate_size': 24, 'hidden_act': 'silu',
  'max_position_embeddings': 64, 'tie_word_embeddings': False,
  'torch_dtype': 'bfloat16',
}  # fmt: skip
SMALL = {
  'tasks_per_step': 1, 'ways': 2, 'queries': 2, 'train_queries': 2,
  'inner_steps': 1, 'max_tokens': 40,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  """A configuration, and no weights."""
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'config.json').write_text(json.dumps(CONFIG))
  return tmp_path / 'model'


def problem_of(folder, **given):
  settings = text.Settings(**SMALL, model_dir=folder, **given)
  return text.make_problem(settings, text.make_recipe(settings))


def test_a_dry_run_has_shapes_for_weights(folder):
  problem = problem_of(folder, dry_run='cpu')
  _, weights = problem.model.arrays
  for leaf in jax.tree.leaves(weights):
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert leaf.dtype == jnp.bfloat16
  blocks = weights['blocks']
  assert blocks['attention']['query']['kernel'].shape == (DEPTH, 16, 16)
  assert 'output_embedding' not in weights  # features need none
  # Without a tokenizer texts are as long as they may be.
  task = jax.eval_shape(problem.train, jax.random.key(0))
  assert task.support.inputs.shape == (2, 40)


def test_other_runs_want_weights(folder):
  with pytest.raises(UsageError, match=r'--model_dir: .*model\.safetensors'):
    problem_of(folder)


@pytest.mark.in_ci
def test_a_step_is_compiled_for_this_machine(folder, tmp_path):
  needed = {}
  for rematerialise in (False, True):
    outcome = text.run(
      text.Settings(
        **SMALL, model_dir=folder, dry_run='cpu', rematerialise=rematerialise,
        workdir=tmp_path / 'run',
      )
    )  # fmt: skip
    assert outcome['fits']
    assert outcome['chips'] == 1
    assert outcome['estimated_step_seconds'] is None
    needed[rematerialise] = outcome['hbm_bytes_per_chip']
  assert needed[True] < needed[False] < outcome['hbm_limit_bytes']


@pytest.mark.in_ci
def test_deep_weights_in_one_stack_make_the_same_features(folder):
  config = pretrained.read_config(folder)
  weights = draw(jax.random.key(0), shapes(config))
  pretrained.save(folder, config, weights)
  settings = text.Settings(**SMALL, model_dir=folder, algorithm='protonet')
  found = text.load_pretrained(settings)
  recipe = text.make_recipe(settings)
  model = text.make_encoder(settings, recipe, 2, 0, found)
  tokens = jnp.array([[7, 8, 9], [7, 8, -1]])
  params = model.init(jax.random.key(1), tokens)
  features = model.apply(params, tokens)
  plain = pretrained.text_encoder(config, normalise=True).apply(
    {x: each for x, each in weights.items() if x != 'output_embedding'}, tokens
  )
  length = np.exp(params['base']['log_length'])
  np.testing.assert_allclose(features, length * plain, rtol=1e-4, atol=1e-5)
