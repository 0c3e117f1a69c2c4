"""Losses of words: which are hidden, and by what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import CONFIGS

from metajax.base import Model
from metajax.models.pretrained import (
  language_model,
  masked_words,
  next_words,
  text_encoder,
  with_words,
)

KEY = jax.random.key(0)
CONFIG = CONFIGS['bert']
MASK, SPECIAL = 3, (1, 2)


def texts(number: int, length: int = 20) -> np.ndarray:
  generator = np.random.default_rng(0)
  tokens = generator.integers(4, CONFIG.vocabulary, (number, length))
  tokens[:, 0], tokens[:, 15], tokens[:, 16:] = 1, 2, -1
  return tokens.astype(np.int32)


def seen_by(tokens: np.ndarray, share: float = 0.15):
  """What a model is shown, and the loss of one that is sure of nothing."""
  shown = []

  def apply(params, words):
    shown.append(words)
    return jnp.zeros((*words.places.shape, CONFIG.vocabulary))

  model = Model(lambda key, inputs: (), apply)
  loss = masked_words(model, CONFIG, MASK, SPECIAL, share=share)(
    KEY, (), tokens
  )
  return shown[0], loss


def test_words_are_hidden_as_bert_hides_them():
  tokens = texts(4000)
  words, loss = seen_by(tokens)
  changed = np.asarray(words.tokens) != tokens
  assert not changed[:, [0, *range(15, 20)]].any()
  # Two of 14 words of each text, of which a tenth stay as they are.
  assert changed.sum(1).max() == 2
  rows = np.asarray(words.tokens)[changed]
  chosen = 2 * len(tokens)
  assert abs((rows == MASK).sum() / chosen - 0.8) < 0.02
  assert abs((rows != MASK).sum() / chosen - 0.1) < 0.02
  np.testing.assert_allclose(loss, np.log(CONFIG.vocabulary), rtol=1e-5)


@pytest.mark.in_ci
def test_a_text_without_words_has_no_loss():
  tokens = np.array([[1, 2, -1, -1]], np.int32)
  words, loss = seen_by(tokens)
  assert (np.asarray(words.tokens) == tokens).all()
  assert loss == 0
  # Of a single word there is one to be hidden.
  one = np.array([[1, 9, 2, -1]], np.int32)
  assert seen_by(one)[1] > 0


@pytest.mark.in_ci
def test_next_words_are_those_of_numpy():
  config = CONFIGS['llama']
  model = language_model(config)
  tokens = np.array([[5, 6, 7, 8], [5, 6, -1, -1]], np.int32)
  params = jax.jit(model.init)(KEY, tokens)
  scores = np.asarray(jax.jit(model.apply)(params, tokens), np.float64)
  logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
  pairs = [(0, 0, 6), (0, 1, 7), (0, 2, 8), (1, 0, 6)]
  expected = -np.mean([logs[pair] for pair in pairs])
  loss = jax.jit(next_words(model, config))
  found = loss(KEY, params, tokens)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert next_words(model, config)(KEY, params, tokens[1:, :1]) == 0


def test_a_word_behind_padding_is_predicted_by_none():
  def apply(params, tokens):  # sure of the right words, and of one behind -1
    wrong = jnp.roll(tokens, -1, 1).at[tokens < 0].add(1)
    return 100 * jax.nn.one_hot(wrong, 30)

  loss = next_words(Model(lambda key, inputs: (), apply), CONFIGS['gpt2'])
  for tokens in ([[-1, 5, 6, 7]], [[-1, -1, 5, 6]], [[5, 6, -1, 7]]):
    assert loss(KEY, (), np.array(tokens, np.int32)) < 1e-3


def test_an_encoder_has_what_predicts_words_among_its_parameters():
  tokens = texts(2)
  model = with_words(text_encoder(CONFIG), CONFIG)
  shapes = jax.eval_shape(model.init, KEY, tokens)
  words = jax.eval_shape(language_model(CONFIG).init, KEY, tokens)
  assert jax.tree.structure(shapes) == jax.tree.structure(words)
  decoder = CONFIGS['llama']
  same = with_words(text_encoder(decoder), decoder)
  assert 'masked_words' not in jax.eval_shape(same.init, KEY, tokens)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((CONFIGS['gpt2'], 3), 'gpt2 is causal: it sees no word behind'),
    ((CONFIG, CONFIG.vocabulary), 'mask must be a token, from 0 to'),
    ((CONFIG, -1), 'mask must be a token'),
  ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    masked_words(language_model(CONFIG), *arguments)


def test_a_model_that_sees_the_next_word_is_refused():
  with pytest.raises(ValueError, match='bert is not causal: it sees the word'):
    next_words(language_model(CONFIG), CONFIG)


@pytest.mark.parametrize('share', [0.0, 1.0, float('nan')])
def test_shares_that_cannot_be_meant_are_refused(share):
  with pytest.raises(ValueError, match='share must be above 0 and below 1'):
    masked_words(language_model(CONFIG), CONFIG, 3, share=share)
