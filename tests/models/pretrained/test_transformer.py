"""Transformers: masks, positions, prompts, prefixes, kernels of any kind."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import CONFIGS, TOKENS, params_of

from metajax.models.pretrained import stack_blocks
from metajax.models.pretrained.attention import attend
from metajax.models.pretrained.transformer import hidden_states, word_logits

every_family = pytest.mark.parametrize('family', CONFIGS)


@functools.cache
def compiled(family: str, rematerialise: bool = False):
  return jax.jit(
    functools.partial(
      hidden_states, CONFIGS[family], rematerialise=rematerialise
    )
  )


def close(one, other, tolerance=1e-6):
  np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@every_family
def test_padding_changes_nothing(family):
  params = params_of(family)
  together = compiled(family)(params, TOKENS)
  close(together[1:, :3], compiled(family)(params, TOKENS[1:, :3]))
  in_front = np.full((1, 6), -1, np.int32)
  in_front[:, :3] = TOKENS[1:, :3]
  in_front[0, 5] = -7  # whatever is below 0
  close(together[1:, :3], compiled(family)(params, in_front)[:, :3])


@every_family
def test_only_causal_models_do_not_see_what_comes_later(family):
  params = params_of(family)
  changed = TOKENS.copy()
  changed[:, 3:] = 1
  change = compiled(family)(params, changed) - compiled(family)(params, TOKENS)
  moved = np.abs(change).max((0, 2)) > 1e-6
  assert moved[3:].all()
  assert moved[:3].any() != CONFIGS[family].causal


@every_family
def test_a_scan_over_stacked_blocks_is_the_same(family):
  params = params_of(family)
  expected = compiled(family)(params, TOKENS)
  close(compiled(family)(stack_blocks(params), TOKENS), expected)


@pytest.mark.in_ci
@pytest.mark.parametrize('stacked', [False, True])
def test_rematerialised_blocks_compute_the_same(stacked):
  params = params_of('llama')
  params = stack_blocks(params) if stacked else params

  def slopes(rematerialise):
    def loss(params):
      apply = compiled('llama', rematerialise)
      return jnp.sum(
        jnp.where(TOKENS[..., None] >= 0, apply(params, TOKENS), 0)
      )

    return jax.jit(jax.grad(loss))(params)

  plain = slopes(False)
  jax.tree.map(lambda a, b: close(a, b, 1e-5), plain, slopes(True))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain))


@pytest.mark.parametrize('stacked', [False, True])
def test_blocks_are_rematerialised_for_a_text_in_front_too(stacked):
  params = params_of('llama')
  params = stack_blocks(params) if stacked else params

  def states(params):
    return hidden_states(
      CONFIGS['llama'], params, TOKENS[:, :3], behind=TOKENS[0],
      rematerialise=True,
    )  # fmt: skip

  traced = jax.make_jaxpr(states)(params).jaxpr
  steps = [
    step
    for each in traced.eqns
    for step in (each.params['jaxpr'].eqns if 'scan' in str(each.primitive)
                 else [each])
  ]  # fmt: skip
  again = [
    step
    for step in steps
    if 'prevent_cse' in step.params
    # No activation, which is computed again in any case.
    and 'dot_general' in str(step.params['jaxpr'])
  ]
  assert len(again) == 2 * (1 if stacked else CONFIGS['llama'].depth)


@every_family
def test_a_prompt_is_as_good_as_tokens_in_front(family):
  params = params_of(family)
  table = params['embeddings']['token']
  prompted = {**params, 'prompt': table[np.array([11, 12])]}
  longer = np.concatenate([np.array([[11, 12]] * 2, np.int32), TOKENS], 1)
  close(
    compiled(family)(prompted, TOKENS), compiled(family)(params, longer)[:, 2:]
  )


@pytest.mark.in_ci
@every_family
def test_a_prefix_is_as_good_as_keys_and_values_in_front(family):
  config = CONFIGS[family]
  params = params_of(family)['block_0']['attention']
  hidden = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
  real = np.array([[True, True, True, True, False]])
  whole = attend(config, params, jnp.asarray(hidden), jnp.asarray(real), None)

  def heads(name):
    made = hidden[0, :2] @ params[name]['kernel'] + params[name].get('bias', 0)
    return made.reshape(2, config.heads_of_keys, config.head_width)

  with jax.numpy_rank_promotion('allow'):
    prefix = {'key': heads('key'), 'value': heads('value')}
  rest = attend(
    config,
    {**params, 'prefix': prefix},
    jnp.asarray(hidden[:, 2:]),
    jnp.asarray(real[:, 2:]),
    None,
  )
  close(rest, whole[:, 2:])


def test_a_prefix_may_be_in_stacked_blocks():
  def with_prefix(block, seed):
    size = (2, 3, CONFIGS['llama'].heads_of_keys, CONFIGS['llama'].head_width)
    drawn = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    prefix = dict(zip(('key', 'value'), drawn, strict=True))
    return {**block, 'attention': {**block['attention'], 'prefix': prefix}}

  params = dict(params_of('llama'))
  before = compiled('llama')(params, TOKENS)
  for index in range(2):
    params[f'block_{index}'] = with_prefix(params[f'block_{index}'], index)
  apart = compiled('llama')(params, TOKENS)
  close(compiled('llama')(stack_blocks(params), TOKENS), apart)
  # The first position of a causal model sees itself, and the prefix.
  assert np.abs(apart - before)[:, 0].max() > 1e-3


class Sum(NamedTuple):
  """A kernel, and what is added to it, that are never added up."""

  kernel: jax.Array
  change: jax.Array

  def __rmatmul__(self, inputs):
    return inputs @ self.kernel + inputs @ self.change


@pytest.mark.parametrize('stacked', [False, True])
def test_a_kernel_is_whatever_multiplies_from_the_right(stacked):
  def replaced(params, make):
    params = dict(params)
    for index in range(2):
      block = params[f'block_{index}']
      query = dict(block['attention']['query'])
      query['kernel'] = make(query['kernel'])
      params[f'block_{index}'] = {
        **block,
        'attention': {**block['attention'], 'query': query},
      }
    return stack_blocks(params) if stacked else params

  params = params_of('llama')
  halves = replaced(params, lambda kernel: Sum(kernel, 0.5 * kernel))
  whole = replaced(params, lambda kernel: 1.5 * kernel)
  close(compiled('llama')(halves, TOKENS), compiled('llama')(whole, TOKENS))


@pytest.mark.in_ci
def test_weights_in_fewer_bits_are_computed_with_in_float32():
  rounded = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params_of('llama')
  )
  widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)
  outputs = compiled('llama')(rounded, TOKENS)
  assert outputs.dtype == jnp.float32
  close(outputs, compiled('llama')(widened, TOKENS))
  low = hidden_states(
    CONFIGS['llama'], rounded, jnp.asarray(TOKENS), dtype=jnp.bfloat16
  )
  assert low.dtype == jnp.bfloat16
  real = TOKENS >= 0
  assert np.abs(low.astype(jnp.float32) - outputs)[real].max() < 0.2


@pytest.mark.in_ci
def test_slopes_are_those_of_central_differences(float64):
  config = CONFIGS['llama']
  params = jax.tree.map(np.float64, params_of('llama'))
  shaped = np.random.default_rng(1).normal(size=(2, 6, 30))
  shaped = shaped * (TOKENS >= 0)[..., None]

  @jax.jit
  def loss(params):
    hidden = hidden_states(config, params, jnp.asarray(TOKENS))
    return jnp.sum(word_logits(config, params, hidden) * shaped)

  slopes = jax.jit(jax.grad(loss))(params)
  generator = np.random.default_rng(2)
  direction = jax.tree.map(
    lambda leaf: generator.normal(size=leaf.shape), params
  )
  ahead, behind = (
    loss(jax.tree.map(lambda x, d, s=s: x + s * d, params, direction))
    for s in (1e-6, -1e-6)
  )
  along = sum(
    np.sum(slope * step)
    for slope, step in zip(
      jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True
    )
  )
  np.testing.assert_allclose((ahead - behind) / 2e-6, along, rtol=1e-6)


def test_a_token_beyond_the_vocabulary_is_no_number():
  tokens = TOKENS.copy()
  tokens[0, 2] = 30
  outputs = np.asarray(compiled('bert')(params_of('bert'), tokens))
  assert np.isnan(outputs[0]).all()
  assert np.isfinite(outputs[1]).all()


@pytest.mark.parametrize(
  ('change', 'tokens', 'message'),
  [
    ({}, np.ones((1, 3), np.float32), 'got float32 of shape (1, 3)'),
    ({}, np.ones(3, np.int32), 'got int32 of shape (3,)'),
    ({}, np.ones((1, 11), np.int32), '11 tokens and a prompt of 0 are more'),
    (
      {'prompt': np.ones((5, 8), np.float32)},
      np.ones((1, 6), np.int32),
      '6 tokens and a prompt of 5 are more than the 10 positions',
    ),
    ({'block_2': {}}, TOKENS, '3 blocks do not fit a configuration of 2'),
  ],
)
def test_what_does_not_fit_is_refused(change, tokens, message):
  params = {**params_of('bert'), **change}
  with pytest.raises(ValueError, match=re.escape(message)):
    hidden_states(CONFIGS['bert'], params, jnp.asarray(tokens))


def test_stacked_blocks_of_another_depth_are_refused():
  params = stack_blocks(params_of('bert'))
  less = {**params, 'blocks': jax.tree.map(lambda x: x[:1], params['blocks'])}
  with pytest.raises(ValueError, match='1 blocks do not fit'):
    hidden_states(CONFIGS['bert'], less, jnp.asarray(TOKENS))
