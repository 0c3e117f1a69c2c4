"""Omniglot: 1623 handwritten characters, 20 drawings of each.

Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through
probabilistic program induction, Science 350(6266):1332-1338.

The data set is read from, and prepared as, a tensorflow-datasets directory.
Neither needs TensorFlow.
"""

import hashlib
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.tasks._omniglot_preparing import (
  RAW_SIZE,
  SOURCE,
  VERSION,
  Drawing,
  contents,
  prepare,
)
from metajax.tasks.decoding import Progress
from metajax.tasks.errors import DataError, reason
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.prepared import (
  AGAIN,
  damaged_metadata,
  damaged_records,
  open_builder,
  read_name,
  read_records,
)

__all__ = [
  'SIZE',
  'SOURCE',
  'TRAIN_ALPHABETS',
  'TRAIN_CLASSES',
  'VALIDATION_ALPHABETS',
  'VALIDATION_CLASSES',
  'load',
  'prepare',
  'shrink',
]

# The usual split has 1200 classes to train on, 100 of them for validation, and
# the other 423 for test.
TRAIN_CLASSES = 1200
VALIDATION_CLASSES = 100
# By whole alphabets it is about the same: 37 of the 50 are to train on, 5 of
# them for validation.
TRAIN_ALPHABETS = 37
VALIDATION_ALPHABETS = 5

SIZE = 28  # pixels, after resizing
_CACHE_FORMAT = 1  # to be raised when what is cached changes
_CHUNK = 1024  # images decoded at a time


def load(
  data_dir: str | Path,
  cache_dir: str | Path | None = None,
  *,
  splits: Sequence[str] = ('train', 'test'),
  download: bool = False,
  source: str = SOURCE,
  progress: Progress | None = None,
) -> LabelledImages:
  """Loads Omniglot at 28 x 28 pixels, ink 255 on paper 0.

  A pixel is the mean of the area it covers, rounded. Classes have names like
  `Greek/character01`, and the order of tensorflow-datasets.

  Args:
    data_dir: a tensorflow-datasets directory, with `omniglot/3.0.0` in it.
    cache_dir: where to keep the decoded images, under a name that depends on
      every byte they were made of; None to keep nothing. A damaged cache is
      made again; one that cannot be written is a warning.
    splits: which splits of tensorflow-datasets to join. `train` (background)
      and `test` (evaluation) are all of Omniglot; `small1` and `small2` are
      parts of `train` that overlap.
    download: whether to `prepare` the data set where `data_dir` lacks it.
    source: where `prepare` downloads from.
    progress: is told how many drawings are prepared, and then how many are
      decoded, each of how many.

  Returns:
    All images of these splits, and the classes they have.

  Raises:
    DataError: if the data set is missing, incomplete, damaged or another one,
      or if it had to be prepared and could not be.
  """
  data_dir = Path(data_dir).expanduser()
  directory = data_dir / 'omniglot' / VERSION
  if not directory.is_dir():
    if not download:
      raise DataError(
        f'{data_dir}: no Omniglot here, {contents(data_dir)}; give the'
        f' directory that has omniglot/{VERSION} in it, or let Omniglot be'
        ' downloaded and prepared'
      )
    prepare(data_dir, source=source, progress=progress)
  if cache_dir is None:
    return _decode(directory, splits, progress)
  key = _digest(directory, splits)
  path = Path(cache_dir).expanduser() / f'omniglot-{key[:32]}.npz'
  data = _read_cache(path)
  if data is None:
    data = _decode(directory, splits, progress)
    _write_cache(path, data)
  return data


def shrink(raw: np.ndarray) -> np.ndarray:
  """Resizes drawings to 28 x 28 pixels by exact area averages.

  Args:
    raw: `[examples, 105, 105]`; ink is 0, paper is anything above, since
      1-bit images are {0, 1} to some decoders and {0, 255} to others.

  Returns:
    uint8 `[examples, 28, 28]`, 255 where all is ink and 0 where none is.

  Example:
    >>> import numpy as np
    >>> int(shrink(np.zeros((1, 105, 105), np.uint8)).min())
    255
  """
  # Overlaps in units of 1 / 28 of a raw pixel: each row of weights sums to
  # 105. All sums are whole and below 2^24, hence exact in float32.
  low = np.arange(SIZE)[:, None] * RAW_SIZE
  left = np.arange(RAW_SIZE)[None] * SIZE
  overlap = np.minimum(low + RAW_SIZE, left + SIZE) - np.maximum(low, left)
  weights = np.maximum(overlap, 0).astype(np.float32)
  ink = (raw == 0).astype(np.float32)
  area = (weights @ ink @ weights.T).astype(np.int64)
  whole = RAW_SIZE**2
  rounded: np.ndarray = (2 * 255 * area + whole) // (2 * whole)
  return rounded.astype(np.uint8)


