"""Texts as token ids, by the tokenizer.json of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metajax.models.lengths import bucket
from metajax.models.pretrained.config import TransformerConfig

__all__ = ['Encoded', 'TextError', 'Tokenizer', 'read_tokenizer']


class TextError(ValueError):
  """A text that cannot be tokens; the message says which."""


class Encoded(NamedTuple):
  """Texts as token ids."""

  tokens: np.ndarray  # int32 [texts, length], -1 where there is no token
  truncated: int  # how many texts were longer than that


class Tokenizer:
  """Makes token ids of texts, as the model has learned them.

  Truncation and padding of tokenizer.json are not used: many of them fix both
  at 128, whatever the model and the texts. Special tokens are added as it says.

  Args:
    text: of a tokenizer.json.
    config: of the transformer that the ids are for.

  Raises:
    ValueError: if it is no tokenizer, or has ids beyond the vocabulary.
  """

  def __init__(self, text: str, config: TransformerConfig) -> None:
    try:
      import tokenizers
    except ImportError:
      raise ImportError(
        "texts need tokenizers; install it with: pip install 'metajax[text]'"
      ) from None
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # it raises nothing more precise
      reason = str(error).partition('\n')[0]
      raise ValueError(f'it is no tokenizer ({reason})') from error
    self._max_length = config.max_length
    ids = self._tokenizer.get_vocab(with_added_tokens=True)
    if not ids:
      raise ValueError('it has no tokens')
    highest = max(ids, key=lambda token: ids[token])
    if ids[highest] >= config.vocabulary:
      raise ValueError(
        f'its token {highest!r} has the id {ids[highest]}, but the model knows'
        f' {config.vocabulary} tokens: tokenizer and weights are not of one'
        ' model'
      )
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    self.text = text  # that it was made from

  def encode(
    self, texts: Sequence[str], max_length: int | None = None
  ) -> Encoded:
    """Token ids of texts, padded to a common length.

    Args:
      texts: any number of them, none empty.
      max_length: the most tokens of a text, special ones included; what is
        longer loses its end. None: as many as the model has positions for.

    Returns:
      The ids, of the smallest of 16, 24, 32, 48, 64, 96, ... that holds all of
      them, and at most `max_length`; and how many texts were truncated.

    Raises:
      TextError: if a text is no text or has no tokens.
      ValueError: if `max_length` leaves no room for any or is more than the
        model has positions for.
    """
    longest = self._max_length if max_length is None else max_length
    special = self._tokenizer.num_special_tokens_to_add(False)
    if not special < longest <= self._max_length:
      raise ValueError(
        f'max_length must be from {special + 1} (of which {special} are'
        f' special tokens) to {self._max_length}, which the model has positions'
        f' for; got {max_length}'
      )
    texts = _checked(texts)
    self._tokenizer.enable_truncation(longest, direction='right')
    try:
      encodings = self._tokenizer.encode_batch(texts)
    finally:
      self._tokenizer.no_truncation()
    empty = [
      text
      for text, each in zip(texts, encodings, strict=True)
      if all(each.special_tokens_mask)
    ]
    if empty:
      raise TextError(
        f'the tokenizer has no token for the text {empty[0][:80]!r} (and'
        f' {len(empty) - 1} others); leave such texts out'
      )
    most = max((len(each) for each in encodings), default=1)
    tokens = np.full((len(texts), min(bucket(most), longest)), -1, np.int32)
    for row, each in zip(tokens, encodings, strict=True):
      row[: len(each)] = each.ids
    return Encoded(tokens, sum(bool(each.overflowing) for each in encodings))

  def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of token ids, without special ones and where there is none."""
    ids = [int(each) for each in tokens if each >= 0]
    text: str = self._tokenizer.decode(ids)
    return text

  def id_of(self, token: str) -> int:
    """The id of one token, such as '[MASK]'.

    Raises:
      ValueError: if there is no such token.
    """
    found: int | None = self._tokenizer.token_to_id(token)
    if found is None:
      raise ValueError(f'the tokenizer has no token {token!r}')
    return found

  def ids_of(self, tokens: Sequence[str]) -> tuple[int, ...]:
    """The ids of those tokens that there are."""
    found = map(self._tokenizer.token_to_id, tokens)
    return tuple(id for id in found if id is not None)

  @property
  def special(self) -> tuple[int, ...]:
    """The ids of tokens that are no words, such as '[CLS]'."""
    added = self._tokenizer.get_added_tokens_decoder()
    return tuple(sorted(id for id, token in added.items() if token.special))

  def save(self, path: str | Path) -> None:
    """Writes the tokenizer.json that it was made from."""
    Path(path).write_text(self.text, encoding='utf-8')


def _checked(texts: Sequence[str]) -> list[str]:
  if isinstance(texts, str):
    raise TextError('give a list of texts, not one text')
  texts = list(texts)
  for index, text in enumerate(texts):
    if not isinstance(text, str):
      raise TextError(
        f'text {index} of {len(texts)} is no text but {type(text).__name__}'
      )
    try:
      text.encode('utf-8')
    except UnicodeEncodeError as error:
      raise TextError(
        f'text {index} of {len(texts)} has half of a surrogate pair, which is'
        ' no character: read the file in its own encoding'
      ) from error
  return texts


def read_tokenizer(path: str | Path, config: TransformerConfig) -> Tokenizer:
  """Reads a tokenizer.json.

  Args:
    path: of the file.
    config: of the transformer that the ids are for.

  Returns:
    The tokenizer.

  Raises:
    ValueError: in one line, if it cannot be read, is no tokenizer, or has ids
      beyond the vocabulary.
  """
  try:
    return Tokenizer(Path(path).read_text(encoding='utf-8'), config)
  except (OSError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from error
