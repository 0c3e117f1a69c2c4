"""Data sets of texts, through their settings."""

import csv
import json
import re

import jax
import numpy as np
import pytest

from experiments.data.samplers import Wanted
from experiments.data.text import PINNED, TextData, load
from experiments.runner.baselines import bag_of_words
from experiments.runner.common import Common
from experiments.runner.data_digest import digests
from experiments.runner.errors import UsageError
from experiments.runner.problem import Problem
from experiments.runner.settings import settings
from metajax.algorithms.recipe import Recipe
from metajax.base import Model
from metajax.metric import ACCURACY
from metajax.objectives import cross_entropy
from metajax.tasks import (
  Texts,
  is_out_of_scope,
  phrase_tokenizer,
  split_by_seed,
  with_out_of_scope,
)

KEY = jax.random.key(0)
draw = jax.jit(lambda sample, key: sample(key))
draw_many = jax.jit(lambda sample, keys: jax.vmap(sample)(keys))


@settings
class Settings(Common, TextData):
  """As an experiment has them."""


def loaded(tokenize=None, recipe=None, **given):
  recipe = recipe or Recipe(ways=2, shots=1, queries=2)
  wanted = Settings(**{'algorithm': 'protonet', 'eval_tasks': 8} | given)
  return load(Wanted(wanted, recipe), tokenize)


@pytest.fixture
def table(tmp_path):
  """Ten classes of four texts, some of them there twice, in two domains."""
  path = tmp_path / 'mine.csv'
  with path.open('w', newline='') as file:
    rows = csv.writer(file)
    rows.writerow(['say', 'id', 'class'])
    for number in range(40):
      kind = number % 10
      text = f'word{kind}, word{number}' if number < 38 else 'the same text'
      rows.writerow([text, number, f'd{kind % 2}/c{kind}'])
    rows.writerow(['one two three four five six', 40, 'd0/c0'])
  return {
    'dataset': 'csv', 'data_file': path,
    'text_column': 'say', 'label_column': 'class',
  }  # fmt: skip


@pytest.mark.in_ci
def test_texts_may_be_as_long_as_nearly_all_of_training_are():
  limits = []

  def letters(texts, max_tokens):
    # One text of 200 is of 90 letters, the others of 20.
    limits.append(max_tokens)
    width = max_tokens or 90
    lengths = np.where(np.arange(len(texts)) % 200 == 199, 90, 20)
    tokens = np.where(np.arange(width) < lengths[:, None], 5, -1)
    return tokens.astype(np.int32), int((lengths > width).sum())

  data = loaded(letters, max_tokens='auto')
  assert limits == [None, 24]
  assert draw(data.test, KEY).support.inputs.shape[1] == 24
  assert data.protocol['tokens'] == '24 a text, 180 of 36000 texts cut off'
  with pytest.raises(UsageError, match='180 of 36000 texts have more than'):
    loaded(letters, max_tokens='auto', refuse_long_texts=True)


def test_phrases_need_no_file():
  data = loaded()
  assert data.protocol == {
    'split': '360/120/120 train/validation/test classes by seed 0',
    'tokens': '24 a text, 0 of 36000 texts cut off',
  }
  assert data.digests is None  # a program has drawn them
  assert (data.train_classes, len(data.test_classes.names)) == (360, 120)
  task = draw(data.test, KEY)
  assert task.support.inputs.dtype == np.int32
  assert data.text.tokenize is phrase_tokenizer()
  # The texts and the classes of the very same task.
  places = draw(data.text.test_texts.sample, KEY).support.inputs
  classes = draw(data.test_classes.sample, KEY).support.inputs
  for tokens, place, number in zip(task.support.inputs, places, classes,
                                   strict=True):  # fmt: skip
    text = data.text.test_texts.names[place]
    assert data.text.tokenize.decode(np.asarray(tokens)) == text
    assert '/' in data.test_classes.names[number]


@pytest.mark.in_ci
def test_phrases_within_a_domain():
  data = loaded(within_groups=True, split_seed=3)
  assert data.protocol['split'].endswith('by seed 3, within a group')
  drawn = draw_many(data.test_classes.sample, jax.random.split(KEY, 30))
  for numbers in np.asarray(drawn.support.inputs):
    domains = {data.test_classes.names[n].split('/')[0] for n in numbers}
    assert len(domains) == 1


