"""Weights of pretrained transformers that stay, and features of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from small_texts import given, save_small_transformer

import metajax
from experiments import text
from experiments.runner.encoders import make_encoder, pooled_features
from experiments.runner.errors import UsageError
from experiments.runner.judging import judged, make_judge
from experiments.runner.problem import TEST_SEED
from experiments.runner.transformers import load_pretrained, weights_kept
from metajax.equality import Frozen, as_frozen
from metajax.models import pretrained
from metajax.runs.checkpoint import Checkpointer
from metajax.tasks import phrase_tokenizer


def test_more_tokens_than_positions_are_refused(tmp_path, model_dir):
  with pytest.raises(UsageError, match='has positions for 32') as caught:
    text.run(given(tmp_path, model_dir=model_dir, max_tokens=64))
  assert caught.value.setting == 'max_tokens'


KEY = jax.random.key(0)


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


def test_a_test_alone_asks_nothing_of_the_classes_of_validation(
  tmp_path, model_dir, table
):
  """Of three classes each; a test of three ways of two for validation."""
  settings = given(
    tmp_path, model_dir=model_dir,
    **table | {'split_shares': (0.45, 0.22, 0.33), 'ways': 3},
  )  # fmt: skip
  with pytest.raises(UsageError, match=r'at most 2 ways .* validation split'):
    text.make_problem(settings, text.make_recipe(settings))
  alone = settings.replace(test_only=True, load=tmp_path)
  problem = text.make_problem(alone, text.make_recipe(alone))
  assert jax.eval_shape(problem.test, KEY).support.inputs.shape[0] == 3
  alone = alone.replace(out_of_scope='classes')
  with pytest.raises(UsageError, match='leave none of the 2'):
    text.make_problem(alone, text.make_recipe(alone))


@pytest.mark.in_ci
def test_what_is_of_no_class_is_told_by_features_as_by_texts(
  tmp_path, model_dir, table
):
  settings = given(
    tmp_path, model_dir=model_dir, adapt='last:1', out_of_scope='classes',
    **table | {'queries': 3},
  ).replace(eval_tasks=20, validation_tasks=20)  # fmt: skip
  problem = text.make_problem(settings, text.make_recipe(settings))
  learner = problem.meta_learner()
  inputs = jax.eval_shape(problem.test, KEY).support.inputs
  init = jax.jit(lambda learner, *rest: learner.made().init(*rest))
  params = init(learner, KEY, jnp.zeros(inputs.shape, inputs.dtype))
  found = problem.more(problem, make_judge(problem), params)['out_of_scope']
  of_texts = partial(problem.more, of_features=None)
  expected = of_texts(problem, make_judge(problem), params)['out_of_scope']
  for name in ('auroc', 'accuracy', 'accuracy_of_accepting_all'):
    assert found[name] == pytest.approx(expected[name], abs=0.02)
  assert found['threshold'] == pytest.approx(expected['threshold'], abs=1e-4)


@pytest.mark.in_ci
def test_what_is_learned_around_a_method_is_tested_too(
  tmp_path, model_dir, table
):
  """Of features, as a test of a method alone is."""
  first = given(
    tmp_path, model_dir=model_dir, adapt='last:1', **table | {'queries': 3}
  ).replace(eval_tasks=20)
  text.run(first)
  outcome = text.run(
    first.replace(
      workdir=tmp_path / 'student', teacher=tmp_path / 'run',
      distil_weight='learned',
    )
  )  # fmt: skip
  assert outcome['steps'] == 2


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


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'algorithm',
  [
    'protonet', 'matchingnet', 'matchingnet_fce', 'siamese', 'r2d2', 'lr_d2',
    'metaoptnet', 'protonet_hallucination', 'delta_encoder', 'in_context',
    'protomaml', 'leo',
  ],
)  # fmt: skip
def test_a_test_of_features_is_that_of_the_texts(
  tmp_path, model_dir, table, algorithm
):
  settings = given(
    tmp_path, model_dir=model_dir, adapt='last:1',
    **table | {'algorithm': algorithm, 'queries': 3},
  )  # fmt: skip
  problem = text.make_problem(settings, text.make_recipe(settings))
  judge = make_judge(problem)
  inputs = jax.eval_shape(problem.test, jax.random.key(0)).support.inputs
  init = jax.jit(lambda learner, *rest: learner.made().init(*rest))
  params = init(
    problem.meta_learner(), KEY, jnp.zeros(inputs.shape, inputs.dtype)
  )
  params = jax.tree.map(lambda leaf: leaf + 0.02, params)
  found = judged(problem, judge, params, problem.test, 1, 4)
  expected = metajax.evaluate(
    judge.learner, problem.objective, params, problem.test,
    key=jax.random.key(1), num_tasks=4, judged='last_step',
  )  # fmt: skip
  for name, values in expected.values.items():
    np.testing.assert_allclose(found.values[name], values, rtol=1e-5, atol=2e-5)


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
@pytest.mark.parametrize('adapt', ['last:1', 'lora'])
def test_deep_transformers_keep_what_stays_in_fewer_bits(
  tmp_path, table, adapt
):
  """More than 12 blocks are one stack, unless the last have their own type."""
  config = pretrained.TransformerConfig(
    'bert', len(phrase_tokenizer().words), 4, 13, 1, 4, 32, types=2
  )
  save_small_transformer(tmp_path / 'deep', config)
  settings = given(
    tmp_path, model_dir=tmp_path / 'deep', adapt=adapt, model_dtype='bfloat16',
    rank=2 if adapt == 'lora' else 8, **table,
  )  # fmt: skip
  problem = text.make_problem(settings, text.make_recipe(settings))
  tokens = jnp.zeros((2, 16), 'int32')
  learned = jax.eval_shape(problem.model.init, KEY, tokens)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(learned)} == {'float32'}
  features = jax.eval_shape(problem.model.apply, learned, tokens)
  assert features.dtype == jnp.float32


@pytest.mark.in_ci
def test_layers_of_the_file_predict_its_masked_words(tmp_path, table):
  config = pretrained.TransformerConfig(
    'bert', len(phrase_tokenizer().words), 4, 1, 1, 4, 32, types=2
  )
  save_small_transformer(tmp_path / 'words', config, masked_words=True)
  settings = given(tmp_path, model_dir=tmp_path / 'words', **table)
  assert 'masked_words' not in load_pretrained(settings).params
  found = load_pretrained(settings.replace(masked_words_weight=0.1))
  expected = pretrained.load(tmp_path / 'words', masked_words=True)
  jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.in_ci
def test_a_test_may_be_of_weights_between_those_of_start_and_end(
  tmp_path, model_dir, table
):
  settings = given(
    tmp_path, model_dir=model_dir, adapt='bias', outer_lr=0.3,
    **table | {'queries': 3},
  )  # fmt: skip
  text.run(settings)
  tested = settings.replace(
    load=tmp_path / 'run', test_only=True, load_share=0.25, eval_tasks=20,
    workdir=tmp_path / 'test',
  )  # fmt: skip
  outcome = text.run(tested)
  problem = text.make_problem(tested, text.make_recipe(tested))
  judge = make_judge(problem)
  start = (
    problem.meta_learner()
    .made()
    .init(jax.random.key(tested.seed), jnp.zeros((2, 16), 'int32'))
  )
  with Checkpointer(tmp_path / 'run' / 'checkpoints') as checkpointer:
    end = checkpointer.restore(start, only='meta_params').state
  between = jax.tree.map(lambda one, two: 0.75 * one + 0.25 * two, start, end)
  found = [
    judged(problem, judge, params, problem.test, TEST_SEED, 20).mean['nll'][-1]
    for params in (between, end)
  ]
  value = outcome['test']['metrics']['nll']['mean']
  assert found[0] == pytest.approx(value, rel=1e-4)
  assert found[1] != pytest.approx(value, rel=1e-2)
