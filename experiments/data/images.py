"""The data sets of the image experiment: loaded, divided, made samplers of."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from absl import flags

from experiments.runner import options
from experiments.runner.options import FLAGS, UsageError
from metajax.algorithms.recipes import Recipe
from metajax.algorithms.table import ALGORITHMS

flags.disclaim_key_flags()  # they belong to the binary that asks for them

# Flags of some data sets only.
OWN = (
  'data_dir', 'data_file', 'download', 'image_size', 'rotate', 'rotate_test',
  'skip_unreadable', 'split_dir', 'split_seed', 'within_groups',
)  # fmt: skip
# Classes of training, where there is no end of them.
_STROKES_CLASSES = 1024


class Data(NamedTuple):
  """Samplers of one data set, and what a reader must know about it."""

  train: Any
  validation: Any
  test: Any
  protocol: dict[str, Any]
  train_classes: int


class DataSet(NamedTuple):
  """How a data set is loaded, and which of its flags have a meaning."""

  load: Callable[[Recipe], Data]
  flags: frozenset[str]


class DataSetName(flags.ArgumentParser):
  """The name of a data set of images, or one of others."""

  syntactic_help = (
    'strokes: procedural handwriting; omniglot, cifar_fs, fc100 and tfds:NAME'
    ' (any other): what tensorflow-datasets has prepared in --data_dir; npz:'
    ' arrays `images` and `labels` of --data_file; folder: image files in'
    ' --data_dir, such as miniImageNet'
  )

  def __init__(self, others: Sequence[str]) -> None:
    self._names = [*(name for name in DATASETS if name != 'tfds'), *others]

  def parse(self, argument: str) -> str:
    """Returns the name, or raises ValueError."""
    if argument in self._names:
      return argument
    if argument.startswith('tfds:') and argument != 'tfds:':
      return argument
    raise ValueError(f'must be one of {", ".join(self._names)}, or tfds:NAME')


def define_flags(others: Sequence[str] = ()) -> None:
  """Defines the flags of what is loaded, and how it is divided.

  Args:
    others: names that the binary knows beside those of data sets of images.
  """
  data_set = DataSetName(others)
  flags.DEFINE(data_set, 'dataset', 'strokes', data_set.syntactic_help)
  flags.DEFINE_string(
    'data_dir', None, 'tensorflow-datasets directory, or folder of images'
  )
  flags.DEFINE_bool(
    'download', False, 'download and prepare what --data_dir lacks'
  )
  flags.DEFINE_string('data_file', None, 'npz file')
  flags.DEFINE_string(
    'split_dir', None, 'train.txt, val.txt and test.txt: a class a line; for'
    ' folder train.csv, val.csv and test.csv: filename,label'
    ' [default of folder: --data_dir]',
  )  # fmt: skip
  options.define_count(
    'image_size', None, 'resize images of folder and tfds to squares of so many'
    ' pixels [default: all have to be of one size]',
  )  # fmt: skip
  flags.DEFINE_bool(
    'skip_unreadable', False, 'leave out images of folder and tfds that are'
    ' missing or damaged',
  )  # fmt: skip
  flags.DEFINE_bool(
    'rotate', None,
    'rotations by 90 degrees make new training classes'
    ' [default: yes for omniglot split by seed, no otherwise]',
  )  # fmt: skip
  flags.DEFINE_bool(
    'rotate_test', False, 'rotations make new validation and test classes too'
  )
  options.define_count(
    'split_seed', 0, 'of the division of classes', at_least=0
  )
  flags.DEFINE_bool(
    'within_groups', False, 'all classes of a task are of one alphabet'
    ' (omniglot; by seed, whole alphabets are divided) or superclass (fc100)',
  )  # fmt: skip
  flags.DEFINE_enum(
    'images_on', 'auto', ['auto', 'device', 'host'],
    'where the images of a data set lie. device: tasks are drawn there; host:'
    ' the same tasks are drawn in the memory of the host, by each process for'
    ' its own devices, and streamed; auto: on the device if they fill no more'
    ' than half of its memory',
  )  # fmt: skip


def load(recipe: Recipe) -> Data:
  """Loads what --dataset names, for a recipe; misuse is a UsageError."""
  dataset = DATASETS[FLAGS.dataset.partition(':')[0]]
  check_flags(dataset.flags)
  return dataset.load(recipe)


def check_flags(allowed: frozenset[str]) -> None:
  """Refuses flags of other data sets than that of --dataset."""
  for name in OWN:
    if name not in allowed and (value := FLAGS[name].value):
      raise UsageError(
        name, f'is {value}, but has no meaning for --dataset={FLAGS.dataset}'
      )


def load_strokes(recipe: Recipe) -> Data:
  """Procedural handwriting."""
  from metajax.tasks import strokes, strokes_classification

  if FLAGS.images_on == 'host':
    raise UsageError('images_on', 'strokes are drawn on the device alone')
  varied = _varied(recipe)
  if trains_on_classes():
    train = strokes_classification(_STROKES_CLASSES, recipe.batch_size)
  else:
    train = strokes(*sizes(recipe, training=True), split='train', **varied)
  tested = partial(strokes, *sizes(recipe, training=False), **varied)
  return Data(
    train,
    tested(split='validation'),
    tested(split='test'),
    {'split': 'stroke programs, disjoint by seed', 'rotation': 'none'},
    _STROKES_CLASSES,
  )


def load_omniglot(recipe: Recipe) -> Data:
  """Omniglot, prepared first if need be."""
  from metajax.tasks import omniglot, split_by_seed, split_groups_by_seed

  if FLAGS.rotate is None:
    FLAGS.rotate = not FLAGS.split_dir
  data_dir = _data_dir('or one to prepare it in')
  with _blaming('data_dir'):
    data = omniglot.load(data_dir, options.cache_dir(), download=FLAGS.download)
  by_seed = partial(
    split_by_seed,
    train_classes=omniglot.TRAIN_CLASSES,
    validation_classes=omniglot.VALIDATION_CLASSES,
  )
  if FLAGS.within_groups:
    by_seed = partial(
      split_groups_by_seed,
      train_groups=omniglot.TRAIN_ALPHABETS,
      validation_groups=omniglot.VALIDATION_ALPHABETS,
    )
  return _labelled(recipe, *_divided(data, by_seed))


def load_cifar_fs(recipe: Recipe) -> Data:
  """CIFAR-100 divided at random, by the lists of those who proposed it."""
  from metajax.tasks import load_cifar100, split_by_files

  data_dir = _data_dir('as cifar100')
  if FLAGS.split_dir is None:
    raise UsageError(
      'split_dir', 'cifar_fs needs train.txt, val.txt and test.txt of its'
      ' authors, a class a line'
    )  # fmt: skip
  with _blaming('data_dir'):
    data = load_cifar100(data_dir)
  return _labelled(recipe, *_divided(data, split_by_files))


def load_fc100(recipe: Recipe) -> Data:
  """CIFAR-100 divided by superclass."""
  from metajax import tasks

  data_dir = _data_dir('as cifar100')
  with _blaming('data_dir'):
    splits = tasks.load_fc100(data_dir)
  return _labelled(recipe, splits, 'superclass')


def load_npz_file(recipe: Recipe) -> Data:
  """The user's own arrays."""
  from metajax.tasks import load_npz

  if FLAGS.data_file is None:
    raise UsageError(
      'data_file', 'npz needs a file with arrays `images` and `labels`'
    )
  with _blaming('data_file'):
    data = load_npz(FLAGS.data_file)
  by_seed = _in_proportion(data, 'data_file', FLAGS.data_file)
  return _labelled(recipe, *_divided(data, by_seed))


