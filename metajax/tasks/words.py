"""Words as tokens, for models that learn a language from nothing.

Tokens are int32 `[texts, length]`, with -1 where there is none, at the end.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from metajax.models.lengths import bucket
from metajax.tasks.errors import DataError

__all__ = [
  'NO_TOKEN',
  'WordTokenizer',
  'pad_tokens',
  'split_words',
  'word_tokenizer',
]

NO_TOKEN = -1
_WORD = re.compile(r'\w+|[^\w\s]')
_UNKNOWN = '<unknown>'  # never a word: it would be three


def split_words(text: str) -> list[str]:
  """The words of a text in small letters, and its marks, which are words too.

  Example:
    >>> split_words("Don't stop, please!")
    ['don', "'", 't', 'stop', ',', 'please', '!']
  """
  return _WORD.findall(text.lower())


def pad_tokens(
  tokens: Sequence[Sequence[int]], max_tokens: int | None = None
) -> tuple[np.ndarray, int]:
  """Tokens of texts as one array, of the smallest length that holds all.

  Args:
    tokens: those of each text.
    max_tokens: cut off what is longer.

  Returns:
    int32 `[texts, length]` with -1 for padding, where the length is a `bucket`,
    or `max_tokens` if that is less; and how many texts were cut off.

  Raises:
    DataError: if `max_tokens` is not positive, there is no text, or one without
      a token.

  Example:
    >>> array, truncated = pad_tokens([[5, 6], [7]], max_tokens=3)
    >>> array.tolist(), truncated
    ([[5, 6, -1], [7, -1, -1]], 0)
  """
  if max_tokens is not None and max_tokens < 1:
    raise DataError(f'max_tokens={max_tokens}: must be 1 or more', 'max_tokens')
  if not tokens:
    raise DataError('there is no text to make tokens of')
  for number, each in enumerate(tokens):
    if not len(each):
      raise DataError(
        f'text {number} of {len(tokens)} has no tokens: leave empty texts out'
      )
  length = bucket(max(map(len, tokens)))
  length = length if max_tokens is None else min(length, max_tokens)
  array = np.full((len(tokens), length), NO_TOKEN, np.int32)
  for row, each in zip(array, tokens, strict=True):
    row[: len(each)] = each[:length]
  return array, sum(len(each) > length for each in tokens)


class WordTokenizer(NamedTuple):
  """Numbers words; 0 is every word that it does not know.

  Example:
    >>> tokenize = word_tokenizer(['pay the bill', 'pay me'])
    >>> tokens, truncated = tokenize(['pay him the bill'], max_tokens=4)
    >>> tokens.tolist(), tokenize.decode(tokens[0])
    ([[1, 0, 4, 2]], 'pay <unknown> the bill')
  """

  words: tuple[str, ...]  # of the tokens from 1

  @property
  def vocabulary(self) -> int:
    """How many tokens there are: ids are below it."""
    return len(self.words) + 1

  def __call__(
    self, texts: Iterable[str], max_tokens: int | None = None
  ) -> tuple[np.ndarray, int]:
    """Turns texts into tokens, see `pad_tokens`.

    Raises:
      DataError: as `pad_tokens`, or if it is one text, and no list of them.
    """
    _check_list(texts)
    ids = {word: number for number, word in enumerate(self.words, start=1)}
    return pad_tokens(
      [[ids.get(word, 0) for word in split_words(text)] for text in texts],
      max_tokens,
    )

  def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
    """The words of tokens, with blanks between them.

    Raises:
      DataError: if there is no such token.
    """
    known = (_UNKNOWN, *self.words)
    numbers = [int(token) for token in tokens if token != NO_TOKEN]
    for number in numbers:
      if not 0 <= number < len(known):
        raise DataError(
          f'there is no token {number}; they go from 0 to {len(known) - 1}'
        )
    return ' '.join(known[number] for number in numbers)


def _check_list(texts: Iterable[str]) -> None:
  if isinstance(texts, str):  # or its letters would be texts
    raise DataError('give a list of texts, not one text')


def word_tokenizer(
  texts: Iterable[str], max_words: int = 10_000
) -> WordTokenizer:
  """Makes a tokenizer of the words of texts, such as those of training.

  Args:
    texts: what it is to know.
    max_words: the most common of their words; what is rarer is unknown.

  Returns:
    A tokenizer that numbers the most common word 1, or of those that are
    equally common the first of the alphabet.

  Raises:
    DataError: if `max_words` is not positive, if there is no word, or if it is
      one text, and no list of them.

  Example:
    >>> word_tokenizer(['a b', 'b']).words
    ('b', 'a')
  """
  if max_words < 1:
    raise DataError(f'max_words={max_words}: must be 1 or more', 'max_words')
  _check_list(texts)
  counts = Counter(word for text in texts for word in split_words(text))
  if not counts:
    raise DataError('there is no word in these texts')
  ordered = sorted(counts, key=lambda word: (-counts[word], word))
  return WordTokenizer(tuple(ordered[:max_words]))
