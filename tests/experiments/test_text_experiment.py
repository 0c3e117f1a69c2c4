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

from experiments import by_shots, text
from experiments.runner.encoders import make_encoder, pooled_features
from experiments.runner.errors import UsageError
from experiments.runner.loop import recorded
from experiments.runner.problem import TEST_SEED, judged, make_judge
from experiments.runner.transformers import load_pretrained, weights_kept
from metajax.equality import Frozen, as_frozen
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
  outcome = text.run(
    given(tmp_path, algorithm=algorithm, out_of_scope='classes')
  )
  assert outcome['steps'] == 2
  assert outcome['protocol']['dataset'] == 'phrases'
  assert 0 <= outcome['baseline']['bag_of_words_accuracy'] <= 1
  for picture in ('learning_curve', 'test_task'):
    assert (tmp_path / 'run' / f'{picture}.png').exists()
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


def test_more_tokens_than_positions_are_refused(tmp_path, model_dir):
  with pytest.raises(UsageError, match='has positions for 32') as caught:
    text.run(given(tmp_path, model_dir=model_dir, max_tokens=64))
  assert caught.value.setting == 'max_tokens'


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """Texts of the generated language, in a file: few."""
  path = tmp_path_factory.mktemp('table') / 'mine.csv'
  words = [word for word in phrase_tokenizer().words[1:] if word.isalpha()]
  draw_words = np.random.default_rng(0).choice
  rows = [
    f'{" ".join(draw_words(words, 2 + number % 20))} {words[number % 9]},'
    f'{number % 9}'
    for number in range(72)
  ]
  path.write_text('\n'.join(['text,label', *rows]))
  return {
    'dataset': 'csv', 'data_file': path, 'split_shares': (0.34, 0.33, 0.33),
    'ways': 2, 'algorithm': 'protonet',
  }  # fmt: skip


def test_features_that_nothing_changes_are_computed_once(
  tmp_path, model_dir, table
):
  settings = given(tmp_path, model_dir=model_dir, adapt='head', **table)
  problem = text.make_problem(settings, text.make_recipe(settings))
  tokens = text.make_problem(
    settings.replace(adapt='lora'), text.make_recipe(settings)
  ).test
  found = pretrained.load(model_dir)
  encode = pretrained.text_encoder(found.config).apply

  @jax.jit
  def drawn(params, of_features, of_tokens, key):
    one, other = of_features(key), of_tokens(key)
    return one, other._replace(
      query=other.query._replace(inputs=encode(params, other.query.inputs))
    )

  one, other = drawn(found.params, problem.test, tokens, jax.random.key(3))
  np.testing.assert_array_equal(one.query.targets, other.query.targets)
  np.testing.assert_allclose(one.query.inputs, other.query.inputs, atol=1e-5)
  assert not isinstance(problem.model, Frozen)


def test_features_of_a_dry_run_are_not_computed(tmp_path, model_dir, table):
  settings = given(
    tmp_path, model_dir=model_dir, adapt='head', dry_run='cpu', **table
  )
  problem = text.make_problem(settings, text.make_recipe(settings))
  task = jax.jit(problem.test)(jax.random.key(0))
  assert task.query.inputs.shape[1:] == (16,)
  assert not task.query.inputs.any()


@pytest.mark.in_ci
@pytest.mark.parametrize('adapt', ['lora', 'head'])
def test_frozen_features_are_a_baseline(tmp_path, model_dir, table, adapt):
  settings = given(
    tmp_path, model_dir=model_dir, adapt=adapt, **table
  ).replace(eval_tasks=40)  # fmt: skip
  problem = text.make_problem(settings, text.make_recipe(settings))
  baseline = problem.baseline(problem)
  assert set(baseline) == {
    f'{name}_{what}'
    for name in ('bag_of_words', 'frozen_features')
    for what in ('accuracy', 'ci95')
  }
  # The method without a step is that baseline, whatever the length.
  judge = make_judge(problem)
  learner = problem.meta_learner()
  inputs = jax.eval_shape(problem.test, jax.random.key(0)).support.inputs
  params = jax.jit(
    lambda learner, key: learner.init(
      key, jnp.zeros(inputs.shape, inputs.dtype)
    )
  )(as_frozen(learner), jax.random.key(0))
  found = judged(problem, judge, params, problem.test, TEST_SEED, 40)
  np.testing.assert_allclose(
    found.mean['accuracy'][-1], baseline['frozen_features_accuracy'], atol=0.02
  )
  assert found.judged == ('every_step' if adapt == 'head' else 'last_step')


KEPT = {
  # Of 16-wide matrices in two blocks, what is in which type.
  'float32': {'float32'},
  'bfloat16': {'float32', 'bfloat16'},
  'int8': {'float32', 'bfloat16', 'int8'},
}


