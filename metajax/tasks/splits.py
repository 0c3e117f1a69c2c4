"""Splits of labelled data: which classes are trained on, which are for test.

Classes, not examples, are divided between training, validation and test: what
is tested is learning classes that were never seen.
"""

import difflib
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from metajax.tasks.errors import DataError, reason
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.names import normal_name, numbered
from metajax.tasks.rotations import TURNED, refuse_turned, turned
from metajax.tasks.text import Texts

__all__ = [
  'SHARES',
  'Splits',
  'fold_of',
  'groups_of',
  'rank',
  'split_by_files',
  'split_by_groups',
  'split_by_seed',
  'split_groups_by_seed',
  'split_sizes',
]

# Of the classes for training, validation and test, where nothing else is said.
SHARES = (0.6, 0.2, 0.2)

_SPLIT_FILES = ('train.txt', 'val.txt', 'test.txt')


# What has examples in its first field, and `labels` and `names`.
Labelled = TypeVar('Labelled', LabelledImages, Texts)


class Splits(NamedTuple, Generic[Labelled]):
  """Three sets of images, or of texts, that share no class."""

  train: Labelled
  validation: Labelled
  test: Labelled


def split_sizes(
  num_classes: int, shares: tuple[float, float, float] = SHARES
) -> tuple[int, int]:
  """Sizes for `split_by_seed` that give each part its share of the classes.

  Args:
    num_classes: three or more.
    shares: of training, validation and test; positive, 1 together.

  Returns:
    `(train_classes, validation_classes)`. As for `split_by_seed`, the first
    counts the second. Validation and test have their shares (rounded, at least
    one class); the others are for training.

  Raises:
    DataError: if there are fewer than three classes, if shares are not such, or
      if they leave no class for training.

  Example:
    >>> split_sizes(10)
    (8, 2)
    >>> split_sizes(10, (0.4, 0.3, 0.3))
    (7, 3)
  """
  if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
    raise DataError(f'shares={shares}: must be positive, and 1 together')
  if num_classes < 3:
    raise DataError(
      f'{num_classes} classes cannot be split into training, validation and'
      ' test; three or more are needed'
    )
  validation, test = (max(1, round(num_classes * each)) for each in shares[1:])
  if validation + test >= num_classes:
    raise DataError(
      f'{num_classes} classes with {validation} for validation and {test} for'
      ' test leave none for training; it needs a larger share'
    )
  return num_classes - test, validation


def split_by_seed(
  data: Labelled, train_classes: int, validation_classes: int, seed: int
) -> Splits[Labelled]:
  """Divides the classes at random, the same way for the same seed.

  Classes are ordered by the SHA-256 of the seed and their name, so a split
  depends on nothing else: no library, and no order of the data.

  Args:
    data: images or texts, of classes that are not rotated copies of each other;
      rotate the splits instead: `Splits(*map(rotate_classes, splits))`.
    train_classes: how many classes are not for test.
    validation_classes: how many of `train_classes` are for validation, and
      are not trained on.
    seed: any integer.

  Returns:
    `train_classes - validation_classes` classes for training,
    `validation_classes` for validation, the rest for test.

  Raises:
    DataError: if a split would be empty, or if the data are already rotated, or
      have two classes of one name.
  """
  num_classes = len(data.names)
  if not 0 < validation_classes < train_classes < num_classes:
    raise DataError(
      f'{num_classes} classes cannot be split into {train_classes} (of which'
      f' {validation_classes} for validation) and the rest for test; each part'
      ' needs one class or more'
    )
  refuse_turned(data, 'split')
  numbered(data.names)
  order = sorted(
    range(num_classes), key=lambda index: rank(seed, data.names[index])
  )
  trained = train_classes - validation_classes
  return Splits(
    _take(data, order[:trained]),
    _take(data, order[trained:train_classes]),
    _take(data, order[train_classes:]),
  )


def rank(seed: int, name: str) -> bytes:
  """The place of a name in the random order that a seed stands for."""
  return hashlib.sha256(f'{seed}\n{name}'.encode()).digest()


