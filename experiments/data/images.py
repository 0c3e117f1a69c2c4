"""Data sets of images: from settings to task distributions.

`ImageData` are the settings of what is loaded and how it is divided; `load`
makes samplers of it.
"""

from functools import partial
from typing import Any

from experiments.data.folds import fold
from experiments.data.samplers import (
  Data,
  DataSet,
  Wanted,
  blaming,
  check_varied,
  divided,
  given,
  in_proportion,
  labelled,
  max_unpacked,
  refuse_others,
  refuse_seed,
  sizes,
  split_shares,
)
from experiments.runner.cache import cache_dir
from experiments.runner.errors import UsageError, suggestion
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.settings import (
  Base,
  Kind,
  OneOf,
  Whole,
  YesNo,
  setting,
  settings,
)
from metajax import tasks
from metajax.tasks import omniglot
from metajax.tasks.decoding import MAX_IMAGE_PIXELS
from metajax.tasks.folder import has_lists

__all__ = [
  'DATASETS',
  'DataSetName',
  'ImageData',
  'check_meaning',
  'dataset',
  'file_name',
  'files',
  'load',
  'resolve',
]

# Classes of training, where there is no end of them.
_STROKES_CLASSES = 1024


class DataSetName(Kind):
  """The name of a data set of images, or one of others."""

  text = (
    'strokes: procedural handwriting; omniglot, cifar_fs, fc100 and tfds:NAME'
    ' (any other): what tensorflow-datasets has prepared in --data_dir; npz:'
    ' arrays `images` and `labels` of --data_file; folder: image files in'
    ' --data_dir, with lists such as those of miniImageNet, or a folder a class'
  )

  def __init__(self, *others: str) -> None:
    self._others = others

  @property
  def allowed(self) -> str:  # type: ignore[override]
    """What to say that is allowed."""
    names = [*(name for name in DATASETS if name != 'tfds'), *self._others]
    return f'one of {", ".join(names)}, or tfds:NAME'

  def check(self, value: Any) -> Any:
    """Returns the name, or raises ValueError."""
    known = (set(DATASETS) - {'tfds'}) | set(self._others)
    if isinstance(value, str) and (
      value in known or (value.startswith('tfds:') and value != 'tfds:')
    ):
      return value
    raise ValueError(
      f'must be {self.allowed}{suggestion(str(value), sorted(known))}'
    )