def load_folder_of_images(recipe: Recipe) -> Data:
  """The user's own image files, with lists that divide them."""
  from metajax.tasks import load_folder

  if FLAGS.data_dir is None:
    raise UsageError(
      'data_dir', 'folder needs the directory of the image files, and of'
      ' train.csv, val.csv and test.csv unless --split_dir has them'
    )  # fmt: skip
  with _blaming('data_dir'):
    splits = load_folder(
      FLAGS.data_dir,
      FLAGS.split_dir,
      image_size=FLAGS.image_size,
      skip_unreadable=FLAGS.skip_unreadable,
    )
  return _labelled(recipe, splits, 'lists of files')


def load_tfds(recipe: Recipe) -> Data:
  """Any image set of tensorflow-datasets."""
  from metajax.tasks import load_prepared

  name, data_dir = FLAGS.dataset.partition(':')[2], _data_dir()
  with _blaming('data_dir'):
    data = load_prepared(
      name,
      data_dir,
      image_size=FLAGS.image_size,
      skip_unreadable=FLAGS.skip_unreadable,
    )
  by_seed = _in_proportion(data, 'dataset', name)
  return _labelled(recipe, *_divided(data, by_seed))


_TURNED = frozenset({'rotate', 'rotate_test'})
_DIVIDED = _TURNED | {'split_dir', 'split_seed'}
_DECODED = frozenset({'image_size', 'skip_unreadable'})

