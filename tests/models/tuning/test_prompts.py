"""Prompts and prefixes: where they stand, and where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_transformer as plain
import pytest

from metajax.models import prefix, quantise, soft_prompt

PARAMS = plain.drawn()
KEY = jax.random.key(0)


def test_a_prompt_starts_as_tokens_of_the_vocabulary():
  learned = soft_prompt(5).init(KEY, PARAMS)
  table = PARAMS['embeddings']['token']
  distances = np.abs(np.asarray(learned)[:, None] - table[None]).sum(-1)
  np.testing.assert_array_equal(distances.min(1), 0)
  assert len(np.unique(distances.argmin(1))) > 1
  half = {'embeddings': {'token': jnp.asarray(table, jnp.bfloat16)}}
  assert soft_prompt(5).init(KEY, half).dtype == jnp.float32


@pytest.mark.in_ci
def test_a_prompt_of_tokens_is_those_tokens_in_front():
  adapt = soft_prompt(3)
  ids = np.asarray([[4, 1, 2]] * 4)
  learned = PARAMS['embeddings']['token'][ids[0]]
  np.testing.assert_allclose(
    plain.apply(adapt.combine(PARAMS, learned), plain.TOKENS),
    plain.apply(PARAMS, np.concatenate([ids, plain.TOKENS], 1)),
    atol=1e-6,
  )
  assert 'prompt' not in PARAMS


@pytest.mark.in_ci
@pytest.mark.parametrize('made', [dict, quantise])
def test_a_prefix_is_small_and_attended_to_in_every_block(made):
  params = made(PARAMS)
  adapt = prefix(3, plain.HEADS)
  learned = adapt.init(KEY, params)
  assert {*learned} == {'block_0/attention', 'block_1/attention'}
  values = np.concatenate([x.ravel() for x in jax.tree.leaves(learned)])
  assert len(np.unique(values)) == len(values) == 2 * 2 * 3 * plain.WIDTH
  assert 0.01 < values.std() < 0.03
  gradient = jax.grad(
    lambda x: plain.apply(adapt.combine(params, x), plain.TOKENS)[:, 0].sum()
  )(learned)
  assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(gradient))


def test_stacked_blocks_have_the_prefix_of_single_ones():
  adapt = prefix(3, plain.HEADS)
  learned = adapt.init(KEY, PARAMS)
  stacked = plain.stacked(PARAMS)
  own = adapt.init(KEY, stacked)
  assert own['blocks/attention']['key'].shape == (2, 3, plain.HEADS, 4)
  each = [learned[f'block_{i}/attention'] for i in range(2)]
  together = {'blocks/attention': jax.tree.map(lambda *x: np.stack(x), *each)}
  np.testing.assert_allclose(
    plain.apply(adapt.combine(stacked, together), plain.TOKENS),
    plain.apply(adapt.combine(PARAMS, learned), plain.TOKENS),
    atol=1e-5,
  )


@pytest.mark.parametrize('length', [0, -1, 1.0, True, None])
def test_what_is_no_length_is_refused(length):
  with pytest.raises(ValueError, match='length of a prompt must be a whole'):
    soft_prompt(length)
  with pytest.raises(ValueError, match='length of a prefix must be a whole'):
    prefix(length, 2)
  with pytest.raises(ValueError, match='heads must be a whole number from 1'):
    prefix(1, length)


@pytest.mark.parametrize(
  ('tuning', 'params', 'message'),
  [
    (soft_prompt(2), {'inputs': np.ones((3, 2))}, 'with embeddings/token.*inp'),
    (soft_prompt(2), [np.ones((3, 2))], 'with embeddings/token among'),
    (soft_prompt(2), {**PARAMS, 'prompt': np.ones((1, 8))}, 'a prompt already'),
    (prefix(2, 2), {'head': PARAMS['head']}, 'blocks have attention/key/kern'),
    (
      prefix(2, 3),
      PARAMS,
      '3 heads do not divide the 8 outputs of block_0/',
    ),
  ],
)
def test_parameters_that_would_not_read_it_are_refused(tuning, params, message):
  with pytest.raises(ValueError, match=message):
    tuning.init(KEY, params)


def test_a_second_prefix_is_refused():
  adapt = prefix(1, 2)
  combined = adapt.combine(PARAMS, adapt.init(KEY, PARAMS))
  with pytest.raises(ValueError, match='block_0/attention has a prefix alr'):
    adapt.init(KEY, combined)
