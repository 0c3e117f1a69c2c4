"""Splitting parameters by path."""

import pickle

import jax
import numpy as np
import pytest

from metajax.inner import partition

PARAMS = {
  'body': {'kernel': np.ones((2, 3)), 'bias': np.zeros(3)},
  'head': {'kernel': np.full((3, 1), 2.0)},
  'headlight': np.arange(4.0),
}


def shapes(tree) -> list[tuple[int, ...]]:
  return [leaf.shape for leaf in jax.tree.leaves(tree)]


def test_the_halves_are_disjoint_and_merge_to_the_whole():
  selected, rest = partition.split(PARAMS, lambda path: 'kernel' in path)
  assert shapes(selected) == [(2, 3), (3, 1)]
  assert shapes(rest) == [(3,), (4,)]
  for whole in (
    partition.merge(selected, rest),
    partition.merge(rest, selected),
  ):
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, whole, PARAMS)


def test_head_selects_the_layer_of_that_name_alone():
  selected, _ = partition.split(PARAMS, partition.head)
  assert shapes(selected) == [(3, 1)]


def test_everything_leaves_no_rest():
  selected, rest = partition.split(PARAMS, partition.everything)
  assert shapes(selected) == shapes(PARAMS)
  assert jax.tree.leaves(rest) == []


def test_a_single_leaf_can_be_split():
  selected, rest = partition.split(3.0, partition.everything)
  assert (selected, rest) == (3.0, None)
  assert partition.merge(selected, rest) == 3.0


def test_no_parameters_at_all_are_nothing_to_complain_of():
  assert partition.split({}, partition.head) == ({}, {})


def test_selecting_nothing_is_refused_with_the_paths_there_are():
  with pytest.raises(ValueError, match='head selects none') as error:
    partition.split({'first': {'kernel': 1.0}, 'last': 2.0}, partition.head)
  assert 'first/kernel, last' in str(error.value)


LAYERS = {
  f'block_{i}': {'attention': {'query': {'kernel': 1.0}, 'value': 2.0}}
  for i in range(50)
}


def test_an_empty_selection_names_some_paths_and_how_many_more():
  with pytest.raises(ValueError, match='and 92 more') as error:
    partition.split(LAYERS, partition.head)
  assert len(str(error.value)) < 500
  assert 'near it' not in str(error.value)


@pytest.mark.parametrize(
  'pattern', ['atention/(query|value)', 'attention/qeury', 'Attention/Query']
)
def test_a_pattern_that_finds_nothing_is_told_what_is_near(pattern):
  with pytest.raises(ValueError, match='near it: block_0/attention/') as error:
    partition.split(LAYERS, partition.matching(pattern))
  assert f'the pattern {pattern!r} selects none' in str(error.value)


def test_a_pattern_that_is_like_nothing_has_nothing_near():
  with pytest.raises(ValueError, match='selects none') as error:
    partition.split(LAYERS, partition.matching('zzz'))
  assert 'near it' not in str(error.value)


def test_a_pattern_is_equal_by_value_and_can_be_pickled():
  select = partition.matching('query|value')
  assert select == partition.matching('query|value')
  assert hash(select) == hash(partition.matching('query|value'))
  assert select != partition.matching('query')
  assert pickle.loads(pickle.dumps(select)) == select


@pytest.mark.parametrize('pattern', ['(', '*', 3, None])
def test_what_is_no_pattern_is_refused(pattern):
  with pytest.raises(ValueError, match='a pattern is a regular expression'):
    partition.matching(pattern)


@pytest.mark.parametrize(
  'name',
  [
    'LayerNorm_0',
    'BatchNorm_1',
    'ln_1',
    'ln_f',
    'ln',
    'LN_2',
    'ln1',
    'input_layernorm',
    'norm',
    'post_attention_layernorm',
    'attention_norm',
    'final_norm',
    'RMSNorm',
  ],
)
def test_layers_of_normalisation_are_known_by_their_names(name):
  assert partition.normalisation(f'block_0/{name}/scale')


@pytest.mark.parametrize('name', ['inln', 'dense', 'line_1', 'lna', 'kernel'])
def test_other_layers_are_not_taken_for_normalisation(name):
  assert not partition.normalisation(f'block_0/{name}/scale')


def test_biases_are_known_by_their_names():
  paths = ['bias', 'a/bias', 'a/input_bias', 'bias/kernel', 'a/scale', 'unbias']
  assert [partition.biases(path) for path in paths] == [True] * 3 + [False] * 3


def test_gradients_of_one_half_have_its_structure():
  selected, rest = partition.split(PARAMS, partition.head)

  def loss(selected):
    whole = partition.merge(selected, rest)
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(whole))

  gradient = jax.grad(loss)(selected)
  assert jax.tree.structure(gradient) == jax.tree.structure(selected)
  np.testing.assert_allclose(gradient['head']['kernel'], np.full((3, 1), 4.0))


def test_repeat_adds_a_leading_axis():
  repeated = partition.repeat({'a': np.arange(2.0), 'b': 1.0}, 3)
  np.testing.assert_array_equal(repeated['a'], [[0, 1]] * 3)
  np.testing.assert_array_equal(repeated['b'], [1, 1, 1])


def test_no_predicate_selects_a_buffer():
  buffers = {
    'constants': {'head': 0.5},
    'head': {'mask': np.ones(2, bool), 'order': np.arange(2, dtype=np.uint8)},
    'number': 3,
  }
  selected, rest = partition.split({'a': PARAMS, **buffers}, partition.head)
  assert shapes(selected) == [(3, 1)]
  assert {name: rest[name] for name in buffers} == buffers


def test_buffers_alone_leave_nothing_to_select():
  selected, rest = partition.split({'order': 3}, partition.head)
  assert jax.tree.leaves(selected) == []
  assert rest == {'order': 3}


@pytest.mark.parametrize(
  ('leaf', 'what'),
  [
    (jax.nn.gelu, 'the function gelu'),
    ('gelu', 'a str'),
    (jax.random.key(0), 'of type key<fry>'),
  ],
)
def test_what_is_no_number_is_refused_by_its_path(leaf, what):
  with pytest.raises(ValueError, match=f'but block/activation is {what}; keep'):
    partition.split(
      {'block': {'activation': leaf, 'kernel': np.ones(2)}},
      partition.everything,
    )