def test_a_table_of_texts(table):
  data = loaded(**table)
  assert data.protocol['split'].startswith('6/2/2 train/validation/test classe')
  assert data.protocol['tokens'] == '16 a text, 0 of 41 texts cut off'
  assert data.protocol['duplicate_texts'].startswith('0 repeated in a class, 1')
  assert set(data.digests['train']) == {'names', 'values'}
  # Words of training alone are known.
  assert data.text.tokenize.vocabulary > 1
  assert not {'unheard'} & set(data.text.tokenize.words)
  assert loaded(**table, split_seed=1).digests != data.digests
  shares = loaded(**table, split_shares=(0.4, 0.3, 0.3)).protocol['split']
  assert shares.startswith('4/3/3 train')


def test_lines_of_json_give_the_data_of_a_table(table, tmp_path):
  with table['data_file'].open(newline='') as file:
    lines = [json.dumps(row) for row in csv.DictReader(file)]
  path = tmp_path / 'mine.jsonl'
  path.write_text('\n'.join(lines))
  same = {**table, 'dataset': 'jsonl', 'data_file': path}
  assert loaded(**same).digests == loaded(**table).digests


def test_class_lists_divide_a_table(table, tmp_path):
  for name, numbers in (('train', range(6)), ('val', (6, 7)), ('test', (8, 9))):
    lines = [f'd{number % 2}/c{number}' for number in numbers]
    (tmp_path / f'{name}.txt').write_text('\n'.join(lines))
  data = loaded(**table, split_dir=tmp_path)
  assert data.protocol['split'].endswith('by class lists')
  assert data.test_classes.names == ('d0/c8', 'd1/c9')
  with pytest.raises(UsageError, match=r'^--split_seed: is 1, but the classes'):
    loaded(**table, split_dir=tmp_path, split_seed=1)


def test_long_texts_are_cut_off_and_counted_or_refused(table):
  data = loaded(**table, max_tokens=4)
  assert data.protocol['tokens'] == '4 a text, 1 of 41 texts cut off'
  with pytest.raises(
    UsageError,
    match=r'^--refuse_long_texts: 1 of 41 texts have more than --max_tokens=4;',
  ):
    loaded(**table, max_tokens=4, refuse_long_texts=True)
  loaded(**table, refuse_long_texts=True)


def test_a_tokenizer_of_another(table):
  def letters(texts, max_tokens):
    tokens = [[ord(letter) for letter in text[:8]] for text in texts]
    return np.array([row + [-1] * (9 - len(row)) for row in tokens]), 7

  data = loaded(letters, **table)
  assert data.protocol['tokens'] == '9 a text, 7 of 41 texts cut off'
  assert data.text.tokenize is letters
  assert draw(data.test, KEY).query.inputs[0, 0] in (
    ord('w'),
    ord('t'),
    ord('o'),
  )

  def none(texts, max_tokens):
    return np.full((len(texts), 3), -1), 0

  with pytest.raises(UsageError, match=r"has no token for the text 'word"):
    loaded(none, **table)


def test_classes_without_a_domain(table, tmp_path):
  path = tmp_path / 'plain.csv'
  path.write_text(table['data_file'].read_text().replace('d0/', ''))
  with pytest.raises(
    UsageError, match=r"--within_groups: class 'c\d' is of no"
  ):
    loaded(**{**table, 'data_file': path}, within_groups=True)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'dataset': 'clinc'}, '--dataset=clinc: .*; did you mean clinc150'),
    ({'dataset': 'csv'}, '--data_file: csv needs a file of texts and lab'),
    (
      {'dataset': 'clinc150'},
      '--data_dir: clinc150 needs the folder of data_f',
    ),
    ({'dataset': 'banking77'}, '--data_dir: banking77 needs the folder'),
    ({'data_dir': 'x'}, '--data_dir: is x, but has no meaning for --dataset=p'),
    ({'text_column': 'x'}, '--text_column: is x, but has no meaning for'),
    (
      {'dataset': 'banking77', 'data_dir': 'x', 'within_groups': True},
      '--within_groups: is True, but has no meaning for --dataset=banking77',
    ),
    (
      {'dataset': 'csv', 'data_file': '/none'},
      '--data_file: /none: there is no',
    ),
    (
      {'max_tokens': 0},
      '--max_tokens=0: must be auto, or a whole number from 1',
    ),
  ],
)
def test_what_is_misused_names_its_flag(given, message):
  with pytest.raises(UsageError, match=f'^{message}'):
    loaded(**given)


