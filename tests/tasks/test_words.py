"""Words as tokens."""

import numpy as np
import pytest

from metajax.tasks.errors import DataError
from metajax.tasks.words import pad_tokens, word_tokenizer


def test_long_texts_are_cut_off_and_counted():
  tokens, truncated = pad_tokens([[1] * 20, [2] * 17, [3]], max_tokens=17)
  assert (tokens.shape, truncated, tokens.dtype) == ((3, 17), 1, np.int32)
  assert tokens[2].tolist() == [3] + [-1] * 16
  assert pad_tokens([[1] * 20])[0].shape == (1, 24)


def test_what_training_has_not_is_unknown():
  tokenize = word_tokenizer(['Pay the BILL, pay'], max_words=3)
  assert tokenize.words == ('pay', ',', 'bill')  # the first by alphabet
  assert tokenize.vocabulary == 4
  tokens, _ = tokenize(['pay the bill <unknown>'], 16)
  assert tokens[0, :7].tolist() == [1, 0, 3, 0, 0, 0, -1]
  assert tokenize.decode(tokens[0, :3]) == 'pay <unknown> bill'


def test_what_is_refused():
  for make, message in (
    (lambda: pad_tokens([]), 'there is no text'),
    (lambda: pad_tokens([[1]], 0), 'max_tokens=0: must be 1 or more'),
    (lambda: pad_tokens([[1], []]), 'text 1 of 2 has no tokens: leave empty'),
    (lambda: word_tokenizer('a b'), 'give a list of texts, not one text'),
    (lambda: word_tokenizer(['a'])('a b'), 'give a list of texts, not one'),
    (lambda: word_tokenizer(['a'])(['a', ' ']), 'text 1 of 2 has no tokens'),
    (lambda: word_tokenizer([' ']), 'there is no word'),
    (lambda: word_tokenizer(['a'], 0), 'max_words=0: must be 1 or more'),
    (lambda: word_tokenizer(['a']).decode([2]), 'no token 2; they go from 0'),
    (lambda: word_tokenizer(['a']).decode([-2]), 'no token -2'),
  ):
    with pytest.raises(DataError, match=message):
      make()