def _digest(directory: Path, splits: Sequence[str]) -> str:
  """SHA-256 of all that `_decode` depends on."""
  total = hashlib.sha256(f'{_CACHE_FORMAT} {SIZE} {list(splits)}'.encode())
  patterns = ['*.json', '*.txt', *(f'omniglot-{split}.*' for split in splits)]
  try:
    for path in sorted(p for q in patterns for p in directory.glob(q)):
      content = hashlib.sha256(path.read_bytes()).hexdigest()
      total.update(f'\n{path.name} {content}'.encode())
  except OSError as error:
    raise DataError(f'{directory}: {reason(error)}') from error
  return total.hexdigest()


def _decode(
  directory: Path, splits: Sequence[str], progress: Progress | None
) -> LabelledImages:
  """Reads, verifies and shrinks every drawing."""
  names: dict[int, str] = {}
  images, labels = list[np.ndarray](), list[int]()
  for path, number, drawings in _read_shards(directory, splits):
    for start in range(0, len(drawings), _CHUNK):
      chunk = drawings[start : start + _CHUNK]
      images.append(shrink(_decode_png(path, [d.png for d in chunk])))
      if progress is not None:
        progress(len(labels) + start + len(chunk), number)
    labels += [drawing.label for drawing in drawings]
    for drawing in drawings:
      names[drawing.label] = (
        f'{drawing.alphabet}/character{drawing.character + 1:02d}'
      )
  present = sorted(names)
  return LabelledImages(
    np.concatenate(images),
    np.searchsorted(present, labels).astype(np.int32),
    tuple(names[label] for label in present),
  )


def _decode_png(path: Path, encoded: Sequence[bytes]) -> np.ndarray:
  """Decodes PNG files of 105 x 105 pixels to 0 (ink) and 255 (paper)."""
  from PIL import Image

  pixels = []
  for png in encoded:
    try:
      with Image.open(io.BytesIO(png), formats=('PNG',)) as image:
        size = image.size
        if size == (RAW_SIZE, RAW_SIZE):  # or it is refused undecoded
          pixels.append(image.convert('L').tobytes())
    except Exception as error:  # Whatever a decoder makes of damaged bytes.
      raise DataError(
        f'{path}: holds a damaged image ({reason(error)}); {AGAIN}'
      ) from error
    if size != (RAW_SIZE, RAW_SIZE):
      raise DataError(
        f'{path}: holds an image of {size[0]} x {size[1]} pixels; those of'
        f' Omniglot have {RAW_SIZE} x {RAW_SIZE}'
      )
  flat = np.frombuffer(b''.join(pixels), np.uint8)
  return flat.reshape(-1, RAW_SIZE, RAW_SIZE)


def _read_shards(
  directory: Path, splits: Sequence[str]
) -> Iterator[tuple[Path, int, list[Drawing]]]:
  """Reads the record files, one at a time so that errors can name it.

  With each is the number of drawings of all.
  """
  name = read_name(directory)
  if name != 'omniglot':
    raise DataError(f'{directory}: this is the data set {name!r}, not Omniglot')
  builder = open_builder(directory)
  try:
    alphabets = builder.info.features['alphabet'].names
    labels = builder.info.features['label'].names
  except Exception as error:  # Whatever it makes of damaged metadata.
    raise damaged_metadata(directory, error) from error
  number = sum(
    each.num_examples
    for name, each in builder.info.splits.items()
    if name in splits
  )
  for path, records in read_records(directory, builder, splits, 'image'):
    try:
      drawings = [_to_drawing(record, alphabets, labels) for record in records]
    except Exception as error:  # Whatever is wrong with a record.
      raise damaged_records(path, error) from error
    yield path, number, drawings


def _to_drawing(
  record: Mapping[str, Any], alphabets: Sequence[str], labels: Sequence[str]
) -> Drawing:
  alphabet = alphabets[record['alphabet']]
  character, label = int(record['alphabet_char_id']), int(record['label'])
  if labels[label] != f'{alphabet}_{character}':
    raise ValueError(
      f'character {character} of {alphabet} has the label {labels[label]}'
    )
  return Drawing(record['image'], alphabet, character, label)


def _read_cache(path: Path) -> LabelledImages | None:
  """The cached images, or None if there are none or they are damaged."""
  try:
    with zipfile.ZipFile(path) as archive:
      if archive.testzip():
        return None
    with np.load(path, allow_pickle=False) as arrays:
      return LabelledImages(
        arrays['images'], arrays['labels'], tuple(arrays['names'].tolist())
      )
  except Exception:  # Whatever it is, the cache can be made again.
    return None


def _write_cache(path: Path, data: LabelledImages) -> None:
  """Writes the cache under another name first: it is complete or not there."""
  temporary = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
      dir=path.parent, prefix=path.stem, suffix='.incomplete'
    )
    with os.fdopen(descriptor, 'wb') as file:
      np.savez(
        file,
        images=data.images,
        labels=data.labels,
        names=np.array(data.names),
      )
    os.replace(temporary, path)
  except OSError as error:
    warnings.warn(
      f'{path.parent}: cannot keep the decoded images of Omniglot here'
      f' ({reason(error)}), so the next run decodes them again',
      stacklevel=3,
    )
    if temporary is not None:
      Path(temporary).unlink(missing_ok=True)
