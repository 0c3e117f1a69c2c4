"""Texts as token ids: lengths, padding, truncation, what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from small_transformers import CONFIGS, WORDS, text_of

from metajax.models.pretrained import TextError, Tokenizer, read_tokenizer


def wide(**changes) -> Tokenizer:
  """With 600 positions."""
  config = dataclasses.replace(CONFIGS['bert'], max_length=600)
  return Tokenizer(text_of(**changes), config)


def test_padding_is_what_is_no_token_whatever_the_file_says():
  tokens, truncated = wide().encode(['a b', 'c'])
  assert tokens.dtype == np.int32
  assert tokens.shape == (2, 16)
  assert tokens[0, :5].tolist() == [1, 4, 5, 2, -1]
  assert tokens[1, :4].tolist() == [1, 6, 2, -1]
  assert (tokens[:, 5:] == -1).all()
  assert truncated == 0


@pytest.mark.parametrize(
  ('words', 'length'), [(14, 16), (15, 24), (150, 192), (590, 600)]
)
def test_the_length_is_the_smallest_that_holds_all(words, length):
  tokens, truncated = wide().encode(['a ' * words, 'b'])
  assert tokens.shape == (2, length)
  assert (tokens[0] >= 0).sum() == words + 2
  assert truncated == 0


def test_what_is_too_long_loses_its_end_and_is_counted():
  tokenizer = Tokenizer(text_of(), CONFIGS['bert'])  # of 10 positions
  tokens, truncated = tokenizer.encode(['a b ' * 10, 'c', 'b a ' * 10])
  assert tokens.shape == (3, 10)
  assert tokens[0].tolist() == [1, *[4, 5] * 4, 2]
  assert truncated == 2
  tokens, truncated = tokenizer.encode(['a b c', 'c'], max_length=4)
  assert tokens.tolist() == [[1, 4, 5, 2], [1, 6, 2, -1]]
  assert truncated == 1
  # It forgets what the last call asked for.
  assert tokenizer.encode(['a b c']).truncated == 0


def test_texts_and_tokens_by_name():
  tokenizer = wide()
  assert tokenizer.id_of('[SEP]') == 2
  tokens, _ = tokenizer.encode(['a b'])
  assert tokenizer.decode(tokens[0]).split() == ['[CLS]', 'a', 'b', '[SEP]']
  assert tokenizer.encode([]).tokens.shape == (0, 16)
  with pytest.raises(ValueError, match=r"no token '\[MASK\]'"):
    tokenizer.id_of('[MASK]')


@pytest.mark.parametrize(
  ('texts', 'message'),
  [
    (['a', ''], r"no token for the text '' \(and 0 others"),
    (['', 'a', ' \n'], r"no token for the text '' \(and 1 others"),
    ('a b', 'a list of texts, not one'),
    (['a', None], 'text 1 of 2 is no text but NoneType'),
    ([b'a'], 'is no text but bytes'),
    (['a', 'b\ud800'], 'text 1 of 2 has half of a surrogate pair'),
  ],
)
@pytest.mark.parametrize('special', [True, False])
def test_what_is_no_text_is_refused(texts, message, special):
  with pytest.raises(TextError, match=message):
    wide(special=special).encode(texts)


@pytest.mark.parametrize('max_length', [0, 2, -1, 601])
def test_lengths_that_hold_no_text_or_no_model_has_are_refused(max_length):
  with pytest.raises(ValueError, match=f'from 3 .* to 600.*got {max_length}'):
    wide().encode(['a'], max_length)


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
  words = [*WORDS, *map(str, range(24))]
  assert len(words) == 31
  path = tmp_path / 'tokenizer.json'
  path.write_text(text_of(words))
  message = (
    "tokenizer.json: its token '23' has the id 30, but the model knows 30"
  )
  with pytest.raises(ValueError, match=message):
    read_tokenizer(path, CONFIGS['bert'])
  path.write_text(text_of(words[:-1]))
  read_tokenizer(path, CONFIGS['bert'])


@pytest.mark.parametrize('text', ['', '{}', 'null', json.dumps(WORDS)])
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path, text):
  path = tmp_path / 'tokenizer.json'
  path.write_text(text)
  with pytest.raises(ValueError, match='it is no tokenizer') as caught:
    read_tokenizer(path, CONFIGS['bert'])
  assert '\n' not in str(caught.value)
