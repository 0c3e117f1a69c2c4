"""Parts of the parameters, and several tunings at once."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import plain_transformer as plain
import pytest

from metajax.inner import partition
from metajax.models import (
  fold,
  last,
  lora,
  only,
  prefix,
  quantise,
  soft_prompt,
  together,
)
from metajax.models.modes import takes_key
from metajax.models.tuning import Tuning

PARAMS = plain.drawn(depth=3)
KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ('select', 'names', 'number'),
  [
    (partition.biases, {'bias'}, 3 * 8 + 2),
    (partition.normalisation, {'scale', 'bias'}, 3 * 4 + 2),
    (partition.head, {'kernel', 'bias'}, 2),
    (partition.everything, {'kernel', 'bias', 'scale', 'token'}, 3 * 16 + 5),
    ('query/kernel', {'kernel'}, 3),
  ],
)
def test_what_is_selected_is_copied_and_put_in_its_place(select, names, number):
  adapt = only(select)
  learned = adapt.init(KEY, PARAMS)
  assert len(learned) == number
  assert {path.split('/')[-1] for path in learned} == names
  same = adapt.combine(PARAMS, learned)
  jax.tree.map(np.testing.assert_array_equal, same, PARAMS)
  moved = adapt.combine(PARAMS, plain.moved(learned))

  def compare(path, before, after):
    assert np.array_equal(before, after) == (path not in learned), path

  partition.map_with_path(compare, PARAMS, moved)
  folded = fold(adapt, PARAMS, plain.moved(learned))
  jax.tree.map(np.testing.assert_array_equal, folded, moved)


def test_a_copy_is_kept_in_more_bits_than_the_base():
  params = {'bias': jnp.ones(2, jnp.bfloat16)}
  adapt = only(partition.everything)
  learned = adapt.init(KEY, params)
  assert learned['bias'].dtype == jnp.float32
  assert adapt.combine(params, learned)['bias'].dtype == jnp.bfloat16


def test_the_last_blocks_have_what_is_behind_them():
  learned = only(last(2)).init(KEY, PARAMS)
  parts = {path.split('/')[0] for path in learned}
  assert parts == {'block_1', 'block_2', 'final_norm', 'head'}
  assert 'block_0' in {
    path.split('/')[0] for path in only(last(3)).init(KEY, PARAMS)
  }


def test_the_last_of_stacked_blocks_are_those_of_single_ones():
  stacked, adapt = plain.stacked(PARAMS), only(last(2))
  learned = plain.moved(adapt.init(KEY, stacked))
  assert {len(x) for path, x in learned.items() if 'blocks' in path} == {2}
  single = {
    path: leaf for path, leaf in learned.items() if 'blocks' not in path
  }
  for path, leaf in learned.items():
    for index in range(2 * ('blocks' in path)):
      single[path.replace('blocks', f'block_{index + 1}')] = leaf[index]
  moved = adapt.combine(stacked, learned)
  expected = plain.stacked(adapt.combine(PARAMS, single))
  jax.tree.map(np.testing.assert_array_equal, moved, expected)


def test_blocks_are_found_wherever_they_are():
  params = {
    'params': {
      **{
        f'{name}_{i}': {'kernel': np.full((2, 2), float(i))}
        for name in ('ResidualBlock', 'text/block')
        for i in range(12)
      },
      'LayerNorm_0': {'scale': np.ones(2)},
      'embed_norm': {'scale': np.ones(2)},
    },
    'head': np.ones(2),
  }
  assert {*only(last(2)).init(KEY, params)} == {
    *(f'params/{name}_{i}/kernel' for name in ('ResidualBlock', 'text/block')
      for i in (10, 11)),
    'params/LayerNorm_0/scale', 'params/embed_norm/scale',
  }  # fmt: skip


def test_several_tunings_are_one():
  params, adapt = (
    PARAMS,
    together(
      lora(2), only('head|norm'), soft_prompt(2), prefix(1, plain.HEADS)
    ),
  )
  learned = adapt.init(KEY, params)
  assert isinstance(learned, tuple)
  assert len(learned) == 4
  first = adapt.combine(params, learned)
  assert {'prompt', 'block_0'} < {*first}
  gradient = jax.jit(
    jax.grad(
      lambda x: jnp.sin(
        plain.apply(adapt.combine(params, x), plain.TOKENS)
      ).sum()
    )
  )(plain.moved(learned))
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_a_key_goes_to_those_that_want_one():
  plain_one, dropping = only(partition.head), lora(2, dropout=0.5)
  assert not takes_key(together(plain_one, lora(2)).combine)
  both = together(plain_one, dropping, lora(2, 'key', dropout=0.5))
  assert takes_key(both.combine)
  learned = both.init(KEY, PARAMS)
  layer = both.combine(PARAMS, learned, KEY)['block_0']['attention']
  keys = [layer[name]['kernel'].dropout_key for name in ('query', 'key')]
  assert not np.array_equal(*keys)
  assert both.combine(PARAMS, learned)['block_0']['attention']['query'][
    'kernel'
  ].dropout_key is None  # fmt: skip


def test_parts_are_equal_by_value_and_can_be_pickled():
  def make(depth):
    return together(
      only(last(depth)), only(partition.matching('token')), prefix(1, 2)
    )

  assert make(2) == make(2)
  assert make(2) != make(1)
  assert pickle.loads(pickle.dumps(make(2))) == make(2)


@pytest.mark.parametrize('number', [0, -1, 1.5, True, None])
def test_what_is_no_number_of_blocks_is_refused(number):
  with pytest.raises(ValueError, match='must be a whole number from 1'):
    last(number)


@pytest.mark.parametrize(
  ('tuning', 'params', 'message'),
  [
    (only('hed/'), PARAMS, 'selects none.*near it: head/'),
    (only('order'), {**PARAMS, 'order': np.arange(2)}, 'selects none'),
    (only(last(4)), PARAMS, r'last\(4\) is more than the 3 blocks'),
    (only(last(4)), plain.stacked(PARAMS), r'is more than the 3 blocks'),
    (only(last(1)), {'head': np.ones(2)}, 'networks of blocks, called block_0'),
    (
      together(lora(2), only(partition.everything)),
      PARAMS,
      'tunings 1 and 2 both adapt block_0/attention/query/kernel',
    ),
    (
      together(only(partition.head), only('bias$')),
      PARAMS,
      'tunings 1 and 2 both adapt head/bias',
    ),
    (together(lora(2), lora(1)), PARAMS, 'tunings 1 and 2 both adapt'),
  ],
)
def test_what_cannot_adapt_is_refused(tuning, params, message):
  with pytest.raises(ValueError, match=message) as error:
    tuning.init(KEY, params)
  assert len(str(error.value)) < 600


def test_quantised_kernels_are_not_learned_themselves():
  with pytest.raises(ValueError, match='everything selects kernels that are q'):
    only(partition.everything).init(KEY, quantise(PARAMS))


def test_two_prompts_are_refused():
  with pytest.raises(ValueError, match='prompt'):
    together(soft_prompt(1), soft_prompt(2)).init(KEY, PARAMS)


@pytest.mark.parametrize('tunings', [(), (lora,), (lora(2), partition.head)])
def test_what_is_no_tuning_is_refused(tunings):
  with pytest.raises(ValueError, match='tuning'):
    together(*tunings)


def test_which_blocks_are_the_last_no_path_says():
  with pytest.raises(ValueError, match=r'give only\(last\(2\)\)'):
    last(2)('block_0/kernel')


def test_a_part_of_what_has_adapters_by_now_is_refused():
  adapt, kernel = lora(2), only('query/kernel')
  learned = kernel.init(KEY, PARAMS)
  adapted = adapt.combine(PARAMS, adapt.init(KEY, PARAMS))
  with pytest.raises(ValueError, match='query/kernel has adapters'):
    kernel.combine(adapted, learned)


def test_what_was_learned_of_other_shapes_is_refused():
  for path, own in (
    ('head/bias', (2,)),  # of fewer classes
    ('head/bias', ()),
    ('head/bias', (7,)),
    ('blocks/feed_forward/in/bias', (1, 3)),
    ('blocks/feed_forward/in/bias', (3,)),
    ('blocks/feed_forward/in/bias', (4, 16)),
  ):
    learned = {path: jnp.ones(own)}
    with pytest.raises(ValueError, match=rf'{path} has the shape .*there is'):
      only('bias').combine(plain.stacked(PARAMS), learned)


def test_anyone_may_write_a_tuning():
  shift = Tuning(
    lambda key, params: jnp.zeros(3),
    lambda params, learned: {**params, 'shift': learned},
  )
  learned = together(shift, lora(1)).init(KEY, PARAMS)
  assert learned[0].shape == (3,)
