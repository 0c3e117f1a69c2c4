"""Runs on texts: generated ones, and on pretrained transformers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments import text
from experiments.runner.errors import UsageError
from metajax.models import pretrained
from metajax.models.pretrained.parameters import draw, shapes
from metajax.tasks import phrase_tokenizer

SMALL = {
  'tasks_per_step': 1, 'eval_tasks': 4, 'validation_tasks': 2, 'log_every': 1,
  'steps': 2, 'checkpoint_every': 2, 'queries': 2, 'train_queries': 2,
  'max_tokens': 24,
}  # fmt: skip


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
  """A small transformer with the words of the generated language."""
  directory = tmp_path_factory.mktemp('model')
  words = phrase_tokenizer().words
  config = pretrained.TransformerConfig(
    'bert', len(words), 16, 2, 2, 24, 32, types=2
  )
  params = draw(jax.random.key(0), shapes(config))
  inner = Tokenizer(
    models.WordLevel(
      {word: index for index, word in enumerate(words)}, unk_token=words[0]
    )
  )
  inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer = pretrained.Tokenizer(inner.to_str(), config)
  pretrained.save(directory, config, params, tokenizer)
  return directory


def given(tmp_path, **settings) -> text.Settings:
  return text.Settings(**{**SMALL, 'workdir': tmp_path / 'run', **settings})


@pytest.mark.in_ci
@pytest.mark.parametrize('algorithm', ['maml', 'protonet'])
def test_a_small_transformer_learns_a_generated_language(tmp_path, algorithm):
  outcome = text.run(given(tmp_path, algorithm=algorithm))
  assert outcome['steps'] == 2
  assert outcome['protocol']['dataset'] == 'phrases'
  assert 0 <= outcome['baseline']['bag_of_words_accuracy'] <= 1
  assert (tmp_path / 'run' / 'learning_curve.png').exists()


ADAPT = ['lora', 'prefix', 'prompt', 'bias', 'norm', 'head', 'last:1', 'all']


@pytest.mark.parametrize('adapt', ADAPT)
def test_meta_parameters_are_what_adapts_alone(tmp_path, model_dir, adapt):
  settings = given(tmp_path, model_dir=model_dir, adapt=adapt)
  problem = text.make_problem(settings, text.make_recipe(settings))
  held = jax.eval_shape(
    problem.meta_learner().init, jax.random.key(0), jnp.zeros((2, 5), jnp.int32)
  )
  sizes = sum(leaf.size for leaf in jax.tree.leaves(held))
  total = sum(
    array.size for array in load_file(model_dir / 'model.safetensors').values()
  )
  head = 16 * 5 + 5
  if adapt == 'all':
    assert sizes == total + head
  elif adapt == 'head':
    assert sizes == head
  else:
    assert head < sizes < total / 2 + head


@pytest.mark.in_ci
@pytest.mark.parametrize('adapt', ADAPT)
def test_a_pretrained_transformer_is_trained_and_tested(
  tmp_path, model_dir, adapt
):
  outcome = text.run(given(tmp_path, model_dir=model_dir, adapt=adapt))
  assert outcome['steps'] == 2
  assert outcome['skipped'] == 0


@pytest.mark.in_ci
def test_other_weights_are_refused_where_they_lie(tmp_path, model_dir):
  moved = tmp_path / 'moved'
  shutil.copytree(model_dir, moved)
  before = given(tmp_path, model_dir=model_dir, algorithm='protonet')
  text.run(before)
  # Another place is none of its business.
  on = before.replace(model_dir=moved, resume=True, steps=3)
  assert text.run(on)['steps'] == 3
  path = moved / 'model.safetensors'
  arrays = load_file(path)
  name = next(iter(arrays))
  save_file(arrays | {name: arrays[name] + np.float32(1)}, path)
  for changed in (
    on.replace(steps=4),
    given(
      tmp_path / 'other', model_dir=moved, algorithm='protonet',
      load=tmp_path / 'run',
    ),
    given(tmp_path / 'none', algorithm='protonet', load=tmp_path / 'run'),
  ):  # fmt: skip
    with pytest.raises(UsageError) as caught:
      text.run(changed)
    assert caught.value.setting == 'model_dir'
  record = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert len(record['weights_digest']) == 64


@pytest.mark.parametrize(
  ('settings', 'blamed', 'message'),
  [
    ({'adapt': 'lora'}, 'adapt', 'without --model_dir there are no weights'),
    ({'adapt': 'last:0'}, 'adapt', 'is last:0; it is one of lora, prefix'),
    ({'model_dir': '/nowhere'}, 'model_dir', '/nowhere'),
  ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, settings, blamed, message):
  with pytest.raises(UsageError, match=message) as caught:
    text.run(given(tmp_path, **settings))
  assert caught.value.setting == blamed


def test_more_tokens_than_positions_are_refused(tmp_path, model_dir):
  with pytest.raises(UsageError, match='has positions for 32') as caught:
    text.run(given(tmp_path, model_dir=model_dir, max_tokens=64))
  assert caught.value.setting == 'max_tokens'
