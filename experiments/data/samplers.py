"""Samplers of labelled images and texts: checked, and made of their splits."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.folds import folded
from experiments.runner.data_digest import Digests, digests
from experiments.runner.errors import UsageError
from experiments.runner.settings import Finite, Listed, Whole, setting
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.tasks import (
  DataError,
  HostTasks,
  classification_places,
  device_tasks,
  episode_places,
  groups_of,
  rotate_classes,
  split_by_files,
  split_by_seed,
)
from metajax.tasks.errors import MAX_UNPACKED_MEBIBYTES
from metajax.tasks.labelled import check_episode
from metajax.tasks.splits import SHARES, split_sizes

__all__ = [
  'Classes',
  'Data',
  'DataSet',
  'Shares',
  'Wanted',
  'as_flags',
  'blaming',
  'check_varied',
  'divided',
  'given',
  'in_proportion',
  'labelled',
  'max_unpacked',
  'refuse_others',
  'refuse_seed',
  'sampled',
  'sizes',
  'split_shares',
]


class Shares(Listed):
  """What training, validation and test have of a whole."""

  allowed = (
    'three numbers above 0 that are 1 together: of training, validation, test'
  )

  def check(self, value: Any) -> Any:
    """Returns a tuple of numbers, or raises ValueError."""
    try:
      given = self.parse(value) if isinstance(value, str) else value
      shares = tuple(Finite().check(float(each)) for each in given)
    except (TypeError, ValueError):
      shares = ()
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
      raise ValueError(f'must be {self.allowed}')
    return shares


def split_shares(what: str) -> Any:
  """The setting that says how a division by seed shares things out."""
  usual = ','.join(map(str, SHARES))
  return setting(
    None, Shares(), f'of the {what} for training, validation and test, where'
    f' they are divided by seed [default: {usual}]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip


def max_unpacked(what: str) -> Any:
  """The setting of how large a file may be in memory."""
  return setting(
    None, Whole(), f'refuse {what} that unpacks to more'
    f' [default: {MAX_UNPACKED_MEBIBYTES}]',
    of='data', resume=True, forwarded=True,
  )  # fmt: skip


def given(settings: Any, names: Collection[str]) -> dict[str, Any]:
  """The settings of these names that leave no default to the library."""
  values = {name: getattr(settings, name) for name in names}
  return {name: value for name, value in values.items() if value is not None}


class Classes(NamedTuple):
  """What the classes of tasks are called."""

  sample: Any  # draws the same tasks, of places in `names` for images
  names: tuple[str, ...]


class Data(NamedTuple):
  """Samplers of one data set, and what a reader must know about it."""

  train: Any
  validation: Any
  test: Any
  protocol: dict[str, Any]
  train_classes: int
  test_classes: Classes | None = None  # where they have names
  digests: Digests | None = None  # of what is not drawn by a program
  text: Any = None  # of texts: `experiments.data.text.Meaning`


class Wanted(NamedTuple):
  """What is to be loaded, and the tasks that are to be drawn of it."""

  settings: Any  # `ImageData` or `TextData`, with `algorithm`, `cache_dir`
  recipe: Recipe
  min_ways: int | None = None  # of tasks of several sizes
  min_shots: int | None = None

  @property
  def trains_on_classes(self) -> bool:
    """Whether the method trains on batches of all classes, not on tasks."""
    return ALGORITHMS[self.settings.algorithm].trains_on == 'classes'

  @property
  def varied(self) -> dict[str, Any]:
    """The least ways and shots of a task, if these vary."""
    return {'min_ways': self.min_ways, 'min_shots': self.min_shots}


class DataSet(NamedTuple):
  """How a data set is loaded, and which settings have a meaning for it."""

  load: Callable[[Wanted], Any]
  settings: frozenset[str]


def refuse_others(
  settings: Any, rows: Mapping[str, DataSet], allowed: frozenset[str]
) -> None:
  """Refuses settings of other data sets than the one that is named.

  Args:
    settings: what is given.
    rows: all data sets.
    allowed: the settings of the one that is named.
  """
  own = frozenset[str]().union(*(row.settings for row in rows.values()))
  usual = {each.name: each.default for each in dataclasses.fields(settings)}
  for name in sorted(own - allowed):
    if (value := getattr(settings, name)) and value != usual[name]:
      raise UsageError(
        name,
        f'is {value}, but has no meaning for --dataset={settings.dataset}',
      )


def sizes(recipe: Recipe, training: bool) -> tuple[int, int, int]:
  """Ways, shots and queries of a task."""
  if not training:
    return recipe.ways, recipe.shots, recipe.queries
  return (
    recipe.train_ways or recipe.ways,
    recipe.train_shots or recipe.shots,
    recipe.train_queries or recipe.queries,
  )


@contextmanager
def blaming(flag: str) -> Iterator[None]:
  """What is wrong with data is the user's to put right, by this flag.

  Where a parameter is to be changed, it is by the flag of its name.
  """
  try:
    yield
  except DataError as error:
    raise UsageError(error.parameter or flag, str(error)) from error


def in_proportion(wanted: Wanted, data: Any, flag: str, origin: str) -> Any:
  """A split by seed that gives each part its share of the classes."""
  shares = wanted.settings.split_shares
  try:
    train, validation = split_sizes(len(data.names), shares or SHARES)
  except DataError as error:
    flag = 'split_shares' if shares else flag
    raise UsageError(flag, f'{origin}: {error}') from error
  return partial(
    split_by_seed, train_classes=train, validation_classes=validation
  )


def divided(wanted: Wanted, data: Any, by_seed: Any) -> tuple[Any, str]:
  """Splits by class lists or by seed, and how the protocol says it."""
  if wanted.settings.split_dir:
    refuse_seed(wanted, 'the lists of --split_dir')
    with blaming('split_dir'):
      return split_by_files(data, wanted.settings.split_dir), 'class lists'
  with blaming('dataset'):
    return by_seed(
      data, seed=wanted.settings.split_seed
    ), f'seed {wanted.settings.split_seed}'


def refuse_seed(wanted: Wanted, divided_by: str) -> None:
  """Refuses settings of a division by seed where something else divides."""
  if shares := getattr(wanted.settings, 'split_shares', None):
    name, value = 'split_shares', ','.join(map(str, shares))
  elif wanted.settings.split_seed:
    name, value = 'split_seed', str(wanted.settings.split_seed)
  else:
    return
  raise UsageError(
    name,
    f'is {value}, but the classes are divided by {divided_by}; leave one out',
  )


def _rotated(wanted: Wanted, splits: Any) -> Any:
  for flag, names in (
    ('rotate', ['train']),
    ('rotate_test', ['validation', 'test']),
  ):
    if getattr(wanted.settings, flag):
      with blaming(flag):
        turned = {name: rotate_classes(getattr(splits, name)) for name in names}
      splits = splits._replace(**turned)
  return splits


def labelled(
  wanted: Wanted, splits: Any, origin: str, by_shares: bool = False
) -> Data:
  """Rotates and checks labelled images; makes samplers of them.

  Args:
    wanted: what is loaded.
    splits: the images.
    origin: what divided them, for the protocol.
    by_shares: whether --split_shares would divide them otherwise.
  """
  splits = folded(wanted.settings, splits)
  found = digests(splits)
  splits = _rotated(wanted, splits)
  on_host = _on_host(
    wanted.settings.images_on, sum(part.images.nbytes for part in splits)
  )
  make: Callable[..., Any] = HostTasks if on_host else device_tasks
  data = sampled(wanted, splits, origin, by_shares, make)
  return data._replace(
    protocol={
      **data.protocol, 'rotation': _describe_rotation(wanted.settings)
    },
    digests=found,
  )  # fmt: skip


def sampled(
  wanted: Wanted,
  splits: Any,
  origin: str,
  by_shares: bool = False,
  make: Callable[..., Any] = device_tasks,
) -> Data:
  """Makes samplers of splits, the first field of which are their examples.

  Args:
    wanted: what is loaded.
    splits: of images, or of tokens.
    origin: what divided them, for the protocol.
    by_shares: whether --split_shares would divide them otherwise.
    make: a sampler of examples and of places in them.
  """
  counts = '/'.join(str(len(part.names)) for part in splits)
  advice = ''
  if by_shares:
    advice = (
      f'; {counts} classes are for train/validation/test: lower it, or divide'
      ' them otherwise, by --split_shares or --split_dir'
    )
    if min(len(part.names) for part in splits) < 2:
      advice = (
        f'; {counts} classes are for train/validation/test, where 2 are the'
        ' least: give more, or divide them otherwise, by --split_shares'
      )
  parts = splits._asdict()
  places = {
    name: _places(wanted, part, name, advice) for name, part in parts.items()
  }
  samplers = {name: make(part[0], places[name]) for name, part in parts.items()}
  test_classes = Classes(
    device_tasks(splits.test.labels, places['test']), splits.test.names
  )
  within = ', within a group' if wanted.settings.within_groups else ''
  fold = getattr(wanted.settings, 'fold', None)
  return Data(
    **samplers,
    protocol={
      'split': f'{counts} train/validation/test classes by {origin}{within}',
      **({'fold': fold} if fold else {}),
    },
    train_classes=len(splits.train.names),
    test_classes=test_classes,
  )


def _places(wanted: Wanted, part: Any, name: str, advice: str) -> Any:
  """Draws tasks as places in the images of a split."""
  recipe, training = wanted.recipe, name == 'train'
  if training and wanted.trains_on_classes:
    return classification_places(part.labels, recipe.batch_size)
  size = sizes(recipe, training)
  try:
    check_episode(part, *size)
  except DataError as error:
    unused = name == 'validation' and wanted.settings.test_only
    if unused and len(part.labels) > 1:
      # Nothing is chosen by them: they need not have what the test has.
      return episode_places(np.zeros_like(part.labels), 1, 1, 1)
    flags_given, message = str(error).split(': ', 1)
    raise UsageError(
      as_flags(flags_given, recipe, training),
      f'{message} (in the {name} split)'
      + (advice if flags_given.startswith('ways=') else ''),
    ) from error
  groups = groups_of(part) if wanted.settings.within_groups else None
  try:
    return episode_places(part.labels, *size, groups=groups, **wanted.varied)
  except ValueError as error:  # of groups, which are all that is unchecked
    raise UsageError(
      as_flags(f'ways={size[0]}', recipe, training),
      f'{error} (in the {name} split)',
    ) from error


def check_varied(wanted: Wanted) -> None:
  """Refuses more ways or shots at least than at most."""
  for name, value in wanted.varied.items():
    most = name.removeprefix('min_')
    for limited in (most, f'train_{most}'):
      limit = getattr(wanted.recipe, limited)
      if value is not None and limit is not None and value > limit:
        raise UsageError(
          name,
          f'is {value}, above --{limited}={limit}, which all tasks are filled'
          ' up to',
        )


def _on_host(images_on: str, size: int) -> bool:
  """Whether so many bytes of images stay on the host, by --images_on."""
  if images_on != 'auto':
    return bool(images_on == 'host')
  statistics = jax.local_devices()[0].memory_stats() or {}
  return size > statistics.get('bytes_limit', math.inf) / 2


def as_flags(given: str, recipe: Recipe, training: bool) -> str:
  """Names the flags of `shots=1 and queries=2`, without the first dashes."""

  def flag(match: re.Match[str]) -> str:
    name = match[0]
    own = training and getattr(recipe, f'train_{name}') is not None
    if name == 'ways' and recipe.train_ways == recipe.ways:
      own = False  # a recipe takes those of the test
    return f'--train_{name}' if own else f'--{name}'

  return re.sub(r'\w+(?==)', flag, given).removeprefix('--')


def _describe_rotation(settings: Any) -> str:
  train = 'as new training classes' if settings.rotate else 'none in training'
  tested = 'as new test classes' if settings.rotate_test else 'none at test'
  if settings.split_dir and settings.dataset != 'folder':
    return f'as the class lists say, {train}, {tested}'
  return f'{train}, {tested}'
