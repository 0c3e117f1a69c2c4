"""Wanted and blocked intents: their division, and whole runs."""

import csv
import json

import jax
import numpy as np
import pytest

from experiments import self_destruct
from experiments.data import contests
from experiments.data.samplers import Wanted
from experiments.runner.adversary import lengths
from experiments.runner.encoders import small_config
from experiments.runner.errors import UsageError
from experiments.runner.guarding import classifier, read_attacks
from experiments.runner.workdir import Workdir
from metajax.algorithms.recipe import Recipe

NAMES = [f'{kind}/{number}' for kind in 'abc' for number in range(4)]


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
  """Twelve classes of ten texts, of which one word tells the class."""
  path = tmp_path_factory.mktemp('texts') / 'mine.csv'
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['text', 'label'])
    for name in NAMES:
      for number in range(10):
        writer.writerow([f'{name.replace("/", "")} please n{number}', name])
  return path


def given(texts, **settings) -> self_destruct.Settings:
  return self_destruct.Settings(**{
    'dataset': 'csv', 'data_file': texts, 'wanted': 'a/', 'blocked': 'b/',
    'blocked_classes': 3, 'examples': '3,6', 'support': 4, 'train_queries': 4,
    'max_tokens': 8, 'width': 8, 'depth': 1, 'pretraining_steps': 2,
    'steps': 2, 'inner_steps': 2, 'eval_inner_steps': 2, 'attack_draws': 2,
    'checkpoint_every': 2, 'log_every': 1, 'validation_tasks': 2, **settings,
  })  # fmt: skip


def loaded(settings) -> contests.Divided:
  return contests.load(Wanted(settings, Recipe()), None)


def test_no_text_serves_two_purposes(texts):
  divided = loaded(given(texts))
  assert [divided.names[place][0] for place in divided.places] == ['a'] * 4
  for parts, classes in zip(divided[:3], (12, 4, 3), strict=True):
    assert [len(part.targets) for part in parts] == [
      4 * classes, 2 * classes, 2 * classes, 2 * classes,
    ]  # fmt: skip
    # The first few of an adversary are of classes as equal as can be.
    assert sorted(parts.adversary.targets[:classes]) == [*range(classes)]
  # The same text is for the same in every task.
  both = [
    {*map(bytes, np.asarray(parts.train.inputs))}
    for parts in (divided.everything, divided.blocked)
  ]
  assert both[1] < both[0]


def test_a_text_that_is_there_twice_serves_one_purpose(tmp_path, texts):
  path = tmp_path / 'twice.csv'
  header, *rows = texts.read_text().splitlines()
  again = [row.replace(' please', '  please') for row in rows]
  path.write_text('\n'.join([header, *rows, *again]))
  once, twice = loaded(given(texts)), loaded(given(path))
  for parts in zip(once.everything, twice.everything, strict=True):
    jax.tree.map(np.testing.assert_array_equal, *parts)
  assert 'duplicate_texts' not in once.protocol
  assert twice.protocol['duplicate_texts'].startswith('120 repeated in a class')


def test_a_contest_is_of_texts_of_training_alone(texts):
  divided = loaded(given(texts))
  sample = contests.contests(divided, support=5, queries=6)
  task = sample(jax.random.key(0))
  assert task.support.inputs.shape[0] == 5
  assert {len(each) for each in task.query.targets} == {6}
  seen = [
    {*map(bytes, np.asarray(batch))}
    for batch in (
      task.support.inputs,
      task.query.inputs.blocked,
      divided.blocked.train.inputs,
    )
  ]
  assert not seen[0] & seen[1]
  assert seen[0] | seen[1] <= seen[2]


def test_an_adversary_tries_few_steps_too():
  assert lengths(500) == [50, 100, 200, 500]
  assert lengths(2) == [1, 2]