@pytest.mark.in_ci
@pytest.mark.parametrize('adapt', ['lora', 'last:1'])
@pytest.mark.parametrize('dtype', list(KEPT))
def test_weights_that_stay_are_kept_in_fewer_bits(
  tmp_path, model_dir, table, adapt, dtype
):
  settings = given(
    tmp_path, model_dir=model_dir, adapt=adapt, model_dtype=dtype, **table
  )
  found = load_pretrained(settings)
  exact = pretrained.load(model_dir).params
  leaves = jax.tree.leaves(found.params)
  assert {leaf.dtype.name for leaf in leaves} == KEPT[dtype]
  if adapt == 'last:1':  # what is learned is as it was
    assert jax.tree.all(
      jax.tree.map(np.array_equal, found.params['block_1'], exact['block_1'])
    )
  whole, size = (
    float(weights_kept(settings, each)['weights'].split()[1])
    for each in (found._replace(params=exact), found)
  )
  assert size <= whole
  model = make_encoder(settings, text.make_recipe(settings), 2, 0, found)
  assert all(
    leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves(
      jax.eval_shape(
        model.init,
        jax.random.key(0),
        jnp.zeros((2, 16), 'float32' if adapt == 'head' else 'int32'),
      )
    )
  )
  tokens = np.arange(24).reshape(2, 12)
  features, other = jax.jit(
    lambda encode, params: (
      encode(tokens),
      pretrained.text_encoder(found.config).apply(params, tokens),
    )
  )(pooled_features(settings, found), exact)
  assert features.dtype == jnp.float32
  np.testing.assert_allclose(features, other, atol=0.05)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'model_dir': None, 'adapt': None}, 'without --model_dir there are none'),
    ({'adapt': 'all'}, '--adapt=all learns them all'),
  ],
)
def test_bits_of_weights_that_are_not_there_are_refused(
  tmp_path, model_dir, settings, message
):
  settings = {'model_dir': model_dir, 'model_dtype': 'int8'} | settings
  with pytest.raises(UsageError, match=message) as caught:
    load_pretrained(given(tmp_path, **settings))
  assert caught.value.setting == 'model_dtype'


def test_more_blocks_than_there_are_name_the_flag(tmp_path, model_dir):
  settings = given(
    tmp_path, model_dir=model_dir, adapt='last:3', model_dtype='int8'
  )
  with pytest.raises(UsageError, match=r'last:3: .*more than the 2') as caught:
    load_pretrained(settings)
  assert caught.value.setting == 'adapt'


@pytest.mark.in_ci
def test_what_is_judged_after_the_last_step_alone_says_so(
  tmp_path, model_dir, table
):
  settings = given(
    tmp_path, model_dir=model_dir, model_dtype='int8',
    **table | {'algorithm': 'maml'},
  )  # fmt: skip
  outcome = text.run(settings)
  test = outcome['test']
  assert test['accuracy_before'] is None
  assert test['accuracy_by_step'] == [test['accuracy']]
  assert outcome['protocol']['weights'].startswith('int8, 0.0')
  assert not (tmp_path / 'run' / 'accuracy_by_inner_step.png').exists()
  assert (tmp_path / 'run' / 'learning_curve.png').exists()


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
@pytest.mark.parametrize('weight', [0.1, 'learned'])
def test_words_are_learned_beside_the_task(tmp_path, model_dir, weight):
  settings = given(
    tmp_path, algorithm='protonet', masked_words_weight=weight, width=8, depth=1
  )
  text.run(settings)
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  first = json.loads(lines[0])
  assert abs(first['auxiliary_loss'] - np.log(273)) < 1
  # Of a pretrained one of BERT's family there are words to be masked.
  masked = settings.replace(
    model_dir=model_dir, width=None, depth=None, workdir=tmp_path / 'masked'
  )
  with pytest.raises(UsageError, match=r'has no token \[MASK\]') as caught:
    text.run(masked)
  assert caught.value.setting == 'masked_words_weight'


@pytest.mark.in_ci
def test_a_run_learns_from_another(tmp_path):
  first = given(tmp_path, algorithm='protonet', width=16, depth=1)
  text.run(first)
  student = first.replace(
    workdir=tmp_path / 'student', width=8, teacher=tmp_path / 'run',
    distil_weight='learned', distil_temperature='learned',
  )  # fmt: skip
  outcome = text.run(student)
  lines = (tmp_path / 'student' / 'metrics.jsonl').read_text().splitlines()
  assert {'divergence', 'temperature', 'teacher_weight'} <= {
    *json.loads(lines[0])
  }
  assert outcome['skipped_steps'] == 0
  for changed, message in (
    ({'max_tokens': 16}, 'has learned on other tokens'),
    ({'algorithm': 'multi_task', 'train_queries': None}, 'adapts to tasks'),
    ({'teacher': tmp_path / 'none'}, 'is not readable'),
    ({'masked_words_weight': 0.1}, 'goes without --masked_words_weight'),
  ):
    other = student.replace(workdir=tmp_path / 'other', **changed)
    with pytest.raises(UsageError, match=message) as caught:
      text.run(other)
    assert caught.value.setting == 'teacher'


def test_the_first_blocks_of_a_pretrained_transformer_will_do(
  tmp_path, model_dir
):
  settings = given(tmp_path, model_dir=model_dir, adapt='all', depth=1)
  problem = text.make_problem(settings, text.make_recipe(settings))
  assert 'block_1' not in problem.model.arrays
  with pytest.raises(UsageError, match='from 1 to 2 blocks') as caught:
    text.run(settings.replace(depth=3))
  assert caught.value.setting == 'depth'


@pytest.mark.parametrize(
  ('settings', 'blamed'),
  [
    ({'masked_words_weight': 0}, 'masked_words_weight'),
    ({'masked_words_weight': 'much'}, 'masked_words_weight'),
    ({'masked_words_weight': 0.1, 'algorithm': 'scratch', 'steps': None},
     'masked_words_weight'),
    ({'batch_size': 4}, 'batch_size'),
    ({'algorithm': 'transfer'}, 'train_queries'),
  ],
)  # fmt: skip
def test_sizes_and_losses_that_cannot_be_meant_are_refused(
  tmp_path, settings, blamed
):
  with pytest.raises(UsageError) as caught:
    text.run(given(tmp_path, **settings))
  assert caught.value.setting == blamed


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