DATASETS = {
  'strokes': DataSet(load_strokes, frozenset()),
  'omniglot': DataSet(
    load_omniglot, _DIVIDED | {'data_dir', 'download', 'within_groups'}
  ),
  'cifar_fs': DataSet(load_cifar_fs, _TURNED | {'data_dir', 'split_dir'}),
  'fc100': DataSet(load_fc100, _TURNED | {'data_dir', 'within_groups'}),
  'npz': DataSet(load_npz_file, _DIVIDED | {'data_file'}),
  'folder': DataSet(
    load_folder_of_images, _TURNED | _DECODED | {'data_dir', 'split_dir'}
  ),
  'tfds': DataSet(load_tfds, _DIVIDED | _DECODED | {'data_dir'}),
}


def sizes(recipe: Recipe, training: bool) -> tuple[int, int, int]:
  """Ways, shots and queries of a task."""
  if not training:
    return recipe.ways, recipe.shots, recipe.queries
  return (
    recipe.train_ways or recipe.ways,
    recipe.train_shots or recipe.shots,
    recipe.train_queries or recipe.queries,
  )


def file_name() -> str:
  """The name of --dataset as file names can have it."""
  return str(FLAGS.dataset).replace(':', '-').replace('/', '-')


def trains_on_classes() -> bool:
  """Whether --algorithm trains on batches of all classes, not on tasks."""
  return ALGORITHMS[FLAGS.algorithm].trains_on == 'classes'


@contextmanager
def _blaming(flag: str) -> Iterator[None]:
  """What is wrong with data is the user's to put right, by this flag."""
  from metajax.tasks import DataError

  try:
    yield
  except DataError as error:
    raise UsageError(flag, str(error)) from error


def _data_dir(how: str = '') -> str:
  if FLAGS.data_dir is None:
    raise UsageError(
      'data_dir',
      f'{FLAGS.dataset} needs the tensorflow-datasets directory that holds it'
      + (how and f', {how}'),
    )
  return str(FLAGS.data_dir)


def _in_proportion(data: Any, flag: str, origin: str) -> Any:
  """A split by seed that gives 60% / 20% / 20% of the classes."""
  from metajax.tasks import DataError, split_by_seed
  from metajax.tasks.splits import default_split_sizes

  try:
    train, validation = default_split_sizes(len(data.names))
  except DataError as error:
    raise UsageError(flag, f'{origin}: {error}') from error
  return partial(
    split_by_seed, train_classes=train, validation_classes=validation
  )


def _divided(data: Any, by_seed: Any) -> tuple[Any, str]:
  """Splits by class lists or by seed, and how the protocol says it."""
  from metajax.tasks import split_by_files

  if FLAGS.split_dir:
    with _blaming('split_dir'):
      return split_by_files(data, FLAGS.split_dir), 'class lists'
  with _blaming('dataset'):
    return by_seed(data, seed=FLAGS.split_seed), f'seed {FLAGS.split_seed}'


