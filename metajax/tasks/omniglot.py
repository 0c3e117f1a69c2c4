"""Omniglot: 1623 handwritten characters, 20 drawings of each.

Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through
probabilistic program induction, Science 350(6266):1332-1338.

The data set is read from, and prepared as, a tensorflow-datasets directory.
Neither needs TensorFlow.
"""

import contextlib
import hashlib
import io
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks.labelled import DataError, LabelledImages, reason
from metajax.tasks.prepared import (
  AGAIN,
  damaged_metadata,
  damaged_records,
  open_builder,
  read_name,
  read_records,
)

# The usual split: 1200 classes to train on, 100 of them for validation, and
# the other 423 for test.
TRAIN_CLASSES = 1200
VALIDATION_CLASSES = 100
# About the same by whole alphabets: 37 of the 50 to train on, 5 of them for
# validation.
TRAIN_ALPHABETS = 37
VALIDATION_ALPHABETS = 5

SOURCE = 'https://github.com/brendenlake/omniglot/raw/master/python'
SIZE = 28  # pixels, after resizing
_RAW_SIZE = 105  # pixels
_VERSION = '3.0.0'
_NUM_ALPHABETS = 50
_NUM_CLASSES = 1623
_CACHE_FORMAT = 1  # to be raised when what is cached changes
_CHUNK = 1024  # images decoded at a time
_TIMEOUT = 20  # seconds to wait for an answer


class _Archive(NamedTuple):
  """A file upstream."""

  name: str
  size: int  # bytes
  sha256: str


_ARCHIVES = {
  'train': _Archive(
    'images_background.zip',
    9464212,
    'ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640',
  ),
  'test': _Archive(
    'images_evaluation.zip',
    6462886,
    '1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee',
  ),
  'small1': _Archive(
    'images_background_small1.zip',
    1319022,
    'f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4',
  ),
  'small2': _Archive(
    'images_background_small2.zip',
    1580917,
    '3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f',
  ),
}


class _Drawing(NamedTuple):
  """One example, before it is decoded."""

  png: bytes
  alphabet: str
  character: int  # within the alphabet, from 0
  label: int  # within the data set, from 0


