"""Any image data set that tensorflow-datasets has prepared, without TensorFlow.

It has to be prepared as array_record, which does not need TensorFlow to be
read: `tfds.builder(NAME, data_dir=DIR).download_and_prepare(
file_format='array_record')`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.tasks.decoding import (
  MAX_IMAGE_PIXELS,
  Picture,
  Progress,
  decode,
)
from metajax.tasks.errors import DataError, reason
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.names import normal_name, numbered

__all__ = [
  'AGAIN',
  'damaged_metadata',
  'damaged_records',
  'find',
  'load_prepared',
  'open_builder',
  'read_name',
  'read_records',
]

AGAIN = 'remove the directory it is in and prepare it again'
_INFO = 'dataset_info.json'


def load_prepared(
  name: str,
  data_dir: str | Path,
  *,
  group: str | None = None,
  image_size: int | None = None,
  skip_unreadable: bool = False,
  max_image_pixels: int = MAX_IMAGE_PIXELS,
  progress: Progress | None = None,
) -> LabelledImages:
  """Loads all splits of an image data set as one.

  What divides them is which classes are for training, for validation and for
  test, and not what its makers divided the examples by. Photos are turned
  upright, and what is transparent lies on white, as `load_folder` has them.

  Args:
    name: of the data set, such as `cifar100`; where `data_dir` has several
      versions or configurations of it, also with one, as `cifar100/3.0.2`.
    data_dir: a tensorflow-datasets directory.
    group: another label of the data set, that puts classes into groups: a
      class is then named `group/class`.
    image_size: resize all images to squares of so many pixels; without it,
      all have to be of one size.
    skip_unreadable: leave out, with a warning, what cannot be decoded.
    max_image_pixels: refuse an image of more, before it is decoded.
    progress: is told how many images have been read, and of how many.

  Returns:
    All images that have a label, and the classes they have.

  Raises:
    DataError: if the data set is not there, is no set of labelled images, is
      damaged, or has images of several sizes or too many pixels.
  """
  directory = find(name, data_dir)
  builder = open_builder(directory)
  image, label = _keys(directory, builder.info)
  features = builder.info.features
  if group is not None and group not in features:
    raise DataError(
      f'{directory}: has no label {group!r}; it has {", ".join(features)}'
    )
  splits = tuple(builder.info.splits)
  labels: list[int] = []
  groups: dict[int, str] = {}

  def pictures() -> Iterator[Picture]:
    for path, records in read_records(directory, builder, splits, image):
      for number, record in enumerate(records):
        if record[label] < 0:  # of a test whose labels are kept secret
          continue
        labels.append(int(record[label]))
        if group is not None:
          of_class = features[group].names[record[group]]
          groups[labels[-1]] = f'{of_class}/'
        yield Picture(f'image {number} of {path.name}', record[image])

  images, kept = decode(
    pictures(),
    sum(builder.info.splits[split].num_examples for split in splits),
    str(directory),
    image_size=image_size,
    skip_unreadable=skip_unreadable,
    max_image_pixels=max_image_pixels,
    progress=progress,
  )
  present, indices = np.unique(np.asarray(labels)[kept], return_inverse=True)
  names = features[label].names or [
    str(value) for value in range(max(labels) + 1)
  ]
  of_classes = tuple(
    normal_name(groups.get(int(value), '') + names[value]) for value in present
  )
  try:
    numbered(of_classes)
  except DataError as error:
    raise DataError(f'{directory}: {error}') from error
  return LabelledImages(images, indices.astype(np.int32), of_classes)


def find(name: str, data_dir: str | Path) -> Path:
  """The directory of a prepared data set.

  Raises:
    DataError: if there is none of this name, or several.
  """
  data_dir = Path(data_dir).expanduser()
  if not data_dir.is_dir():
    raise DataError(f'{data_dir}: there is no such directory')
  root = data_dir / name
  found = _prepared_in(root)
  if not found:
    there = {path.relative_to(data_dir).parts[0] for path in _below(data_dir)}
    raise DataError(
      f'{data_dir}: the data set {name!r} is not prepared here; there is'
      f' {", ".join(sorted(there)) or "none"}; prepare it as array_record'
    )
  if len(found) > 1:
    raise DataError(
      f'{root}: there are several:'
      f' {", ".join(str(path.relative_to(data_dir)) for path in found)}; name'
      ' one of these'
    )
  return found[0]


def _prepared_in(root: Path) -> list[Path]:
  """Itself, its versions, and the versions of its configurations."""
  return [root] if (root / _INFO).is_file() else _below(root)


def _below(directory: Path) -> list[Path]:
  found = {
    path.parent
    for depth in range(1, 4)
    for path in directory.glob('*/' * depth + _INFO)
  }
  return sorted(path for path in found if 'incomplete' not in str(path))


def read_name(directory: Path) -> str:
  """Reads which data set a directory says it is; DataError if it does not."""
  path = directory / _INFO
  try:
    return str(json.loads(path.read_bytes())['name'])
  except FileNotFoundError:
    raise DataError(
      f'{path}: there is no such file, so this is no prepared data set'
    ) from None
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise DataError(f'{path}: damaged ({reason(error)})') from error


def open_builder(directory: Path) -> Any:
  """Reads what a prepared data set says of itself.

  Raises:
    DataError: if that is damaged, or if only TensorFlow could read the data.
  """
  read_name(directory)
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format.value
  except Exception as error:  # Whatever it makes of damaged metadata.
    raise damaged_metadata(directory, error) from error
  if file_format != 'array_record':
    raise DataError(
      f'{directory}: prepared as {file_format}, which only TensorFlow reads;'
      ' prepare it as array_record, in another data directory'
    )
  return builder


def read_records(
  directory: Path, builder: Any, splits: Sequence[str], image: str
) -> Iterator[tuple[Path, list[Mapping[str, Any]]]]:
  """Reads record files, one at a time so that errors can name them.

  Args:
    directory: of the data set.
    builder: of `open_builder`.
    splits: which to read.
    image: the feature that stays as it is stored, an encoded file.

  Yields:
    The path of a file, and its records.

  Raises:
    DataError: if a split is missing, or a file damaged.
  """
  import tensorflow_datasets as tfds

  info = builder.info
  missing = [split for split in splits if split not in info.splits]
  if missing:
    raise DataError(
      f'{directory}: lacks the splits {", ".join(missing)}; it has'
      f' {", ".join(info.splits) or "none"}'
    )
  decoders = {image: tfds.decode.SkipDecoding()}
  for split in splits:
    start = 0
    shards = zip(
      info.splits[split].filepaths,
      info.splits[split].shard_lengths,
      strict=True,
    )
    for path, length in shards:
      try:
        source = builder.as_data_source(
          split=f'{split}[{start}:{start + length}]', decoders=decoders
        )
        records = source.__getitems__(range(length))
        # A truncated file can yield empty records, and no error.
        if any(value is None for each in records for value in each.values()):
          raise ValueError('a record is empty')
      except Exception as error:  # Whatever it makes of damaged bytes.
        raise damaged_records(Path(path), error) from error
      yield Path(path), records
      start += length


def damaged_metadata(directory: Path, error: Exception) -> DataError:
  """Makes the error for a data set that does not say what it is."""
  return DataError(f'{directory}: damaged metadata ({reason(error)}); {AGAIN}')


def damaged_records(path: Path, error: Exception) -> DataError:
  """Makes the error for records that cannot be read."""
  return DataError(f'{path}: truncated or damaged ({reason(error)}); {AGAIN}')


def _keys(directory: Path, info: Any) -> tuple[str, str]:
  """Which features are the image and its class."""
  import tensorflow_datasets as tfds

  supervised = info.supervised_keys or ()
  keys = []
  for what, kind in (
    ('image', tfds.features.Image),
    ('class label', tfds.features.ClassLabel),
  ):
    able = [key for key, value in info.features.items() if type(value) is kind]
    chosen = [key for key in able if key in supervised] or able
    if len(chosen) != 1:
      raise DataError(
        f'{directory}: should have one {what}; it has'
        f' {", ".join(able) or "none"}'
      )
    keys.append(chosen[0])
  return keys[0], keys[1]
