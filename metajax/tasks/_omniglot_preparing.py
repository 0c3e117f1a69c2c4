"""Preparing Omniglot: from the archives of its authors to prepared records.

It writes what the builder of tensorflow-datasets would write, without the
TensorFlow that this one needs.
"""

import contextlib
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.tasks.decoding import Progress
from metajax.tasks.errors import DataError, reason
from metajax.tasks.prepared import read_name

__all__ = ['RAW_SIZE', 'SOURCE', 'VERSION', 'Drawing', 'contents', 'prepare']

SOURCE = 'https://github.com/brendenlake/omniglot/raw/master/python'
RAW_SIZE = 105  # pixels
VERSION = '3.0.0'
_NUM_ALPHABETS = 50
_NUM_CLASSES = 1623
_TIMEOUT = 20  # seconds to wait for an answer
_CITATION = """\
Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through
probabilistic program induction, Science 350(6266):1332-1338."""


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


class Drawing(NamedTuple):
  """One example, before it is decoded."""

  png: bytes
  alphabet: str
  character: int  # within the alphabet, from 0
  label: int  # within the data set, from 0


def prepare(
  data_dir: str | Path,
  *,
  splits: Sequence[str] = tuple(_ARCHIVES),
  source: str = SOURCE,
  progress: Progress | None = None,
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
    progress: is told how many drawings are written, and of how many.

  Returns:
    `<data_dir>/omniglot/3.0.0`. If it is there already, it is left alone.

  Raises:
    DataError: if an archive cannot be had or has a wrong checksum, or if the
      directory cannot be written.
  """
  data_dir = Path(data_dir).expanduser()
  directory = data_dir / 'omniglot' / VERSION
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
      f'{data_dir}: {contents(data_dir)}, and is no place for another; give'
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
  _build(data_dir, archives, source, advice, progress)
  return directory


def contents(data_dir: Path) -> str:
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
  data_dir: Path,
  archives: dict[str, _Archive],
  source: str,
  advice: str,
  progress: Progress | None,
) -> None:
  """Downloads the archives and writes the data set."""
  with _quiet():
    import tensorflow_datasets as tfds

    try:
      builder = _make_builder(data_dir, archives, source, progress)
      builder.download_and_prepare(
        download_dir=data_dir / 'downloads',
        download_config=tfds.download.DownloadConfig(
          try_download_gcs=False, force_checksums_validation=True
        ),
        file_format='array_record',
      )
    except DataError:
      raise
    except Exception as error:  # The network, the disk or a checksum.
      text = ' '.join(str(error).split()) or type(error).__name__
      text = text.partition(' To debug, see')[0]
      raise DataError(
        f'{data_dir}: Omniglot was not prepared, since: {text}; {advice}'
      ) from error


def _make_builder(
  data_dir: Path,
  archives: dict[str, _Archive],
  source: str,
  progress: Progress | None,
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

      VERSION = tfds.core.Version(VERSION)
      url_infos = known

      def _info(self) -> Any:
        return tfds.core.DatasetInfo(
          builder=self,
          description='Omniglot data set for one-shot learning.',
          features=tfds.features.FeaturesDict(
            {
              'image': tfds.features.Image(
                shape=(RAW_SIZE, RAW_SIZE, 3), encoding_format='png'
              ),
              'alphabet': tfds.features.ClassLabel(num_classes=_NUM_ALPHABETS),
              'alphabet_char_id': np.int64,
              'label': tfds.features.ClassLabel(num_classes=_NUM_CLASSES),
            }
          ),
          supervised_keys=('image', 'label'),
          homepage='https://github.com/brendenlake/omniglot/',
          citation=_CITATION,
        )

      def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        paths = {
          split: Path(path) for split, path in dl_manager.download(urls).items()
        }
        drawings = {
          split: _read_archive(path, archives[split].sha256)
          for split, path in paths.items()
        }
        self.number = sum(map(len, drawings.values()))
        self.written = 0
        alphabets, labels = _names(drawings.values())
        self.info.features['alphabet'].names = alphabets
        self.info.features['label'].names = labels
        return {
          split: self._generate_examples(keyed)
          for split, keyed in drawings.items()
        }

      def _generate_examples(self, keyed: dict[str, Drawing]) -> Iterator[Any]:
        for key, drawing in keyed.items():
          self.written += 1
          if progress is not None:
            progress(self.written, self.number)
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


def _read_archive(path: Path, sha256: str) -> dict[str, Drawing]:
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
        drawings[f'{alphabet}_{character}_{file}'] = Drawing(
          archive.read(name), alphabet, character, int(match[4]) - 1
        )
  return drawings


def _names(
  splits: Iterable[dict[str, Drawing]],
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