def split_by_files(data: Labelled, split_dir: str | Path) -> Splits[Labelled]:
  """Divides the classes as `train.txt`, `val.txt` and `test.txt` say.

  Each line names a class, in whatever spelling of its blanks and accents
  (`names.normal_name`). A line may end in a rotation, as in
  `Greek/character01/rot090` (the format of Vinyals et al. 2016), and is then
  a class of that class's images turned counter-clockwise by so many degrees.

  Args:
    data: the images, or texts, of which no class can be turned.
    split_dir: the directory of the three files.

  Returns:
    Classes named and numbered in the order of the lines.

  Raises:
    DataError: if a file is missing or empty, if a line names no class or one
      named before, or if two files name one class, in whatever rotation.
  """
  split_dir = Path(split_dir)
  index = numbered(data.names)
  owners: dict[str, str] = {}
  splits = []
  for name in _SPLIT_FILES:
    path = split_dir / name
    names = _read_lines(path)
    for number, line in names.items():
      where = f'{path}, line {number}'
      if line not in index and TURNED.sub('', line) not in index:
        near = difflib.get_close_matches(line, index, 1) or data.names[:1]
        raise DataError(
          f'{where}: unknown class {line!r}; the data has {len(index)} classes'
          f' such as {near[0]!r}'
        )
      owner = owners.setdefault(TURNED.sub('', line), name)
      if owner != name:
        raise DataError(
          f'{where}: class {line!r} is also in {owner}; a class, in any'
          ' rotation, may be in one file only'
        )
    splits.append(_turned_classes(data, index, tuple(names.values())))
  return Splits(*splits)


def split_by_groups(
  data: Labelled,
  train: Collection[str],
  validation: Collection[str],
  test: Collection[str],
) -> Splits[Labelled]:
  """Divides the classes by the groups they are in.

  Args:
    data: images or texts of classes with names like `group/class`.
    train: names of the groups whose classes are for training.
    validation: for validation.
    test: for test.

  Returns:
    The classes of each part, in the order of the data.

  Raises:
    DataError: if a group has no class, or is in two parts.

  Example:
    >>> import numpy as np
    >>> data = LabelledImages(
    ...   np.zeros((3, 8, 8), np.uint8), np.arange(3), ('a/x', 'b/y', 'c/z')
    ... )
    >>> split_by_groups(data, ['c'], ['a'], ['b']).train.names
    ('c/z',)
  """
  members: dict[str, list[int]] = {}
  for name, index in numbered(data.names).items():
    members.setdefault(name.rpartition('/')[0], []).append(index)
  parts = [list(map(normal_name, part)) for part in (train, validation, test)]
  named = [group for part in parts for group in part]
  for group in named:
    if group not in members:
      raise DataError(
        f'there is no class of the group {group!r}; the groups are'
        f' {", ".join(members)}'
      )
    if named.count(group) > 1:
      raise DataError(f'the group {group!r} may be in one part only')
  return Splits(
    *(
      _take(data, sorted(i for group in part for i in members[group]))
      for part in parts
    )
  )


def split_groups_by_seed(
  data: Labelled, train_groups: int, validation_groups: int, seed: int
) -> Splits[Labelled]:
  """Divides the groups that classes are in at random: all of one, or none.

  Args:
    data: images or texts of classes with names like `group/class`, not rotated.
    train_groups: how many groups are not for test.
    validation_groups: how many of `train_groups` are for validation.
    seed: any integer; groups are ordered as `split_by_seed` orders classes.

  Returns:
    The classes of the groups of each part.

  Raises:
    DataError: as `split_by_seed`.
  """
  refuse_turned(data, 'split')
  groups = sorted(
    {name.rpartition('/')[0] for name in numbered(data.names)},
    key=lambda name: rank(seed, name),
  )
  if not 0 < validation_groups < train_groups < len(groups):
    raise DataError(
      f'{len(groups)} groups cannot be split into {train_groups} (of which'
      f' {validation_groups} for validation) and the rest for test; each part'
      ' needs one or more'
    )
  trained = train_groups - validation_groups
  return split_by_groups(
    data,
    groups[:trained],
    groups[trained:train_groups],
    groups[train_groups:],
  )


