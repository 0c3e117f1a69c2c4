"""Few-shot image classification.

  python -m experiments.images

meta-trains MAML (second order, 5-way 1-shot) on procedural handwriting, tests
it on held-out classes, and prints a table: accuracy before adaptation and
after each inner step, with its 95% interval, next to the pixel baseline. It
takes about two minutes on two CPU cores and needs no download. See
docs/results.md for what it and the following commands print, and for how long
they take:

  python -m experiments.images --dataset=omniglot --data_dir=DIR --rotate
  python -m experiments.images --algorithm=protonet --dataset=omniglot ...
  python -m experiments.images --dataset=npz --data_file=mine.npz

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, and pictures: `learning_curve.png`,
`accuracy_by_inner_step.png`, `test_task.png`.
"""

import math
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from absl import flags

from experiments import cluster, options
from experiments.options import FLAGS, UsageError
from metajax.algorithms.recipes import Recipe
from metajax.algorithms.table import ALGORITHMS


def define_flags() -> None:
  """Defines what this experiment has beyond the shared flags."""
  options.define_flags(
    (name for name, row in ALGORITHMS.items() if row.images),
    ['transductive', 'support', 'population'],
  )
  cluster.define_flags()
  flags.DEFINE_enum(
    'dataset', 'strokes', ['strokes', 'omniglot', 'npz'],
    'procedural handwriting; Omniglot through tensorflow-datasets; or arrays'
    ' `images` and `labels` of an npz file',
  )  # fmt: skip
  flags.DEFINE_string('data_dir', None, 'tensorflow-datasets directory')
  flags.DEFINE_bool(
    'download', False, 'download and prepare what --data_dir lacks'
  )
  flags.DEFINE_string('data_file', None, 'npz file')
  flags.DEFINE_string(
    'split_dir', None, 'train.txt, val.txt and test.txt: a class a line'
  )
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
  for name, text in (
    ('ways', 'classes per test task'),
    ('train_ways', 'classes per training task'),
  ):
    options.define_count(
      name, None, f'{text} [default: the recipe]', at_least=2
    )
  flags.DEFINE_enum(
    'images_on', 'auto', ['auto', 'device', 'host'],
    'where the images of a data set lie. device: tasks are drawn there; host:'
    ' the same tasks are drawn in the memory of the host, by each process for'
    ' its own devices, and streamed; auto: on the device if they fill no more'
    ' than half of its memory',
  )  # fmt: skip
  options.define_count('width', 64, 'channels of every convolution')


class Data(NamedTuple):
  """Samplers of one data set, and what a reader must know about it."""

  train: Any
  validation: Any
  test: Any
  protocol: dict[str, Any]


def _sizes(recipe: Recipe, training: bool) -> tuple[int, int, int]:
  """Ways, shots and queries of a task."""
  if not training:
    return recipe.ways, recipe.shots, recipe.queries
  return (
    recipe.train_ways or recipe.ways,
    recipe.train_shots or recipe.shots,
    recipe.train_queries or recipe.queries,
  )


def load_strokes(recipe: Recipe) -> Data:
  """Procedural handwriting."""
  from metajax.tasks import strokes

  _refuse(
    'strokes', 'data_dir', 'data_file', 'split_dir', 'split_seed', 'rotate',
    'rotate_test', 'download',
  )  # fmt: skip
  if FLAGS.images_on == 'host':
    raise UsageError('images_on', 'strokes are drawn on the device alone')
  return Data(
    strokes(*_sizes(recipe, training=True), split='train'),
    strokes(*_sizes(recipe, training=False), split='validation'),
    strokes(*_sizes(recipe, training=False), split='test'),
    {'split': 'stroke programs, disjoint by seed', 'rotation': 'none'},
  )


def load_omniglot(recipe: Recipe) -> Data:
  """Omniglot, prepared first if need be."""
  from metajax.tasks import DataError, omniglot, split_by_seed

  _refuse('omniglot', 'data_file')
  if FLAGS.rotate is None:
    FLAGS.rotate = not FLAGS.split_dir
  if FLAGS.data_dir is None:
    raise UsageError(
      'data_dir',
      'omniglot needs the tensorflow-datasets directory that holds it, or one'
      ' to prepare it in',
    )
  try:
    data = omniglot.load(
      FLAGS.data_dir, options.cache_dir(), download=FLAGS.download
    )
  except DataError as error:
    raise UsageError('data_dir', str(error)) from error
  by_seed = partial(
    split_by_seed,
    train_classes=omniglot.TRAIN_CLASSES,
    validation_classes=omniglot.VALIDATION_CLASSES,
  )
  return _labelled(recipe, data, by_seed)


def load_npz_file(recipe: Recipe) -> Data:
  """The user's own arrays."""
  from metajax.tasks import DataError, load_npz, split_by_seed
  from metajax.tasks.labelled import default_split_sizes

  _refuse('npz', 'data_dir', 'download')
  if FLAGS.data_file is None:
    raise UsageError(
      'data_file', 'npz needs a file with arrays `images` and `labels`'
    )
  try:
    data = load_npz(FLAGS.data_file)
  except DataError as error:
    raise UsageError('data_file', str(error)) from error
  try:
    train, validation = default_split_sizes(len(data.names))
  except DataError as error:
    raise UsageError('data_file', f'{FLAGS.data_file}: {error}') from error
  by_seed = partial(
    split_by_seed, train_classes=train, validation_classes=validation
  )
  return _labelled(recipe, data, by_seed)


DATASETS = {
  'strokes': load_strokes,
  'omniglot': load_omniglot,
  'npz': load_npz_file,
}


def _refuse(dataset: str, *names: str) -> None:
  """Refuses flags that would have no effect."""
  for name in names:
    if value := FLAGS[name].value:
      raise UsageError(
        name, f'is {value}, but has no meaning for --dataset={dataset}'
      )