def dataset(*others: str) -> Any:
  """The setting that names the data set, or one of others."""
  return setting(
    'strokes', DataSetName(*others), DataSetName.text,
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip


@settings
class ImageData(Base):
  """What is loaded, and how it is divided."""

  dataset: str = dataset()
  data_dir: str | None = setting(
    None, Place(), 'tensorflow-datasets directory, or folder of images',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  download: bool = setting(
    False, YesNo(), 'download and prepare what --data_dir lacks',
    of='machine', resume=True, forwarded=True,
  )  # fmt: skip
  data_file: str | None = setting(
    None, Place(), 'npz file', of='data', resume=True, forwarded=True
  )
  split_dir: str | None = setting(
    None, Place(), 'train.txt, val.txt and test.txt: a class a line; for'
    ' folder also train.csv, val.csv and test.csv: filename,label'
    ' [default of folder: --data_dir]',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  image_size: int | None = setting(
    None, Whole(), 'resize images of folder and tfds to squares of so many'
    ' pixels [default: all have to be of one size]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  skip_unreadable: bool = setting(
    False, YesNo(), 'leave out images of folder and tfds that are'
    ' missing or damaged',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  max_image_pixels: int | None = setting(
    None, Whole(), 'refuse an image of folder and tfds that has more pixels'
    f' [default: {MAX_IMAGE_PIXELS}]',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip
  max_unpacked_mebibytes: int | None = max_unpacked('an npz file')
  rotate: bool | None = setting(
    None, YesNo(),
    'rotations by 90 degrees make new training classes'
    ' [default: yes for omniglot split by seed, no otherwise]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  rotate_test: bool = setting(
    False, YesNo(), 'rotations make new validation and test classes too',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_seed: int = setting(
    0, Whole(0), 'of the division of classes',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  split_shares: tuple[float, ...] | None = split_shares(
    'classes of npz, tfds, and folders that are classes'
  )
  fold: str | None = fold()
  within_groups: bool = setting(
    False, YesNo(), 'all classes of a task are of one alphabet'
    ' (omniglot; by seed, whole alphabets are divided) or superclass (fc100)',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  images_on: str = setting(
    'auto', OneOf(['auto', 'device', 'host']),
    'where the images of a data set lie. device: tasks are drawn there; host:'
    ' the same tasks are drawn in the memory of the host, by each process for'
    ' its own devices, and streamed; auto: on the device if they fill no more'
    ' than half of its memory',
    of='machine', resume=True, forwarded=True,
  )  # fmt: skip


def resolve(settings: Any) -> Any:
  """The settings with the default that depends on the data set."""
  if settings.rotate is None and settings.dataset == 'omniglot':
    return settings.replace(rotate=not settings.split_dir)
  return settings


def load(wanted: Wanted) -> Data:
  """Loads what the settings name; misuse is a UsageError."""
  row = DATASETS[wanted.settings.dataset.partition(':')[0]]
  check_meaning(wanted.settings, row.settings)
  check_varied(wanted)
  return row.load(wanted)


def check_meaning(settings: Any, allowed: frozenset[str]) -> None:
  """Refuses settings of other data sets than the one that is named."""
  refuse_others(settings, DATASETS, allowed)


def load_strokes(wanted: Wanted) -> Data:
  """Procedural handwriting."""
  settings = wanted.settings
  if settings.images_on == 'host':
    raise UsageError('images_on', 'strokes are drawn on the device alone')
  recipe, varied = wanted.recipe, wanted.varied
  if wanted.trains_on_classes:
    train = tasks.strokes_classification(_STROKES_CLASSES, recipe.batch_size)
  else:
    train = tasks.strokes(
      *sizes(recipe, training=True), split='train', **varied
    )
  tested = partial(tasks.strokes, *sizes(recipe, training=False), **varied)
  # Of each split there are 2**32 classes.
  inside = settings.fold is not None
  described = 'others of training' if inside else 'disjoint'
  return Data(
    train,
    tested(split='train' if inside else 'validation'),
    tested(split='train' if inside else 'test'),
    {'split': f'stroke programs, {described} by seed', 'rotation': 'none'},
    _STROKES_CLASSES,
  )


def load_omniglot(wanted: Wanted) -> Data:
  """Omniglot, prepared first if need be."""
  settings = wanted.settings
  data_dir = _data_dir(settings, 'or one to prepare it in')
  with blaming('data_dir'), shown('reading Omniglot') as progress:
    data = omniglot.load(
      data_dir, cache_dir(settings.cache_dir), download=settings.download,
      progress=progress,
    )  # fmt: skip
  by_seed = partial(
    tasks.split_by_seed,
    train_classes=omniglot.TRAIN_CLASSES,
    validation_classes=omniglot.VALIDATION_CLASSES,
  )
  if settings.within_groups:
    by_seed = partial(
      tasks.split_groups_by_seed,
      train_groups=omniglot.TRAIN_ALPHABETS,
      validation_groups=omniglot.VALIDATION_ALPHABETS,
    )
  return labelled(wanted, *divided(wanted, data, by_seed))


def load_cifar_fs(wanted: Wanted) -> Data:
  """CIFAR-100 divided at random, by the lists of those who proposed it."""
  settings = wanted.settings
  data_dir = _data_dir(settings, 'as cifar100')
  if settings.split_dir is None:
    raise UsageError(
      'split_dir', 'cifar_fs needs train.txt, val.txt and test.txt of its'
      ' authors, a class a line'
    )  # fmt: skip
  with blaming('data_dir'), shown('decoding images') as progress:
    data = tasks.load_cifar100(data_dir, progress=progress)
  return labelled(wanted, *divided(wanted, data, tasks.split_by_files))


def load_fc100(wanted: Wanted) -> Data:
  """CIFAR-100 divided by superclass."""
  settings = wanted.settings
  data_dir = _data_dir(settings, 'as cifar100')
  with blaming('data_dir'), shown('decoding images') as progress:
    splits = tasks.load_fc100(data_dir, progress=progress)
  return labelled(wanted, splits, 'superclass')


def load_npz_file(wanted: Wanted) -> Data:
  """The user's own arrays."""
  settings = wanted.settings
  if settings.data_file is None:
    raise UsageError(
      'data_file', 'npz needs a file with arrays `images` and `labels`'
    )
  with blaming('data_file'), shown('reading images'):
    data = tasks.load_npz(settings.data_file, **given(settings, _UNPACKED))
  return _by_shares(wanted, data, 'data_file', settings.data_file)


def load_folder_of_images(wanted: Wanted) -> Data:
  """The user's own image files; lists or folders divide them, or a seed."""
  settings = wanted.settings
  data_dir, split_dir = settings.data_dir, settings.split_dir
  if data_dir is None:
    raise UsageError(
      'data_dir', 'folder needs the directory of the image files: with'
      ' train.csv, val.csv and test.csv, unless --split_dir has them, or of'
      ' folders that are classes, which train, val and test may divide'
    )  # fmt: skip
  how = given(settings, _DECODED)
  with blaming('data_dir'), shown('decoding images') as progress:
    how['progress'] = progress
    if not tasks.is_divided(data_dir, split_dir):
      data = tasks.load_class_folders(data_dir, **how)
      return _by_shares(wanted, data, 'data_dir', data_dir)
    lists = split_dir or has_lists(data_dir)
    origin = 'lists of files' if lists else 'folders'
    refuse_seed(wanted, origin)
    splits = tasks.load_folder(data_dir, split_dir, **how)
  return labelled(wanted, splits, origin)


def load_tfds(wanted: Wanted) -> Data:
  """Any image set of tensorflow-datasets."""
  settings = wanted.settings
  name, data_dir = settings.dataset.partition(':')[2], _data_dir(settings)
  with blaming('data_dir'), shown('decoding images') as progress:
    data = tasks.load_prepared(
      name,
      data_dir,
      progress=progress,
      **given(settings, _DECODED),
    )
  return _by_shares(wanted, data, 'dataset', name)


def _by_shares(wanted: Wanted, data: Any, flag: str, origin: str) -> Data:
  """What its makers have not divided: by class lists, or by seed."""
  if wanted.settings.split_dir:
    return labelled(wanted, *divided(wanted, data, None))
  by_seed = in_proportion(wanted, data, flag, origin)
  return labelled(wanted, *divided(wanted, data, by_seed), by_shares=True)


_TURNED = frozenset({'rotate', 'rotate_test'})
_DIVIDED = _TURNED | {'split_dir', 'split_seed'}
_SHARED = frozenset({'split_shares'})
_DECODED = frozenset({'image_size', 'skip_unreadable', 'max_image_pixels'})
_UNPACKED = frozenset({'max_unpacked_mebibytes'})

DATASETS = {
  'strokes': DataSet(load_strokes, frozenset()),
  'omniglot': DataSet(
    load_omniglot, _DIVIDED | {'data_dir', 'download', 'within_groups'}
  ),
  'cifar_fs': DataSet(load_cifar_fs, _TURNED | {'data_dir', 'split_dir'}),
  'fc100': DataSet(load_fc100, _TURNED | {'data_dir', 'within_groups'}),
  'npz': DataSet(load_npz_file, _DIVIDED | _SHARED | _UNPACKED | {'data_file'}),
  'folder': DataSet(
    load_folder_of_images, _DIVIDED | _DECODED | _SHARED | {'data_dir'}
  ),
  'tfds': DataSet(load_tfds, _DIVIDED | _SHARED | _DECODED | {'data_dir'}),
}


def file_name(settings: ImageData) -> str:
  """The name of the data set as file names can have it."""
  return settings.dataset.replace(':', '-').replace('/', '-')


def files(settings: ImageData) -> dict[str, Any]:
  """How image files become what the data set has (`reading.of_images`)."""
  drawn = settings.dataset in ('strokes', 'omniglot')
  size = omniglot.SIZE if drawn else settings.image_size
  return {'size': size, 'ink': drawn}


def _data_dir(settings: ImageData, how: str = '') -> str:
  if settings.data_dir is None:
    raise UsageError(
      'data_dir',
      f'{settings.dataset} needs the tensorflow-datasets directory that holds'
      ' it' + (how and f', {how}'),
    )
  return settings.data_dir