def _rotated(splits: Any) -> Any:
  from metajax.tasks import rotate_classes

  for flag, names in (
    ('rotate', ['train']),
    ('rotate_test', ['validation', 'test']),
  ):
    if FLAGS[flag].value:
      with _blaming(flag):
        turned = {name: rotate_classes(getattr(splits, name)) for name in names}
      splits = splits._replace(**turned)
  return splits


def _labelled(recipe: Recipe, splits: Any, origin: str) -> Data:
  """Rotates and checks labelled images; makes samplers of them."""
  from metajax.tasks import HostTasks, device_tasks

  splits = _rotated(splits)
  on_host = _on_host(sum(part.images.nbytes for part in splits))
  make: Callable[..., Any] = HostTasks if on_host else device_tasks
  samplers = {
    name: make(part.images, _places(recipe, part, name))
    for name, part in zip(splits._fields, splits, strict=True)
  }
  counts = '/'.join(str(len(part.names)) for part in splits)
  within = ', within a group' if FLAGS.within_groups else ''
  return Data(
    **samplers,
    protocol={
      'split': f'{counts} train/validation/test classes by {origin}{within}',
      'rotation': _describe_rotation(),
    },
    train_classes=len(splits.train.names),
  )


def _places(recipe: Recipe, part: Any, name: str) -> Any:
  """Draws tasks as places in the images of a split."""
  from metajax.tasks import (
    DataError,
    classification_places,
    episode_places,
    groups_of,
  )
  from metajax.tasks.labelled import check_episode

  training = name == 'train'
  if training and trains_on_classes():
    return classification_places(part.labels, recipe.batch_size)
  size = sizes(recipe, training)
  try:
    check_episode(part, *size)
  except DataError as error:
    flags_given, message = str(error).split(': ', 1)
    raise UsageError(
      _as_flags(flags_given, recipe, training),
      f'{message} (in the {name} split)',
    ) from error
  groups = groups_of(part) if FLAGS.within_groups else None
  try:
    return episode_places(part.labels, *size, groups=groups, **_varied(recipe))
  except ValueError as error:  # of groups, which are all that is unchecked
    raise UsageError(
      _as_flags(f'ways={size[0]}', recipe, training),
      f'{error} (in the {name} split)',
    ) from error


def _varied(recipe: Recipe) -> dict[str, Any]:
  """The least ways and shots of a task, if these vary."""
  if 'min_ways' not in FLAGS:
    return {}
  for least, most in (('min_ways', 'ways'), ('min_shots', 'shots')):
    value = FLAGS[least].value
    for name in (most, f'train_{most}'):
      limit = getattr(recipe, name)
      if value is not None and limit is not None and value > limit:
        raise UsageError(
          least,
          f'is {value}, above --{name}={limit}, which all tasks are filled up'
          ' to',
        )
  return {'min_ways': FLAGS.min_ways, 'min_shots': FLAGS.min_shots}


def _on_host(size: int) -> bool:
  """Whether so many bytes of images stay on the host, by --images_on."""
  import jax

  if FLAGS.images_on != 'auto':
    return bool(FLAGS.images_on == 'host')
  statistics = jax.local_devices()[0].memory_stats() or {}
  return size > statistics.get('bytes_limit', math.inf) / 2


def _as_flags(given: str, recipe: Recipe, training: bool) -> str:
  """Names the flags of `shots=1 and queries=2`, without the first dashes."""

  def flag(match: re.Match[str]) -> str:
    name = match[0]
    own = training and getattr(recipe, f'train_{name}') is not None
    return f'--train_{name}' if own else f'--{name}'

  return re.sub(r'\w+(?==)', flag, given).removeprefix('--')


def _describe_rotation() -> str:
  train = 'as new training classes' if FLAGS.rotate else 'none in training'
  tested = 'as new test classes' if FLAGS.rotate_test else 'none at test'
  if FLAGS.split_dir and FLAGS.dataset != 'folder':
    return f'as the class lists say, {train}, {tested}'
  return f'{train}, {tested}'