def _labelled(recipe: Recipe, data: Any, by_seed: Any) -> Data:
  """Splits, rotates and checks labelled images; makes samplers of them."""
  from metajax.tasks import (
    DataError,
    HostEpisodes,
    episodes,
    rotate_classes,
    split_by_files,
  )
  from metajax.tasks.labelled import check_episode

  try:
    if FLAGS.split_dir:
      splits = split_by_files(data, FLAGS.split_dir)
    else:
      splits = by_seed(data, seed=FLAGS.split_seed)
  except DataError as error:
    raise UsageError(
      'split_dir' if FLAGS.split_dir else 'dataset', str(error)
    ) from error
  for flag, names in (
    ('rotate', ['train']),
    ('rotate_test', ['validation', 'test']),
  ):
    if FLAGS[flag].value:
      try:
        turned = {name: rotate_classes(getattr(splits, name)) for name in names}
      except DataError as error:
        raise UsageError(flag, str(error)) from error
      splits = splits._replace(**turned)
  samplers: dict[str, Any] = {}
  on_host = _on_host(sum(part.images.nbytes for part in splits))
  make: Callable[..., Any] = HostEpisodes if on_host else episodes
  for name, part in zip(splits._fields, splits, strict=True):
    training = name == 'train'
    sizes = _sizes(recipe, training)
    try:
      check_episode(part, *sizes)
    except DataError as error:
      flags_given, message = str(error).split(': ', 1)
      raise UsageError(
        _as_flags(flags_given, recipe, training),
        f'{message} (in the {name} split)',
      ) from error
    samplers[name] = make(part.images, part.labels, *sizes)
  origin = 'class lists' if FLAGS.split_dir else f'seed {FLAGS.split_seed}'
  counts = '/'.join(str(len(part.names)) for part in splits)
  return Data(
    **samplers,
    protocol={
      'split': f'{counts} train/validation/test classes by {origin}',
      'rotation': _describe_rotation(),
    },
  )


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
  if FLAGS.split_dir:
    return f'as the class lists say, {train}, {tested}'
  return f'{train}, {tested}'


def make_recipe() -> Recipe:
  """The published recipe for these ways and shots, as the flags change it."""
  row = ALGORITHMS[FLAGS.algorithm]
  assert row.images is not None  # --algorithm takes no other
  recipe = row.images(FLAGS.ways or 5, FLAGS.shots or 1)
  if FLAGS.dataset == 'strokes':
    recipe = recipe._replace(steps=recipe.short_steps)
  if row.weights is None and FLAGS.evaluation == 'population':
    raise UsageError(
      'evaluation', f'{FLAGS.algorithm} has no weights to measure a'
      ' population with; use transductive or support'
    )  # fmt: skip
  recipe = options.with_overrides(recipe)
  if row.adapts_by_gradient and recipe.train_ways not in (None, recipe.ways):
    raise UsageError(
      'train_ways', f'is {recipe.train_ways}, but {FLAGS.algorithm} has an'
      f' output for each class, so only --ways={recipe.ways} is allowed'
    )  # fmt: skip
  return recipe


def main() -> int:
  """Runs the experiment that the flags describe."""
  recipe = make_recipe()
  cluster.connect()
  data = DATASETS[FLAGS.dataset](recipe)
  from experiments import loop, pictures
  from experiments.problem import Problem
  from metajax.objectives import cross_entropy
  from metajax.precision import with_precision

  train_ways, _, _ = _sizes(recipe, training=True)
  model = with_precision(
    recipe.network(train_ways, width=FLAGS.width), FLAGS.precision
  )
  if FLAGS.data_file:
    _check_size(model, data.train)
  problem = Problem(
    algorithm=ALGORITHMS[FLAGS.algorithm],
    recipe=recipe,
    objective=cross_entropy,
    model=model,
    train=data.train,
    validation=data.validation,
    test=data.test,
    metric='accuracy',
    protocol={
      'dataset': FLAGS.dataset,
      'ways': recipe.ways,
      'shots': recipe.shots,
      'queries_per_class': recipe.queries,
      'evaluation': recipe.evaluation,
      'test_tasks': FLAGS.eval_tasks,
      'test_seed': loop.TEST_SEED,
      'precision': FLAGS.precision,
      **data.protocol,
    },
  )
  name = (
    f'{FLAGS.dataset}-{FLAGS.algorithm}-{recipe.ways}way-{recipe.shots}shot'
    f'-seed{FLAGS.seed}'
  )
  return loop.run(problem, name, _baseline(problem), pictures.draw_images)


def _check_size(model: Any, sample: Any) -> None:
  """Checks that the network can take images of this size."""
  import jax

  def outputs(key: Any) -> Any:
    inputs = sample(key).support.inputs
    return model.apply(model.init(key, inputs), inputs)

  try:
    jax.eval_shape(outputs, jax.random.key(0))
  except ValueError as error:
    raise UsageError('data_file', f'{FLAGS.data_file}: {error}') from error


def _baseline(problem: Any) -> Any:
  """Nearest class mean in pixel space, on the very same test tasks."""

  def measure() -> dict[str, float]:
    import jax

    from experiments.loop import TEST_SEED
    from metajax import evaluate, nearest_class_mean

    evaluation = evaluate(
      nearest_class_mean(problem.objective, problem.recipe.ways),
      problem.objective,
      (),
      problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=FLAGS.eval_tasks,
    )
    return {
      'pixel_accuracy': float(evaluation.mean['accuracy'][-1]),
      'pixel_ci95': float(evaluation.ci95['accuracy'][-1]),
    }

  return measure


if __name__ == '__main__':
  define_flags()
  sys.exit(cluster.run(main))