def test_columns_and_sizes_name_their_flags(table):
  for changes, message in (
    ({'text_column': 'says'}, "--text_column: .*did you mean 'say'"),
    ({'label_column': 'say'}, '--label_column: .*as text and as label'),
    ({'split_shares': (0.02, 0.49, 0.49)}, '--split_shares: .*none for train'),
  ):
    with pytest.raises(UsageError, match=f'^{message}'):
      loaded(**{**table, **changes})
  with pytest.raises(UsageError, match=r'^--ways=3: the data has 2 classes'):
    loaded(recipe=Recipe(ways=3, shots=1, queries=2), **table)
  with pytest.raises(UsageError, match=r'^--shots=3 and --queries=2: class'):
    loaded(recipe=Recipe(ways=2, shots=3, queries=2), **table)


def test_digests_tell_texts_and_names_apart():
  def found(texts, names):
    array = np.empty(len(texts), object)
    array[:] = texts
    data = Texts(array, np.arange(len(texts)) % 3, names)
    return digests(split_by_seed(data, 2, 1, seed=0))['test']

  first = found(['ab', 'c'] * 3, ('x', 'y', 'z'))
  assert found(['ab', 'c'] * 3, ('x', 'y', 'z')) == first
  other = found(['a', 'bc'] * 3, ('x', 'y', 'z'))
  assert (other['names'], other['values'] == first['values']) == (
    first['names'], False
  )  # fmt: skip


@pytest.mark.in_ci
def test_the_baseline_of_words():
  data = loaded()
  problem = Problem(
    name='words', settings=Settings(algorithm='protonet', eval_tasks=8),
    recipe=Recipe(ways=2, shots=1, queries=2), objective=cross_entropy,
    model=Model(lambda key, inputs: (), lambda params, inputs: inputs),
    train=data.train, validation=data.validation, test=data.test,
    metric=ACCURACY, metrics=(), protocol=data.protocol,
    baseline=bag_of_words, draw=lambda *_: None,
  )  # fmt: skip
  outcome = bag_of_words(problem)
  assert outcome['bag_of_words_accuracy'] > 0.6
  assert set(outcome) == {'bag_of_words_accuracy', 'bag_of_words_ci95'}


def test_the_pinned_lists_are_of_classes_alone():
  sizes = {
    'banking77': {'train': 40, 'val': 10, 'test': 27},
    'clinc150': {'train': 60, 'val': 30, 'test': 60},
  }
  for name, parts in sizes.items():
    lists = {
      part: (PINNED / name / f'{part}.txt').read_text().split('\n')[:-1]
      for part in parts
    }
    assert {part: len(lines) for part, lines in lists.items()} == parts
    assert len(set().union(*lists.values())) == sum(parts.values())
    for line in set().union(*lists.values()):
      assert re.fullmatch(r'([a-z_]+/)?[\w?]+', line)
  domains = [{line.split('/')[0] for line in lines} for lines in lists.values()]
  assert domains[2] == {'small_talk', 'travel', 'utility', 'work'}
  assert not domains[0] & domains[1]


def test_real_banking77(shared_data):
  folder = shared_data / 'banking77'
  if not folder.is_dir():
    pytest.skip(f'{folder} is not here')
  data = loaded(dataset='banking77', data_dir=folder)
  assert data.protocol['split'] == (
    '40/10/27 train/validation/test classes by class lists of the project'
  )
  names = json.loads((folder / 'categories.json').read_text())
  order = np.random.default_rng(0).permutation(77)
  tested = sorted(sorted(names)[place] for place in order[:27])
  assert sorted(data.test_classes.names) == tested


@pytest.mark.in_ci
def test_real_clinc150_within_domains_and_out_of_scope(shared_data):
  folder = shared_data / 'clinc150'
  if not folder.is_dir():
    pytest.skip(f'{folder} is not here')
  data = loaded(dataset='clinc150', data_dir=folder, within_groups=True)
  assert data.protocol['split'].startswith('60/30/60 train')
  assert list(map(len, data.text.out_of_scope)) == [100, 100, 1000]
  sample = with_out_of_scope(data.test, data.text.out_of_scope.test, 0.5)
  task = draw_many(sample, jax.random.split(KEY, 3))
  assert is_out_of_scope(task.query.targets).sum(1).tolist() == [4, 4, 4]
