"""Flags that the experiments share, and one line for every misuse of them."""

import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from absl import app, flags

from metajax.algorithms.table import Recipe

FLAGS = flags.FLAGS


class UsageError(Exception):
  """Something that the user can put right: one line, exit code 2."""

  def __init__(self, flag: str, message: str):
    super().__init__(f'--{flag}: {message}')


# Flags that overwrite a field of the recipe of the same name.
_COUNTS = {
  'shots': 'support examples per class',
  'queries': 'query examples per class at test',
  'train_shots': 'support examples per class in training',
  'train_queries': 'query examples per class in training',
  'inner_steps': 'inner steps in training',
  'inner_batch': 'examples per inner step (Reptile); default all',
  'eval_inner_steps': 'inner steps at test',
  'tasks_per_step': 'tasks per outer step',
  'chunk_size': 'tasks that are vectorised together; the result is the same',
  'steps': 'outer steps',
  'checkpoint_every': 'steps between checkpoints, each with validation',
  'log_every': 'steps per dispatch, and per line of metrics.jsonl',
}
_RATES = {
  'inner_lr': 'rate of the inner steps, for a mean loss',
  'outer_lr': 'rate of the outer steps',
}

# What may differ between a run and its continuation: nothing that has shaped
# the parameters so far.
MAY_CHANGE = frozenset({
  'steps', 'queries', 'eval_inner_steps', 'eval_tasks', 'evaluation',
  'resume', 'workdir', 'data_dir', 'data_file', 'split_dir', 'cache_dir', 'download',
  'log_every', 'checkpoint_every', 'validation_tasks', 'test_checkpoint',
})  # fmt: skip


def define_flags(algorithms: Iterable[str], evaluations: list[str]) -> None:
  """Defines the flags that every experiment has.

  Args:
    algorithms: names of rows of `ALGORITHMS`.
    evaluations: allowed values of --evaluation; none leaves the flag out.
  """
  flags.DEFINE_enum('algorithm', 'maml', sorted(algorithms), 'the method')
  for name, text in _COUNTS.items():
    flags.DEFINE_integer(name, None, f'{text} [default: the recipe]')
    require(name, lambda value: value >= 1, 'must be a whole number >= 1')
  for name, text in _RATES.items():
    flags.DEFINE_float(name, None, f'{text} [default: the recipe]')
    require(
      name,
      lambda value: value > 0 and math.isfinite(value),
      'must be a finite number > 0',
    )
  if evaluations:
    flags.DEFINE_enum(
      'evaluation',
      None,
      evaluations,
      'what a test query shares its batch statistics with: all queries of its'
      ' task, the support set alone, or training images [default: the recipe]',
    )
  flags.DEFINE_integer('seed', 0, 'of everything random in training')
  require('seed', lambda value: 0 <= value < 2**31, 'must be in [0, 2^31)')
  flags.DEFINE_string('workdir', None, 'where results go [default: runs/...]')
  flags.DEFINE_bool('resume', False, 'go on from the newest good checkpoint')
  flags.DEFINE_string(
    'load', None, 'start from the meta-parameters of the run in this workdir'
  )
  flags.DEFINE_bool('test_only', False, 'do not train; goes with --load')
  for name, default, text in (
    ('eval_tasks', 1000, 'test tasks'),
    ('validation_tasks', 200, 'validation tasks at every checkpoint'),
  ):
    flags.DEFINE_integer(name, default, text)
    require(name, lambda value: value >= 2, 'must be a whole number >= 2')
  flags.DEFINE_enum(
    'test_checkpoint', 'last', ['last', 'best'],
    'test the last parameters, or the best by validation',
  )  # fmt: skip
  flags.DEFINE_string(
    'cache_dir', None, 'compiled programs and decoded data'
    ' [default: metajax in the user\'s cache directory]',
  )  # fmt: skip


def require(name: str, holds: Callable[[Any], bool], message: str) -> None:
  flags.register_validator(
    name, lambda value: value is None or holds(value), message
  )


def with_overrides(recipe: Recipe) -> Recipe:
  """The recipe with what the user set instead."""
  given = {
    name: FLAGS[name].value
    for name in Recipe._fields
    if name in FLAGS and FLAGS[name].value is not None
  }
  if recipe.steps == 0 and 'steps' in given:
    raise UsageError(
      'steps', f'{FLAGS.algorithm} needs no training; leave the flag out'
    )
  recipe = recipe._replace(**given)
  if 'inner_batch' in given:
    recipe = recipe._replace(eval_inner_batch=recipe.inner_batch)
  return recipe


def settings(recipe: Recipe) -> dict[str, Any]:
  """All flags, with the defaults of the recipe filled in."""
  own = FLAGS.flags_by_module_dict()
  names = {
    flag.name
    for module, group in own.items()
    if 'experiments.' in module or module == sys.argv[0]
    for flag in group
  }
  values = {name: FLAGS[name].value for name in names}
  return {
    name: getattr(recipe, name)
    if value is None and name in Recipe._fields
    else value
    for name, value in sorted(values.items())
  }


def cache_dir() -> Path:
  """Where compiled programs and decoded data are kept between runs."""
  if FLAGS.cache_dir:
    return Path(FLAGS.cache_dir)
  home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  return Path(home) / 'metajax'


def use_compilation_cache() -> None:
  """Keeps compiled programs, so that a second start is quick."""
  import jax

  jax.config.update('jax_compilation_cache_dir', str(cache_dir() / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def make_writable(flag: str, directory: Path) -> None:
  """Creates a directory and checks that files can be written to it."""
  try:
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / '.writable'
    probe.write_bytes(b'')
    probe.unlink()
  except OSError as error:
    raise UsageError(
      flag,
      f'{directory} cannot be written ({error.strerror}); name another'
      ' directory',
    ) from error


def run(main: Callable[[], int | None]) -> None:
  """Parses flags and calls `main`; misuse is one line and exit code 2."""

  def parse(arguments: list[str]) -> list[str]:
    try:
      rest = FLAGS(arguments)
    except flags.Error as error:
      _refuse(str(error))
    if FLAGS.get_flag_value('help', False) or FLAGS.get_flag_value(
      'helpfull', False
    ):
      app.usage(shorthelp=not FLAGS.helpfull)
      sys.exit(0)
    if len(rest) > 1:
      _refuse(f'{rest[1]!r} is not a flag; flags are given as --name=value')
    return rest

  def checked(arguments: list[str]) -> int | None:
    del arguments
    try:
      return main()
    except UsageError as error:
      _refuse(str(error))

  app.run(checked, flags_parser=parse)


def _refuse(message: str) -> None:
  print(' '.join(message.split()), file=sys.stderr)
  sys.exit(2)