def fold_of(
  data: Labelled, part: int, parts: int, whole_groups: bool = False
) -> tuple[Labelled, Labelled]:
  """The classes of one fold, for cross-validation, and all the others.

  Args:
    data: images or texts of training, of classes that are not rotated.
    part: which fold, from 1.
    parts: how many folds there are. Every class is in one of them, whatever
      the order of the data.
    whole_groups: whether all classes of a group are in one fold.

  Returns:
    The others, which train, and the fold.

  Raises:
    DataError: if there are fewer classes, or groups, than folds.
  """
  groups = groups_of(data) if whole_groups else np.arange(len(data.names))
  first: dict[int, str] = dict(zip(groups, data.names, strict=True))
  if len(first) < parts:
    raise DataError(
      f'{len(first)} {"groups" if whole_groups else "classes"} of training'
      f' cannot be divided into {parts} folds'
    )
  order: list[int] = sorted(first, key=lambda group: rank(0, first[group]))
  chosen = {*order[part - 1 :: parts]}
  inside = [index for index, group in enumerate(groups) if group in chosen]
  others = [index for index, group in enumerate(groups) if group not in chosen]
  return _take(data, others), _take(data, inside)


def groups_of(data: LabelledImages | Texts) -> np.ndarray:
  """The group that each class is in, such as its alphabet.

  Args:
    data: images or texts of classes with names like `group/class`. A rotated
      alphabet is another one: `Greek/character01/rot090` is with those that
      are turned as far.

  Returns:
    Integers `[classes]`, for `episodes`.

  Example:
    >>> import numpy as np
    >>> data = LabelledImages(
    ...   np.zeros((3, 8, 8), np.uint8), np.arange(3), ('a/x', 'b/y', 'a/z')
    ... )
    >>> groups_of(data).tolist()
    [0, 1, 0]
  """
  groups = []
  for name in data.names:
    turn = TURNED.search(name)
    upright = name[: turn.start()] if turn else name
    groups.append(upright.rpartition('/')[0] + (turn[0] if turn else ''))
  _, indices = np.unique(groups, return_inverse=True)
  return indices.astype(np.int32)


def _read_lines(path: Path) -> dict[int, str]:
  """The lines of a file that are not blank, by number, all different."""
  try:
    text = path.read_text(encoding='utf-8')
  except FileNotFoundError:
    raise DataError(
      f'{path}: there is no such file; a split directory holds'
      f' {", ".join(_SPLIT_FILES)}'
    ) from None
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'{path}: cannot be read ({reason(error)})') from error
  lines = {
    number: normal_name(line)
    for number, line in enumerate(text.splitlines(), start=1)
    if normal_name(line)
  }
  if not lines:
    raise DataError(f'{path}: the file names no class')
  first: dict[str, int] = {}
  for number, line in lines.items():
    earlier = first.setdefault(line.removesuffix('/rot000'), number)
    if earlier != number:
      raise DataError(
        f'{path}, line {number}: class {line!r} is already in line {earlier}'
      )
  return lines


def _turned_classes(
  data: Labelled, index: dict[str, int], names: tuple[str, ...]
) -> Labelled:
  """The named classes, in this order; a name may end in a rotation."""
  counts = np.bincount(data.labels, minlength=len(data.names))
  members = np.split(
    np.argsort(data.labels, kind='stable'), np.cumsum(counts)[:-1]
  )
  examples, labels = [], []
  for label, name in enumerate(names):
    suffix = None if name in index else TURNED.search(name)
    turns = int(suffix[1]) // 90 if suffix else 0
    rows = members[index[name[: suffix.start()] if suffix else name]]
    examples.append(turned(data[0][rows], turns) if turns else data[0][rows])
    labels.append(np.full(len(rows), label, np.int32))
  return type(data)(np.concatenate(examples), np.concatenate(labels), names)


def _take(data: Labelled, classes: Sequence[int]) -> Labelled:
  """The given classes alone, renumbered in this order."""
  renumber = np.full(len(data.names), -1, np.int32)
  renumber[np.asarray(classes)] = np.arange(len(classes), dtype=np.int32)
  labels = renumber[data.labels]
  kept = labels >= 0
  return type(data)(
    data[0][kept], labels[kept], tuple(data.names[i] for i in classes)
  )
