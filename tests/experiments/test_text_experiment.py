"""Runs on texts: generated ones, and on pretrained transformers."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from safetensors.numpy import load_file, save_file
from small_texts import begun, given

from experiments import by_shots, text
from experiments.runner.errors import UsageError
from experiments.runner.loop import recorded
from experiments.runner.workdir import open_workdir
from metajax.equality import as_frozen
from metajax.tasks import phrase_tokenizer


@pytest.mark.in_ci
@pytest.mark.parametrize('algorithm', ['maml', 'protonet'])
def test_a_small_transformer_learns_a_generated_language(tmp_path, algorithm):
  outcome = text.run(
    given(tmp_path, algorithm=algorithm, out_of_scope='classes')
  )
  assert outcome['steps'] == 2
  assert outcome['protocol']['dataset'] == 'phrases'
  assert 0 <= outcome['baseline']['bag_of_words_accuracy'] <= 1
  for picture in ('learning_curve', 'test_task'):
    assert (tmp_path / 'run' / f'{picture}.png').exists()
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'Classes that are mistaken' in page
  assert page.count('<span class="text">') > 3 * 5
  assert outcome['protocol']['out_of_scope'] == (
    'queries of 1 of 6 classes, which have no support'
  )
  found = outcome['out_of_scope']
  assert 0 <= found['auroc']['mean'] <= 1
  # Where nothing is rejected, five of six queries have a class to be found.
  assert found['accuracy_of_accepting_all']['mean'] <= 5 / 6 + 1e-6


ADAPT = ['lora', 'prefix', 'prompt', 'bias', 'norm', 'head', 'last:1', 'all']


@pytest.mark.in_ci
@pytest.mark.parametrize('adapt', ADAPT)
def test_meta_parameters_are_what_adapts_alone(tmp_path, model_dir, adapt):
  # What is only looked at has features of no texts.
  settings = given(tmp_path, model_dir=model_dir, adapt=adapt, dry_run='cpu')
  problem = text.make_problem(settings, text.make_recipe(settings))
  key = jax.random.key(0)
  inputs = jax.eval_shape(problem.train, key).support.inputs
  held = jax.eval_shape(
    lambda learner, *arguments: learner.init(*arguments),
    as_frozen(problem.meta_learner()),
    key,
    inputs,
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
  assert outcome['skipped_steps'] == 0
  assert 'Calibration' in (tmp_path / 'run' / 'report.html').read_text()


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
  assert {*record['weights_digest']} == {'weights', 'config', 'tokenizer'}


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('file', 'before', 'after'),
  [
    ('tokenizer.json', '"WhitespaceSplit"', '"Whitespace"'),
    ('config.json', '1e-05', '1e-03'),
  ],
)
def test_other_tokens_and_forms_are_refused_where_they_lie(
  tmp_path, model_dir, file, before, after
):
  moved = tmp_path / 'moved'
  shutil.copytree(model_dir, moved)
  settings = given(tmp_path, model_dir=moved, algorithm='protonet')
  begun(settings)
  path, record = moved / file, tmp_path / 'run' / 'config.json'
  content = path.read_text()
  assert before in content
  path.write_text(content.replace(before, after))
  loads = given(
    tmp_path / 'other', model_dir=moved, algorithm='protonet',
    load=tmp_path / 'run',
  )  # fmt: skip
  for changed in (settings.replace(resume=True), loads):
    with pytest.raises(UsageError, match=f'there is a {file} with') as caught:
      text.run(changed)
    assert caught.value.setting == 'model_dir'
  # An older record has the digest of the weights alone.
  fields = json.loads(record.read_text())
  weights = fields['weights_digest']['weights']
  assert (
    weights
    == hashlib.sha256((moved / 'model.safetensors').read_bytes()).hexdigest()
  )
  record.write_text(json.dumps(fields | {'weights_digest': weights}))
  opened = open_workdir(
    tmp_path / 'run',
    settings.replace(resume=True),
    recorded(text.make_problem(settings, text.make_recipe(settings))),
  )
  opened.release()


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


@pytest.mark.in_ci
def test_what_a_run_remembers_makes_the_same_run_again(tmp_path, model_dir):
  """That of a pretrained transformer has no size of its own."""
  settings = given(
    tmp_path, model_dir=model_dir, algorithm='protonet', ways=2, shots=2
  )
  problem = text.make_problem(settings, text.make_recipe(settings))
  kept = by_shots._kept(recorded(problem))
  again = text.make_problem(kept, text.make_recipe(kept))
  assert (kept.model_dir, kept.width) == (str(model_dir), None)
  assert again.protocol['split'] == problem.protocol['split']


@pytest.mark.in_ci
@pytest.mark.parametrize('algorithm', ['transfer', 'multi_task', 'metaicl'])
def test_methods_that_train_on_classes_or_read_run_on_texts(
  tmp_path, algorithm
):
  settings = given(tmp_path, algorithm=algorithm, width=8, depth=1)
  if algorithm != 'metaicl':
    settings = settings.replace(train_queries=None, batch_size=8)
  outcome = text.run(settings.replace(set='eval_inner_steps=2'))
  assert outcome['steps'] == 2
  assert outcome['skipped_steps'] == 0


@pytest.mark.in_ci
def test_the_first_blocks_of_a_pretrained_transformer_will_do(
  tmp_path, model_dir
):
  settings = given(tmp_path, model_dir=model_dir, adapt='all', depth=1)
  problem = text.make_problem(settings, text.make_recipe(settings))
  _, weights = problem.model.arrays
  assert 'block_0' in weights
  assert 'block_1' not in weights
  with pytest.raises(UsageError, match='from 1 to 2 blocks') as caught:
    text.run(settings.replace(depth=3))
  assert caught.value.setting == 'depth'


def test_what_reads_from_left_to_right_wants_a_decoder(tmp_path, model_dir):
  settings = given(tmp_path, model_dir=model_dir, algorithm='metaicl')
  with pytest.raises(UsageError, match='which a bert cannot') as caught:
    text.run(settings)
  assert caught.value.setting == 'algorithm'


@pytest.mark.in_ci
def test_methods_and_adaptations_are_compared_and_tested_by_shots(
  launcher, cache, model_dir, tmp_path
):
  """Rows are of a method and an adaptation each, and load again as such."""
  path = tmp_path / 'mine.csv'
  words = [word for word in phrase_tokenizer().words if word.isalpha()]
  lines = [f'{words[n % 40 + 1]} {words[n % 7 + 50]},class {n % 10}'
           for n in range(80)]  # fmt: skip
  path.write_text('\n'.join(['text,label', *lines]))
  flags = (
    '--dataset=csv', f'--data_file={path}', f'--model_dir={model_dir}', cache,
    '--max_tokens=8', '--ways=2', '--queries=1', '--eval_tasks=8',
    '--validation_tasks=4', '--minutes_each=0.005',
    f'--workdir={tmp_path}/compare', '--methods=protonet',
    '--adaptations=lora,head',
  )  # fmt: skip
  ended = launcher.run('compare', *flags)
  assert ended.code == 0, ended
  found = json.loads((tmp_path / 'compare' / 'compare.json').read_text())
  assert found['failed'] == {}
  lora, head = found['rows']
  assert (lora['method'], head['method']) == (
    'protonet, lora',
    'protonet, head',
  )
  assert lora['parameters'] > head['parameters'] == 1  # the length of features
  plan = json.loads((tmp_path / 'compare' / 'plan.json').read_text())
  assert plan == {
    'protonet-lora': lora['steps'], 'protonet-head': head['steps']
  }  # fmt: skip
  runs = [tmp_path / 'compare' / name for name in plan]
  ended = launcher.run(
    'by_shots', cache, f'--runs={",".join(map(str, runs))}', '--shots=2',
    '--queries=1', '--eval_tasks=8', f'--workdir={tmp_path}/by_shots',
  )  # fmt: skip
  assert ended.code == 0, ended
  found = json.loads((tmp_path / 'by_shots' / 'by_shots.json').read_text())
  assert (found['failed'], found['dataset']) == ({}, 'csv')
  assert [row['run'] for row in found['rows']] == list(plan)
