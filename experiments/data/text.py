"""Data sets of texts: from settings to task distributions of tokens.

`TextData` are the settings of what is loaded and how it is divided; `load`
makes tokens and samplers of it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.data.folds import fold, folded
from experiments.data.samplers import (
  Classes,
  Data,
  DataSet,
  Wanted,
  blaming,
  check_varied,
  divided,
  in_proportion,
  refuse_others,
  sampled,
  sizes,
  split_shares,
)
from experiments.runner.data_digest import digests
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.settings import (
  Base,
  OneOf,
  Text,
  Whole,
  WholeOrAuto,
  YesNo,
  setting,
  settings,
)
from metajax import tasks

__all__ = [
  'DATASETS',
  'PINNED',
  'Loaded',
  'Meaning',
  'TextData',
  'Tokenize',
  'duplicates',
  'load',
  'make_tokens',
  'read',
  'with_tokens',
]


class Tokenize(Protocol):
  """Makes tokens of texts."""

  def __call__(
    self, texts: Sequence[str], max_tokens: int | None, /
  ) -> tuple[np.ndarray, int]:
    """Returns int32 `[texts, length]`, -1 for none; how many were cut off."""


# Class lists that results are compared on; see docs/results.md.
PINNED = Path(__file__).parent / 'splits'

# Phrases of a class, where there is no end of them.
_PHRASES = 60


@settings
class TextData(Base):
  """What is loaded, and how it is divided."""

  dataset: str = setting(
    'phrases',
    OneOf(['phrases', 'clinc150', 'banking77', 'csv', 'jsonl']),
    'phrases: a generated language; clinc150: data_full.json and domains.json'
    ' in --data_dir; banking77: train.csv and test.csv there; csv and jsonl:'
    ' texts and labels of --data_file',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  data_dir: str | None = setting(
    None, Place(), 'folder of clinc150 or banking77',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  data_file: str | None = setting(
    None, Place(), 'CSV file, or file with a JSON object a line',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  text_column: str = setting(
    'text', Text(), 'column of texts of csv and jsonl',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  label_column: str = setting(
    'label', Text(), 'column of the classes of texts of csv and jsonl',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_dir: str | None = setting(
    None, Place(), 'train.txt, val.txt and test.txt: a class a line'
    ' [default of clinc150 and banking77: lists of the project]',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  split_seed: int = setting(
    0, Whole(0), 'of the division of classes of phrases, csv and jsonl',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_shares: tuple[float, ...] | None = split_shares(
    'classes of csv and jsonl'
  )
  max_tokens: int | str = setting(
    64, WholeOrAuto(), 'tokens of a text; what is longer is cut off, and'
    ' counted. auto: as many as 99 of 100 texts of training have',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  refuse_long_texts: bool = setting(
    False, YesNo(), 'refuse texts of more than --max_tokens',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  fold: str | None = fold()
  within_groups: bool = setting(
    False, YesNo(), 'all classes of a task are of one domain: what stands'
    ' before the / of their names, as in clinc150 and phrases',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip


class Loaded(NamedTuple):
  """Texts that are divided, and have no tokens yet."""

  splits: tasks.Splits
  origin: str  # what divided them, for the protocol
  by_shares: bool = False  # whether --split_shares would divide them otherwise
  out_of_scope: tasks.OutOfScope | None = None
  drawn: bool = False  # whether a program has made them


class Meaning(NamedTuple):
  """What tokens mean, and texts that are of no class."""

  tokenize: Any  # what made the tokens
  test_texts: Classes  # draws the same tasks, of places in the texts of test
  splits: tasks.Splits  # the texts, and their classes
  # Tokens of texts that are of no class, where there are any.
  out_of_scope: tasks.OutOfScope | None


def load(wanted: Wanted, tokenize: Tokenize | None = None) -> Data:
  """Loads what the settings name; misuse is a UsageError.

  Args:
    wanted: what is to be loaded.
    tokenize: makes tokens of texts, such as that of a pretrained model; by
      default words are tokens, those of the texts of training, or all of the
      generated language. `data.text.tokenize` is what was used.

  Returns:
    Samplers of int32 tokens. `data.text` says what they mean.
  """
  check_varied(wanted)
  return with_tokens(wanted, read(wanted), tokenize)


def read(wanted: Wanted) -> Loaded:
  """Reads texts and divides their classes."""
  row = DATASETS[wanted.settings.dataset]
  refuse_others(wanted.settings, DATASETS, row.settings)
  with shown('reading texts'):
    loaded: Loaded = row.load(wanted)
  if wanted.settings.within_groups:
    _check_groups(loaded.splits)
  return loaded._replace(splits=folded(wanted.settings, loaded.splits))


def _check_groups(splits: tasks.Splits) -> None:
  for part in splits:
    alone = [name for name in part.names if '/' not in name]
    if alone:
      raise UsageError(
        'within_groups',
        f'class {alone[0]!r} is of no domain; name classes DOMAIN/CLASS, or'
        ' leave it out',
      )


def with_tokens(
  wanted: Wanted, loaded: Loaded, tokenize: Tokenize | None
) -> Data:
  """Makes tokens of texts, and samplers of these."""
  given, splits = wanted.settings, loaded.splits
  if tokenize is None:
    tokenize = _words_of(loaded)
  apart = loaded.out_of_scope or ()
  parts = [*(part.texts for part in splits), *apart]
  texts = np.concatenate(parts)
  tokens, truncated = make_tokens(given, tokenize, texts, splits.train.texts)
  each = np.split(tokens, np.cumsum(list(map(len, parts)))[:-1])
  data = sampled(
    wanted,
    type(splits)(
      *(
        part._replace(texts=held)
        for part, held in zip(splits, each[:3], strict=True)
      )
    ),
    loaded.origin,
    loaded.by_shares,
  )
  _, places = data.test.args  # of its tokens
  return data._replace(
    protocol={
      **data.protocol,
      'tokens': f'{tokens.shape[1]} a text, {truncated} of {len(texts)} texts'
      ' cut off',
      **duplicates(splits),
    },
    digests=None if loaded.drawn else digests(splits),
    text=Meaning(
      tokenize,
      Classes(
        tasks.device_tasks(np.arange(len(splits.test.texts)), places),
        tuple(splits.test.texts.tolist()),
      ),
      splits,
      tasks.OutOfScope(*each[3:]) if apart else None,
    ),
  )


def _most_tokens(tokenize: Tokenize, texts: np.ndarray) -> int:
  """What 99 of 100 texts are no longer than, as a multiple of 8."""
  tokens, _ = tokenize(texts.tolist(), None)
  lengths = np.sum(tokens >= 0, axis=1)
  return 8 * math.ceil(np.quantile(lengths, 0.99) / 8)


def _words_of(loaded: Loaded) -> Tokenize:
  if loaded.drawn:
    return tasks.phrase_tokenizer()
  return tasks.word_tokenizer(loaded.splits.train.texts)


def make_tokens(
  given: TextData, tokenize: Tokenize, texts: np.ndarray, trained: np.ndarray
) -> tuple[np.ndarray, int]:
  """Makes tokens of texts, as many as the settings say.

  Args:
    given: settings.
    tokenize: makes tokens of texts.
    texts: all of them.
    trained: those of training, which `--max_tokens=auto` goes by.

  Returns:
    The tokens, and how many texts were cut off.
  """
  with blaming('max_tokens'), shown(f'tokenising {len(texts):,} texts'):
    most = given.max_tokens
    if isinstance(most, str):
      most = _most_tokens(tokenize, trained)
    tokens, truncated = tokenize(texts.tolist(), most)
  _check_tokens(given, texts, tokens, truncated)
  return tokens, truncated


def _check_tokens(
  given: TextData, texts: np.ndarray, tokens: np.ndarray, truncated: int
) -> None:
  """Refuses texts without a token, and long ones if settings say so."""
  if truncated and given.refuse_long_texts:
    raise UsageError(
      'refuse_long_texts',
      f'{truncated} of {len(texts)} texts have more than'
      f' --max_tokens={given.max_tokens}; raise that, or leave this out, and'
      ' they are cut off',
    )
  empty = np.flatnonzero((tokens < 0).all(axis=1))
  if len(empty):
    raise UsageError(
      'data_file' if given.data_file else 'dataset',
      f'the tokenizer has no token for the text {texts[empty[0]][:80]!r}'
      f' (and {len(empty) - 1} others); leave such texts out',
    )


def duplicates(splits: tasks.Splits) -> dict[str, str]:
  """What the protocol says of texts that are there more than once."""
  found = tasks.count_duplicates(splits)
  if not any(found):
    return {}
  return {
    'duplicate_texts': f'{found.repeated} repeated in a class,'
    f' {found.contradicting} in several classes, {found.across_splits} in'
    ' several splits'
  }


def load_phrases(wanted: Wanted) -> Loaded:
  """The generated language."""
  seed = wanted.settings.split_seed
  recipe = wanted.recipe
  needed = (sum(sizes(recipe, training)[1:]) for training in (False, True))
  each = max(_PHRASES, *needed)
  try:
    splits = tasks.Splits(
      *(
        tasks.phrases(split, each, seed=seed).texts
        for split in ('train', 'validation', 'test')
      )
    )
  except ValueError as error:
    raise UsageError(
      'queries',
      f'{error}: shots and queries of a class are {each}; ask for fewer',
    ) from error
  return Loaded(splits, f'seed {seed}', drawn=True)


def load_clinc150(wanted: Wanted) -> Loaded:
  """CLINC150, divided by domain."""
  with blaming('data_dir'):
    texts, apart = tasks.load_clinc150(_data_dir(wanted))
  return _by_lists(wanted, texts)._replace(out_of_scope=apart)


def load_banking77(wanted: Wanted) -> Loaded:
  """Banking77, divided as the lists of the project say."""
  with blaming('data_dir'):
    return _by_lists(wanted, tasks.load_banking77(_data_dir(wanted)))


def load_file(wanted: Wanted) -> Loaded:
  """The user's own texts."""
  given = wanted.settings
  kind = given.dataset
  if given.data_file is None:
    raise UsageError(
      'data_file', f'{kind} needs a file of texts and labels; name one'
    )
  reader = tasks.load_csv if kind == 'csv' else tasks.load_jsonl
  with blaming('data_file'):
    data = reader(given.data_file, given.text_column, given.label_column)
  if given.split_dir:
    return Loaded(*divided(wanted, data, None))
  by_seed = in_proportion(wanted, data, 'data_file', given.data_file)
  return Loaded(*divided(wanted, data, by_seed), by_shares=True)


