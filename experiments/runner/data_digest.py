"""Whether data are still those that a run has seen: a digest of every split.

Paths say little: a file may be exchanged where it lies, and class lists with
it. Tested would then be classes that were trained on.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from experiments.runner.errors import UsageError, shown
from experiments.runner.records import Missing
from experiments.runner.settings import Base

__all__ = [
  'DIGEST',
  'DIGEST_ENTRY',
  'Digests',
  'SameData',
  'add_array',
  'check_same_data',
  'data_flag',
  'digests',
]

# Its name in `config.json`, beside those of settings.
DIGEST = 'data_digest'
# What a record may have under this name.
DIGEST_ENTRY = {DIGEST: (dict, NoneType, Missing)}

# Of each split the digests of its names and of its arrays.
Digests = dict[str, dict[str, str]]

# Settings that make other splits, or name other data.
_MAKE_SPLITS = frozenset({
  'dataset', 'data_dir', 'data_file', 'split_dir', 'split_seed', 'split_shares',
  'within_groups', 'image_size', 'skip_unreadable', 'task_column',
  'target_columns', 'feature_columns', 'text_column', 'label_column',
  'target_type', 'order_column', 'train_on',
})  # fmt: skip


def digests(splits: NamedTuple) -> Digests:
  """The SHA-256 of what each split holds.

  Args:
    splits: NamedTuples of arrays, of numbers or of texts, and of names, such
      as `metajax.tasks.Splits` and `TableSplits`.

  Returns:
    By split, that of its `names` and that of its `values`: of its arrays, their
    types and their shapes.
  """
  return {
    split: _digests_of(getattr(splits, split)) for split in splits._fields
  }


def _digests_of(part: Any) -> dict[str, str]:
  names, values = hashlib.sha256(), hashlib.sha256()
  for held in part:
    if held is None:  # such as an order that a table does not have
      continue
    if isinstance(held, np.ndarray) and held.dtype == object:
      _add_texts(values, held)
    elif isinstance(held, np.ndarray):
      add_array(values, held)
    else:
      _add_texts(names, held)
  return {'names': names.hexdigest(), 'values': values.hexdigest()}


def add_array(digest: Any, array: np.ndarray) -> None:
  """Adds the type, the shape and the numbers of an array to a digest."""
  digest.update(f'{array.dtype.str}{array.shape}'.encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _add_texts(digest: Any, texts: Iterable[str]) -> None:
  # With their lengths: no two lists of texts are one text.
  for text in texts:
    encoded = text.encode('utf-8', 'surrogatepass')
    digest.update(b'%d:' % len(encoded) + encoded)
  digest.update(b';')


def differing(before: Digests | None, now: Digests | None) -> list[str]:
  """The splits that are not what they were.

  Args:
    before: what a record has under `DIGEST`; None in one of a run that has
      generated its data, or is older than digests.
    now: those of the data at hand, or None.
  """
  if before is None or now is None:
    return []
  return [
    split for split in {**before, **now} if before.get(split) != now.get(split)
  ]


class SameData:
  """Refuses runs on other data than those before them, in one table."""

  def __init__(self) -> None:
    self._first: tuple[str, Digests] | None = None

  def check(self, run: str, record: Mapping[str, Any], setting: str) -> None:
    """Refuses a run if its data are not those of the first.

    Args:
      run: how the message calls it.
      record: its settings by name, and its digests if there are any.
      setting: the one to blame.

    Raises:
      UsageError: if they differ.
    """
    found = record.get(DIGEST)
    if found is None:
      return
    first, digests = self._first = self._first or (run, found)
    if splits := differing(digests, found):
      raise UsageError(
        setting,
        f'the {_listed(splits)} data of {first} and of {run} are not the'
        ' same, so they cannot be compared; run again what has seen other data,'
        ' in another --workdir',
      )


def check_same_data(
  settings: Base,
  before: Mapping[str, Any],
  now: Digests | None,
  owner: str,
  remedy: str,
) -> None:
  """Refuses data that are not those of a record, and names their flag.

  Args:
    settings: those that name the data at hand.
    before: the record, with its settings by name.
    now: the digests of the data at hand.
    owner: how the message calls the data of the record.
    remedy: what to do.

  Raises:
    UsageError: if a split differs.
  """
  splits = differing(before.get(DIGEST), now)
  if not splits:
    return
  assert now is not None  # or nothing differs
  changed = [
    f'--{name} was {shown(before[name])} and is {shown(value)}'
    for name, value in settings.given().items()
    if name in _MAKE_SPLITS and before.get(name, value) != value
  ]
  flag, value = _flag_of(settings, before[DIGEST], now)
  raise UsageError(
    flag,
    f'{value}: its {_listed(splits)} data are not {owner}'
    f'{" (" if changed else ""}{"; ".join(changed)}{")" if changed else ""};'
    f' {remedy}',
  )


def _listed(splits: Sequence[str]) -> str:
  *others, last = splits
  return f'{", ".join(others)} and {last}' if others else last


def _flag_of(
  settings: Base, before: Mapping[str, Any], now: Digests
) -> tuple[str, Any]:
  """The setting that names the data that differ, and its value.

  The names of classes are those of class lists where there are any, so these
  are to blame where names differ; otherwise it is what they divide.
  """

  def names(split: str) -> Any:
    held = before.get(split)
    return held.get('names') if isinstance(held, dict) else None

  lists = getattr(settings, 'split_dir', None)
  if lists and any(names(split) != now[split]['names'] for split in now):
    return 'split_dir', lists
  return data_flag(settings)


def data_flag(settings: Base) -> tuple[str, Any]:
  """The setting that says where data lie, and its value."""
  return next(
    (name, value)
    for name in ('data_file', 'data_dir', 'split_dir', 'dataset')
    if (value := getattr(settings, name, None))
  )
