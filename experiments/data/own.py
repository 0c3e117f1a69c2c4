"""Examples of one's own, from files, as a trained learner takes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax import tasks
from metajax.tasks import DataError
from metajax.tasks.decoding import Picture, decode
from metajax.tasks.folder import image_files, images_by_class
from metajax.tasks.omniglot import RAW_SIZE, shrink

__all__ = ['Queries', 'pixels_of', 'queries', 'support']


class Queries(NamedTuple):
  """What is to be predicted for, and how each is called."""

  names: list[str]
  inputs: Any


def support(
  manifest: Mapping[str, Any], path: Path, text_column: str, label_column: str
) -> Any:
  """Reads a support set, for `TrainedLearner.adapt`.

  Args:
    manifest: of the learner.
    path: of images, a folder of folders, of which each is a class; of texts, a
      CSV or JSON lines file; of numbers, a CSV or Parquet file.
    text_column: of a file of texts.
    label_column: the same.

  Raises:
    DataError: if it cannot be read.
  """
  what = manifest['inputs']
  if what['kind'] == 'images':
    folders = path.is_dir() and any(each.is_dir() for each in path.iterdir())
    _check_kind(path, folders, 'a folder of folders of images, each a class')
    pictures = images_by_class(path)
    found = [picture for group in pictures.values() for picture in group]
    pixels = pixels_of(what, found, str(path))
    ends = np.cumsum([len(group) for group in pictures.values()])[:-1]
    return dict(zip(pictures, np.split(pixels, ends), strict=True))
  if what['kind'] == 'texts':
    reader = tasks.load_jsonl if path.suffix == '.jsonl' else tasks.load_csv
    _check_kind(path, path.is_file(), 'a CSV or JSON lines file of texts')
    data = reader(path, text_column, label_column)
    return {
      name: data.texts[data.labels == number].tolist()
      for number, name in enumerate(data.names)
    }
  names = manifest['outputs']['names']
  rows, _ = _of_one_task(path, [*what['names'], *names], what.get('task'))
  return np.split(rows, [len(what['names'])], axis=1)


def queries(
  manifest: Mapping[str, Any],
  path: Path,
  text_column: str,
  examples: Path | None = None,
) -> Queries:
  """Reads what is to be predicted for.

  Args:
    manifest: of the learner.
    path: of images, a folder with images anywhere in it, or one image; of
      texts, a CSV or JSON lines file, or one of lines that ends in `.txt`; of
      numbers, a CSV or Parquet file.
    text_column: of a file of texts.
    examples: the file of the support set, the task of which queries are of.

  Raises:
    DataError: if it cannot be read, or is of another task.
  """
  what = manifest['inputs']
  if what['kind'] == 'images':
    found = image_files(path)
    pixels = pixels_of(what, found, str(path))
    return Queries([picture.name for picture in found], pixels)
  if what['kind'] == 'texts':
    _check_kind(path, path.is_file(), 'a file of texts')
    texts = tasks.load_texts(path, text_column)
    return Queries(texts, texts)
  rows, task = _of_one_task(path, what['names'], what.get('task'))
  if task is not None and examples is not None:
    _, known = _of_one_task(examples, what['names'], what['task'])
    if known not in (None, task):
      raise DataError(
        f'{path}: rows are of {what["task"]} {task!r}, and the support set is'
        f' of {known!r}; give examples of the same'
      )
  return Queries([f'row {number}' for number in range(1, len(rows) + 1)], rows)


def _of_one_task(
  path: Path, columns: Sequence[str], task_column: str | None
) -> tuple[np.ndarray, str | None]:
  """Rows, and the task that they are of, where a column says it."""
  rows, names = tasks.load_columns(path, columns, task_column)
  if len(names) > 1:
    raise DataError(
      f'{path}: rows are of {len(names)} tasks, {task_column}'
      f' {names[0]!r} and {names[1]!r} among them; a learner adapts to one, so'
      ' give the rows of one'
    )
  return rows, names[0] if names else None


def _check_kind(path: Path, fits: bool, wanted: str) -> None:
  if not path.exists():
    raise DataError(f'{path}: there is no such file or folder; check the path')
  if not fits:
    raise DataError(f'{path}: the learner wants {wanted}, and this is none')


def pixels_of(
  what: Mapping[str, Any], pictures: Sequence[Picture], origin: str
) -> np.ndarray:
  """Files of images as those that the learner was trained on.

  Args:
    what: `inputs` of the manifest.
    pictures: the files.
    origin: what they are part of, for messages.

  Returns:
    uint8 `[images, height, width, channels]`.

  Raises:
    DataError: if they cannot be read, or are coloured where grey is wanted.
  """
  *_, channels = what['shape']
  how = what.get('files', {})  # of a learner of one's own there may be none
  if how.get('ink'):
    return _drawings(pictures, origin, how['size'])
  found, _ = decode(pictures, len(pictures), origin, image_size=how.get('size'))
  if channels == 1:
    return _grey(found, pictures, origin)
  if found.ndim == 3:
    found = np.repeat(found[..., None], channels, axis=-1)
  return found


def _grey(
  found: np.ndarray, pictures: Sequence[Picture], origin: str
) -> np.ndarray:
  """Images [n, height, width, 1] of such that may have three channels."""
  if found.ndim == 3:
    return found[..., None]
  coloured = np.flatnonzero((found != found[..., :1]).any(axis=(1, 2, 3)))
  if len(coloured):
    raise DataError(
      f'{origin}: {pictures[coloured[0]].name} is coloured, and the learner was'
      ' trained on grey images; make it grey'
    )
  return found[..., :1]


def _drawings(
  pictures: Sequence[Picture], origin: str, size: int
) -> np.ndarray:
  """Dark ink on light paper as bright ink on dark: what Omniglot becomes."""
  drawn = np.empty((len(pictures), size, size), np.uint8)
  each = enumerate(_as_in_omniglot(picture, origin) for picture in pictures)
  as_there = {index: raw for index, raw in each if raw is not None}
  if as_there:
    drawn[[*as_there]] = shrink(np.stack([*as_there.values()]))
  others = [index for index in range(len(pictures)) if index not in as_there]
  if others:
    rest = [pictures[index] for index in others]
    found, _ = decode(rest, len(rest), origin, image_size=size)
    drawn[others] = 255 - _grey(found, rest, origin)[..., 0]
  full = np.flatnonzero(drawn.mean(axis=(1, 2)) > 127.5)
  if len(full):
    raise DataError(
      f'{origin}: {pictures[full[0]].name} is dark; drawings are of dark ink on'
      ' light paper, so turn it round'
    )
  return drawn[..., None]


def _as_in_omniglot(picture: Picture, origin: str) -> np.ndarray | None:
  """A drawing [105, 105] of ink, which is 0, and of paper alone; or None.

  Each by itself: what others are changes nothing.
  """
  raw, _ = decode([picture], 1, origin)
  if raw.shape[1:3] != (RAW_SIZE, RAW_SIZE):
    return None
  grey: np.ndarray = _grey(raw, [picture], origin)[0, ..., 0]
  paper = grey[grey > 0]
  # Ink that is grey, as of a scan or of JPEG, is no paper.
  return grey if len(paper) and paper.min() == paper.max() else None