def _by_lists(wanted: Wanted, data: tasks.Texts) -> Loaded:
  """Divides what results are compared on."""
  if wanted.settings.split_dir:
    return Loaded(*divided(wanted, data, None))
  with blaming('data_dir'):
    splits = tasks.split_by_files(data, PINNED / wanted.settings.dataset)
  return Loaded(splits, 'class lists of the project')


def _data_dir(wanted: Wanted) -> str:
  given = wanted.settings
  if given.data_dir is None:
    files = {
      'clinc150': 'data_full.json and domains.json',
      'banking77': 'train.csv and test.csv',
    }
    raise UsageError(
      'data_dir',
      f'{given.dataset} needs the folder of {files[given.dataset]}',
    )
  return str(given.data_dir)


_LISTS = frozenset({'data_dir', 'split_dir'})
_FILE = frozenset({
  'data_file', 'text_column', 'label_column', 'split_dir', 'split_seed',
  'split_shares', 'within_groups',
})  # fmt: skip

DATASETS = {
  'phrases': DataSet(load_phrases, frozenset({'split_seed', 'within_groups'})),
  'clinc150': DataSet(load_clinc150, _LISTS | {'within_groups'}),
  'banking77': DataSet(load_banking77, _LISTS),
  'csv': DataSet(load_file, _FILE),
  'jsonl': DataSet(load_file, _FILE),
}