@pytest.mark.parametrize(
  ('settings', 'blamed', 'message'),
  [
    ({'wanted': None}, 'wanted', 'needs a pattern of class names'),
    ({'wanted': '('}, 'wanted', 'is no regular expression'),
    ({'wanted': 'a/0'}, 'wanted', "'a/0' matches 1 classes, and a task needs"),
    ({'blocked': '[ab]/'}, 'blocked', 'matches a/0, which is wanted'),
    ({'blocked_classes': 5}, 'blocked_classes', '--blocked matches 4'),
    ({'examples': '7'}, 'examples', 'of 7 are more than the 6 texts'),
    ({'support': 9}, 'support', 'there are 12 texts of blocked classes'),
    ({'min_inner_steps': 3}, 'min_inner_steps', 'above --inner_steps=2'),
    ({'adapt': 'lora'}, 'adapt', 'an adversary has all weights'),
    ({'shots': 3}, 'shots', 'has no meaning for experiments.self_destruct'),
    ({'resume': True}, 'resume', 'needs --workdir'),
    ({'model_dtype': 'int8'}, 'model_dtype', 'has no meaning for'),
    ({'rank': 2}, 'rank', 'has no meaning for'),
    ({'prompt_length': 2}, 'prompt_length', 'has no meaning for'),
    ({'pool': 'first'}, 'pool', 'is first'),
  ],
)
def test_what_cannot_be_meant_is_refused(
  tmp_path, texts, settings, blamed, message
):
  workdir = None if 'resume' in settings else tmp_path / 'run'
  with pytest.raises(UsageError) as caught:
    self_destruct.run(given(texts, workdir=workdir, **settings))
  assert caught.value.setting == blamed
  assert message in str(caught.value)
  assert not (tmp_path / 'run').exists()


def test_blocks_are_computed_again_where_that_is_asked(texts):
  config = small_config(given(texts), Recipe(width=8, depth=1), 9)
  tokens = np.zeros((1, 3), np.int32)

  def again(rematerialise):
    settings = given(texts, rematerialise=rematerialise)
    model = classifier(settings, config, 2)
    params = model.init(jax.random.key(0), tokens)
    program = str(jax.make_jaxpr(model.apply)(params, tokens))
    return program.count('differentiated=')

  assert again(True) > again(False)


@pytest.mark.parametrize('examples', ['', 'few', '5,2', '0', '2,2'])
def test_examples_are_numbers_that_rise(texts, examples):
  with pytest.raises(UsageError, match='from small to large'):
    given(texts, examples=examples)


def test_classes_of_too_few_texts_are_refused(tmp_path):
  path = tmp_path / 'few.csv'
  rows = [
    f'word{number} {name},{name}' for name in NAMES for number in range(4)
  ]
  path.write_text('\n'.join(['text,label', *rows]))
  with pytest.raises(UsageError, match='has 4 different texts, and needs 5'):
    self_destruct.run(given(path))


def test_attacks_of_other_steps_are_not_taken_for_these(tmp_path):
  attacks = {'eval_inner_steps': 4, 'of_step': 2, 'random, ...': {}}
  (tmp_path / 'attacks.json').write_text(json.dumps(attacks))
  again, anew = Workdir(tmp_path, True), Workdir(tmp_path, False)
  four, fifty = (Recipe(eval_inner_steps=steps) for steps in (4, 50))
  assert read_attacks(again, four) == attacks
  assert read_attacks(again, fifty) == {'eval_inner_steps': 50}
  assert read_attacks(anew, four) == {'eval_inner_steps': 4}


@pytest.mark.in_ci
def test_it_trains_attacks_and_goes_on(tmp_path, texts):
  settings = given(texts, workdir=tmp_path / 'run')
  outcome = self_destruct.run(settings)
  assert outcome['steps'] == 2
  assert set(outcome['adversaries']) == {'unprotected', 'random', 'protected'}
  for rows in outcome['adversaries'].values():
    assert [row['examples'] for row in rows] == [3, 6]
    assert all(0 <= row['accuracy'] <= 1 for row in rows)
  assert 0 <= outcome['wanted']['after'] <= 1
  assert (tmp_path / 'run' / 'adversaries.png').stat().st_size > 1000
  page = (tmp_path / 'run' / 'report.html').read_text()
  reached = outcome['adversaries']['protected'][-1]['accuracy']
  assert f'<data value="{reached}">' in page
  # More steps: what did not change is not attacked again.
  attacks = tmp_path / 'run' / 'attacks.json'
  before = json.loads(attacks.read_text())
  marked = before | {
    name: value | {'accuracy': 0.125}
    for name, value in before.items()
    if 'adversary' in name
  }
  attacks.write_text(json.dumps(marked))
  again = self_destruct.run(settings.replace(resume=True, steps=4))
  assert again['steps'] == 4
  found = again['adversaries']
  assert {row['accuracy'] for row in found['unprotected']} == {0.125}
  assert {row['accuracy'] for row in found['protected']} != {0.125}
  with pytest.raises(UsageError, match='already holds this run'):
    self_destruct.run(settings)
  # More steps of the adversary: these are other attacks.
  longer = settings.replace(resume=True, steps=4, eval_inner_steps=3)
  found = self_destruct.run(longer)['adversaries']
  assert {row['accuracy'] for row in found['unprotected']} != {0.125}