def load(
  data_dir: str | Path,
  cache_dir: str | Path | None = None,
  *,
  splits: Sequence[str] = ('train', 'test'),
  download: bool = False,
  source: str = SOURCE,
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

  Returns:
    All images of these splits, and the classes they have.

  Raises:
    DataError: if the data set is missing, incomplete, damaged or another one,
      or if it had to be prepared and could not be.
  """
  data_dir = Path(data_dir).expanduser()
  directory = data_dir / 'omniglot' / _VERSION
  if not directory.is_dir():
    if not download:
      raise DataError(
        f'{data_dir}: no Omniglot here, {_contents(data_dir)}; give the'
        f' directory that has omniglot/{_VERSION} in it, or let Omniglot be'
        ' downloaded and prepared'
      )
    prepare(data_dir, source=source)
  if cache_dir is None:
    return _decode(directory, splits)
  key = _digest(directory, splits)
  path = Path(cache_dir).expanduser() / f'omniglot-{key[:32]}.npz'
  data = _read_cache(path)
  if data is None:
    data = _decode(directory, splits)
    _write_cache(path, data)
  return data


def prepare(
  data_dir: str | Path,
  *,
  splits: Sequence[str] = tuple(_ARCHIVES),
  source: str = SOURCE,
) -> Path:
  """Downloads Omniglot and makes a tensorflow-datasets directory of it.

  The features are those of tensorflow-datasets' own builder, which however
  needs TensorFlow; the files are array_record. Archives are verified, and may
  be put into `<data_dir>/downloads/manual` instead of being downloaded. The
  directory gets its name only when it is complete.

  Args:
    data_dir: a tensorflow-datasets directory; made if need be.
    splits: which to prepare, of `train`, `test`, `small1`, `small2`. Labels
      are upstream's in any case; names are known for these splits only.
    source: the URL of the directory that has the four archives.

  Returns:
    `<data_dir>/omniglot/3.0.0`. If it is there already, it is left alone.

  Raises:
    DataError: if an archive cannot be had or has a wrong checksum, or if the
      directory cannot be written.
  """
  data_dir = Path(data_dir).expanduser()
  directory = data_dir / 'omniglot' / _VERSION
  unknown = sorted(set(splits) - set(_ARCHIVES))
  if unknown or not splits:
    raise DataError(
      f'splits={list(splits)}: Omniglot has the splits {", ".join(_ARCHIVES)}'
    )
  if directory.is_dir():
    return directory
  if data_dir.exists() and not data_dir.is_dir():
    raise DataError(f'{data_dir}: not a directory')
  if (data_dir / 'dataset_info.json').exists():
    raise DataError(
      f'{data_dir}: {_contents(data_dir)}, and is no place for another; give'
      ' a directory above it, or a new one'
    )
  archives = {name: _ARCHIVES[name] for name in splits}
  manual = data_dir / 'downloads' / 'manual'
  advice = (
    'to prepare Omniglot by hand, put'
    f' {", ".join(archive.name for archive in archives.values())} into'
    f' {manual} and run this again'
  )
  source = source.rstrip('/')
  missing = [
    f'{source}/{archive.name}'
    for archive in archives.values()
    if not (manual / archive.name).exists()
  ]
  _check_reachable(missing, advice)
  _build(data_dir, archives, source, advice)
  return directory


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
  low = np.arange(SIZE)[:, None] * _RAW_SIZE
  left = np.arange(_RAW_SIZE)[None] * SIZE
  overlap = np.minimum(low + _RAW_SIZE, left + SIZE) - np.maximum(low, left)
  weights = np.maximum(overlap, 0).astype(np.float32)
  ink = (raw == 0).astype(np.float32)
  area = (weights @ ink @ weights.T).astype(np.int64)
  whole = _RAW_SIZE**2
  rounded: np.ndarray = (2 * 255 * area + whole) // (2 * whole)
  return rounded.astype(np.uint8)


def _contents(data_dir: Path) -> str:
  """Says what a directory without the data set holds."""
  if not data_dir.is_dir():
    return 'it is not a directory' if data_dir.exists() else 'it does not exist'
  if (data_dir / 'dataset_info.json').is_file():
    return f'it is itself the data set {read_name(data_dir)!r}'
  entries = sorted(
    path.name
    for path in data_dir.iterdir()
    if path.name not in ('omniglot', 'downloads')
  )
  versions = data_dir / 'omniglot'
  if versions.is_dir():
    entries += sorted(
      f'omniglot/{path.name}'
      for path in versions.iterdir()
      if 'incomplete' not in path.name
    )
  if not entries:
    return (
      'nothing is prepared in it' if any(data_dir.iterdir()) else 'it is empty'
    )
  more = ', ...' if len(entries) > 5 else ''
  return f'it holds {", ".join(entries[:5])}{more}'


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


def _decode(directory: Path, splits: Sequence[str]) -> LabelledImages:
  """Reads, verifies and shrinks every drawing."""
  names: dict[int, str] = {}
  images, labels = [], []
  for path, drawings in _read_shards(directory, splits):
    for start in range(0, len(drawings), _CHUNK):
      chunk = drawings[start : start + _CHUNK]
      images.append(shrink(_decode_png(path, [d.png for d in chunk])))
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
        pixels.append(image.convert('L').tobytes())
    except (OSError, ValueError, SyntaxError) as error:
      raise DataError(
        f'{path}: holds a damaged image ({reason(error)}); {AGAIN}'
      ) from error
    if size != (_RAW_SIZE, _RAW_SIZE):
      raise DataError(
        f'{path}: holds an image of {size[0]} x {size[1]} pixels; those of'
        f' Omniglot have {_RAW_SIZE} x {_RAW_SIZE}'
      )
  flat = np.frombuffer(b''.join(pixels), np.uint8)
  return flat.reshape(-1, _RAW_SIZE, _RAW_SIZE)


def _read_shards(
  directory: Path, splits: Sequence[str]
) -> Iterator[tuple[Path, list[_Drawing]]]:
  """Reads the record files, one at a time so that errors can name it."""
  name = read_name(directory)
  if name != 'omniglot':
    raise DataError(f'{directory}: this is the data set {name!r}, not Omniglot')
  builder = open_builder(directory)
  try:
    alphabets = builder.info.features['alphabet'].names
    labels = builder.info.features['label'].names
  except Exception as error:  # Whatever it makes of damaged metadata.
    raise damaged_metadata(directory, error) from error
  for path, records in read_records(directory, builder, splits, 'image'):
    try:
      drawings = [_to_drawing(record, alphabets, labels) for record in records]
    except Exception as error:  # Whatever is wrong with a record.
      raise damaged_records(path, error) from error
    yield path, drawings


def _to_drawing(
  record: Mapping[str, Any], alphabets: Sequence[str], labels: Sequence[str]
) -> _Drawing:
  alphabet = alphabets[record['alphabet']]
  character, label = int(record['alphabet_char_id']), int(record['label'])
  if labels[label] != f'{alphabet}_{character}':
    raise ValueError(
      f'character {character} of {alphabet} has the label {labels[label]}'
    )
  return _Drawing(record['image'], alphabet, character, label)


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


def _check_reachable(urls: Sequence[str], advice: str) -> None:
  """Asks for each file; the download manager would retry for minutes."""
  import requests

  for url in urls:
    try:
      response = requests.head(url, allow_redirects=True, timeout=_TIMEOUT)
      response.raise_for_status()
    except requests.RequestException as error:
      raise DataError(
        f'{url}: cannot be downloaded ({reason(error)}); {advice}'
      ) from error


def _build(
  data_dir: Path, archives: dict[str, _Archive], source: str, advice: str
) -> None:
  """Downloads the archives and writes the data set."""
  with _quiet():
    import tensorflow_datasets as tfds

    try:
      _make_builder(data_dir, archives, source).download_and_prepare(
        download_dir=data_dir / 'downloads',
        download_config=tfds.download.DownloadConfig(
          try_download_gcs=False, force_checksums_validation=True
        ),
        file_format='array_record',
      )
    except DataError:
      raise
    except Exception as error:  # Of the network, the disk, or a checksum.
      text = ' '.join(str(error).split()) or type(error).__name__
      text = text.partition(' To debug, see')[0]
      raise DataError(
        f'{data_dir}: Omniglot was not prepared, since: {text}; {advice}'
      ) from error


def _make_builder(
  data_dir: Path, archives: dict[str, _Archive], source: str
) -> Any:
  """A tensorflow-datasets builder that writes PNG files as they are."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import registered
  from tensorflow_datasets.core.download import checksums

  urls = {
    split: f'{source}/{archive.name}' for split, archive in archives.items()
  }
  known = {
    urls[split]: checksums.UrlInfo(
      size=archive.size, checksum=archive.sha256, filename=archive.name
    )
    for split, archive in archives.items()
  }
  # tensorflow-datasets has one of this name registered.
  with registered.skip_registration():

    class Omniglot(tfds.core.GeneratorBasedBuilder):
      """Omniglot, without TensorFlow."""

      VERSION = tfds.core.Version(_VERSION)
      url_infos = known

      def _info(self) -> Any:
        return tfds.core.DatasetInfo(
          builder=self,
          description='Omniglot data set for one-shot learning.',
          features=tfds.features.FeaturesDict(
            {
              'image': tfds.features.Image(
                shape=(_RAW_SIZE, _RAW_SIZE, 3), encoding_format='png'
              ),
              'alphabet': tfds.features.ClassLabel(num_classes=_NUM_ALPHABETS),
              'alphabet_char_id': np.int64,
              'label': tfds.features.ClassLabel(num_classes=_NUM_CLASSES),
            }
          ),
          supervised_keys=('image', 'label'),
          homepage='https://github.com/brendenlake/omniglot/',
          citation=(__doc__ or '').split('\n\n')[1],
        )

      def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        paths = {
          split: Path(path) for split, path in dl_manager.download(urls).items()
        }
        drawings = {
          split: _read_archive(path, archives[split].sha256)
          for split, path in paths.items()
        }
        alphabets, labels = _names(drawings.values())
        self.info.features['alphabet'].names = alphabets
        self.info.features['label'].names = labels
        return {
          split: self._generate_examples(keyed)
          for split, keyed in drawings.items()
        }

      def _generate_examples(self, keyed: dict[str, _Drawing]) -> Iterator[Any]:
        for key, drawing in keyed.items():
          yield (
            key,
            {
              'image': drawing.png,
              'alphabet': drawing.alphabet,
              'alphabet_char_id': drawing.character,
              'label': drawing.label,
            },
          )

  return Omniglot(data_dir=str(data_dir))


_ENTRY = re.compile(r'[^/]+/([^/]+)/character(\d+)/((\d+)_\d+\.png)')


def _read_archive(path: Path, sha256: str) -> dict[str, _Drawing]:
  """The drawings of an archive, by the keys that tensorflow-datasets uses."""
  content = path.read_bytes()
  # The download manager does not verify again what it has downloaded before.
  if hashlib.sha256(content).hexdigest() != sha256:
    path.unlink()
    raise DataError(
      f'{path}: this earlier download has a wrong checksum and was removed;'
      ' run this again to download it'
    )
  drawings = {}
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    for name in sorted(archive.namelist()):
      match = _ENTRY.fullmatch(name)
      if match:
        alphabet, character, file = match[1], int(match[2]) - 1, match[3]
        drawings[f'{alphabet}_{character}_{file}'] = _Drawing(
          archive.read(name), alphabet, character, int(match[4]) - 1
        )
  return drawings


def _names(
  splits: Iterable[dict[str, _Drawing]],
) -> tuple[list[str], list[str]]:
  """Names of all alphabets and labels; made up for those not prepared."""
  drawings = [drawing for split in splits for drawing in split.values()]
  alphabets = sorted({drawing.alphabet for drawing in drawings})
  alphabets += [
    f'unprepared_{index}' for index in range(len(alphabets), _NUM_ALPHABETS)
  ]
  labels = [f'unprepared_{index}' for index in range(_NUM_CLASSES)]
  for drawing in drawings:
    labels[drawing.label] = f'{drawing.alphabet}_{drawing.character}'
  return alphabets, labels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps progress bars and messages of a library off the terminal."""
  silent = io.StringIO()
  with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
    yield
