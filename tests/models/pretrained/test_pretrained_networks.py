"""Transformers as models: pooling, heads, equality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import CONFIGS, TOKENS, params_of

import metajax
from metajax.models.pretrained import add_head, language_model, text_encoder
from metajax.models.pretrained.transformer import hidden_states


def close(one, other):
  np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@functools.cache
def hidden(family: str) -> np.ndarray:
  apply = jax.jit(functools.partial(hidden_states, CONFIGS[family]))
  return np.asarray(apply(params_of(family), TOKENS))


@pytest.mark.parametrize(
  ('family', 'pool', 'expected'),
  [
    ('bert', 'mean', lambda states: states.mean(0)),
    ('bert', 'first', lambda states: states[0]),
    ('gpt2', 'last', lambda states: states[-1]),
    ('llama', 'last', lambda states: states[-1]),
  ],
)
def test_features_are_of_real_tokens_alone(family, pool, expected):
  model = text_encoder(CONFIGS[family], pool=pool)
  features = jax.jit(model.apply)(params_of(family), TOKENS)
  for index, states in enumerate(hidden(family)):
    close(features[index], expected(states[TOKENS[index] >= 0]))


def test_features_of_unit_length_and_of_texts_without_tokens():
  model = text_encoder(CONFIGS['bert'], normalise=True)
  tokens = np.array([[3, 4], [-1, -1]], np.int32)

  @jax.jit
  def features_and_slopes(params):
    def total(params):
      features = model.apply(params, tokens)
      return jnp.sum(features[:, 0]), features

    return jax.value_and_grad(total, has_aux=True)(params)

  (_, features), slopes = features_and_slopes(params_of('bert'))
  close(np.linalg.norm(features[0]), 1)
  np.testing.assert_array_equal(features[1], 0)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize('outputs', [1, 3])
def test_a_head_of_another_number_of_outputs_is_refused(outputs):
  model = text_encoder(CONFIGS['bert'], 5)
  params = add_head(jax.random.key(0), params_of('bert'), outputs)
  with pytest.raises(ValueError, match=f'has {outputs} outputs, and the mod'):
    jax.eval_shape(model.apply, params, TOKENS)


@pytest.mark.in_ci
def test_a_head_is_linear_in_features_and_has_to_be_given():
  model = text_encoder(CONFIGS['bert'], 3)
  params = params_of('bert')
  with pytest.raises(ValueError, match=r'no head of 3 outputs.*add_head'):
    model.apply(params, jnp.asarray(TOKENS))
  params = add_head(jax.random.key(0), params, 3)
  outputs = jax.jit(model.apply)(params, TOKENS)
  features = jax.jit(text_encoder(CONFIGS['bert']).apply)(params, TOKENS)
  close(outputs, features @ params['head']['kernel'])
  drawn = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  assert jax.tree.structure(drawn) == jax.tree.structure(params)


@pytest.mark.parametrize('family', CONFIGS)
def test_what_is_drawn_has_the_form_of_what_is_loaded(family):
  model = language_model(CONFIGS[family])
  drawn = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  loaded = params_of(family, masked_words=True)
  assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, loaded)
  logits = jax.eval_shape(model.apply, drawn, TOKENS)
  assert logits.shape == (*TOKENS.shape, 30)


def test_words_are_scored_by_token_embeddings_where_those_are_tied():
  params = params_of('gpt2')
  logits = jax.jit(language_model(CONFIGS['gpt2']).apply)(params, TOKENS)
  close(logits, hidden('gpt2') @ params['embeddings']['token'].T)


@pytest.mark.in_ci
def test_an_output_embedding_that_is_not_there_is_missed():
  params = dict(params_of('llama'))
  del params['output_embedding']
  with pytest.raises(ValueError, match='no output_embedding'):
    language_model(CONFIGS['llama']).apply(params, jnp.asarray(TOKENS))


def test_models_made_alike_are_equal():
  config = CONFIGS['bert']
  assert text_encoder(config, 3) == text_encoder(config, num_outputs=3)
  assert text_encoder(config, 3) != text_encoder(config, 4)
  assert language_model(config) != language_model(CONFIGS['gpt2'])


@pytest.mark.in_ci
def test_an_encoder_learns_by_any_method():
  model = text_encoder(CONFIGS['bert'], 2)
  learner = metajax.maml(
    model, metajax.cross_entropy, inner_lr=0.1, num_steps=2
  )
  batch = metajax.Batch(TOKENS, np.array([0, 1], np.int32))
  tasks = metajax.Task(*2 * [jax.tree.map(lambda leaf: leaf[None], batch)])
  params = add_head(jax.random.key(0), params_of('bert'), 2)
  gradient, metrics = jax.jit(learner.grad)(jax.random.key(1), params, tasks)
  assert np.isfinite(metrics['loss'])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  ('family', 'pool', 'message'),
  [
    ('bert', 'max', "'mean', 'first' or 'last', got 'max'"),
    ('gpt2', 'first', 'sees no other'),
  ],
)
def test_pooling_that_cannot_be_is_refused(family, pool, message):
  with pytest.raises(ValueError, match=message):
    text_encoder(CONFIGS[family], pool=pool)
