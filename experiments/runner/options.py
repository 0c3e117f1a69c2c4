"""Flags that the experiments share, and one line for every misuse of them."""

import difflib
import errno
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from absl import flags

from metajax.algorithms.recipes import SCHEDULES, Recipe

FLAGS = flags.FLAGS
# What this module defines belongs to the binary that asks for it.
flags.disclaim_key_flags()


class UsageError(Exception):
  """Something that the user can put right: one line, exit code 2."""

  def __init__(self, flag: str, message: str):
    super().__init__(f'--{flag}: {message}')


class _Number(flags.ArgumentParser):
  """A number in a range; whatever else is given, the range is the answer."""

  def __init__(
    self, kind: type, holds: Callable[[Any], bool], allowed: str
  ) -> None:
    super().__init__()
    self._kind = kind
    self._holds = holds
    self.syntactic_help = allowed

  def parse(self, argument: Any) -> Any:
    """Returns the number, or raises ValueError."""
    try:
      value = self._kind(argument)
      if self._holds(value):
        return value
    except ValueError:
      pass
    raise ValueError(f'must be {self.syntactic_help}')

  def flag_type(self) -> str:
    """The type that --help names."""
    return self._kind.__name__


class _NumberOrAuto(_Number):
  """A number in a range, or the word `auto`."""

  def parse(self, argument: Any) -> Any:
    """Returns the number or `'auto'`, or raises ValueError."""
    return argument if argument == 'auto' else super().parse(argument)


# Flags that overwrite a field of the recipe of the same name.
_COUNTS = {
  'shots': 'support examples per class',
  'queries': 'query examples per class at test',
  'train_shots': 'support examples per class in training',
  'train_queries': 'query examples per class in training',
  'inner_steps': 'inner steps in training',
  'inner_batch': 'examples per inner step (Reptile)',
  'eval_inner_steps': 'inner steps at test',
  'tasks_per_step': 'tasks per outer step',
  'steps': 'outer steps',
  'checkpoint_every': 'steps between checkpoints, each with validation',
  'log_every': 'steps per dispatch, and per line of metrics.jsonl',
}
_RATES = {
  'inner_lr': 'rate of the inner steps, for a mean loss',
  'outer_lr': 'rate of the outer steps',
}

_HELP = {
  'help': 'show this help',
  'helpfull': 'show the flags of libraries too',
}

# What may differ between a run and its continuation: nothing that has shaped
# the parameters so far.
MAY_CHANGE = frozenset({
  'steps', 'eval_inner_steps', 'eval_tasks', 'evaluation', 'validation_tasks',
  'test_checkpoint', 'log_every', 'checkpoint_every', 'resume', 'workdir',
  'data_dir', 'data_file', 'split_dir', 'cache_dir', 'download',
  'mesh', 'shard', 'distributed', 'num_processes', 'process_id',
  'distributed_timeout', 'heartbeat_seconds', 'stall_seconds', 'profile',
  'dry_run', 'images_on',
})  # fmt: skip


def define_flags(
  algorithms: Iterable[str], evaluations: list[str], algorithm: str = 'maml'
) -> None:
  """Defines the flags that every experiment has.

  Args:
    algorithms: names of rows of `ALGORITHMS`.
    evaluations: allowed values of --evaluation; none leaves the flag out.
    algorithm: the one of the names that is taken without the flag.
  """
  flags.DEFINE_enum('algorithm', algorithm, sorted(algorithms), 'the method')
  for name, text in _COUNTS.items():
    define_count(name, None, f'{text} [default: the recipe]')
  flags.DEFINE(
    _NumberOrAuto(
      int,
      lambda value: 1 <= value < 2**31,
      f'auto, or a whole number from 1 to {2**31 - 1}',
    ),
    'chunk_size',
    None,
    'tasks that are vectorised together; the result is the same but for'
    ' rounding. auto: as many as keep the device busy with the work that one'
    ' task is, and as fit half of its memory [default: the recipe]',
  )
  for name, text in _RATES.items():
    define_positive(name, None, f'{text} [default: the recipe]')
  flags.DEFINE_enum(
    'outer_schedule',
    None,
    sorted(SCHEDULES),
    'how the outer rate falls over --steps [default: the recipe]',
  )
  if evaluations:
    flags.DEFINE_enum(
      'evaluation',
      None,
      evaluations,
      'what a test query shares its batch statistics with: all queries of its'
      ' task, the support set alone, or training images [default: the recipe]',
    )
  flags.DEFINE_enum(
    'precision', 'float32', ['float32', 'bfloat16'],
    'what the network computes in; parameters, losses and statistics of'
    ' normalisation are in float32 always. On CPU bfloat16 is the slower one',
  )  # fmt: skip
  define_count('seed', 0, 'of everything random in training', at_least=0)
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
    define_count(name, default, text, at_least=2)
  flags.DEFINE_enum(
    'test_checkpoint', 'last', ['last', 'best'],
    'test the last parameters, or the best by validation',
  )  # fmt: skip
  define_count(
    'stall_seconds', None, 'report where the program hangs, with the stacks of'
    ' all threads, when nothing has gone on for so long [default: never]',
  )  # fmt: skip
  flags.DEFINE_string(
    'dry_run', None,
    'take no step; compile one for a topology of TPUs that need not be here,'
    ' such as v5e:16x16, or for the GPUs that are (cuda), and report what it'
    ' needs of every chip, in <workdir>/dry_run.json too; exit code 1 if it'
    ' does not fit',
  )  # fmt: skip
  flags.DEFINE_bool(
    'profile', False, 'record what the device does for a few dispatches, into'
    ' <workdir>/profile, for xprof or TensorBoard',
  )  # fmt: skip
  flags.DEFINE_string(
    'cache_dir', None, 'compiled programs and decoded data'
    ' [default: metajax in the user\'s cache directory]',
  )  # fmt: skip


def define_count(
  name: str, default: int | None, text: str, at_least: int = 1
) -> None:
  """Defines a flag that takes whole numbers only."""
  flags.DEFINE(
    _Number(
      int,
      lambda value: at_least <= value < 2**31,
      f'a whole number from {at_least} to {2**31 - 1}',
    ),
    name,
    default,
    text,
  )


def define_positive(name: str, default: float | None, text: str) -> None:
  """Defines a flag that takes numbers above zero only."""
  flags.DEFINE(
    _Number(
      float,
      lambda value: value > 0 and math.isfinite(value),
      'a finite number > 0',
    ),
    name,
    default,
    text,
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
  if FLAGS.test_only and FLAGS.load is None and recipe.steps:
    raise UsageError(
      'test_only', 'tests what --load names, the workdir of a run; give both'
    )
  if 'inner_batch' in given:
    recipe = recipe._replace(eval_inner_batch=recipe.inner_batch)
  return recipe


def settings(recipe: Recipe) -> dict[str, Any]:
  """All flags, with the defaults of the recipe filled in."""
  own = FLAGS.get_key_flags_for_module(sys.argv[0])
  values = {flag.name: flag.value for flag in own}
  return {
    name: getattr(recipe, name)
    if value is None and name in Recipe._fields
    else value
    for name, value in sorted(values.items())
    if name not in _HELP
  }


def cache_dir() -> Path | None:
  """Where compiled programs and decoded data are kept between runs.

  None where there is no such place, unless the user has asked for one.
  """
  home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  directory = Path(FLAGS.cache_dir or Path(home) / 'metajax')
  try:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    if FLAGS.cache_dir:
      raise unwritable('cache_dir', directory, error) from error
    return None
  return directory


def use_compilation_cache() -> None:
  """Keeps compiled programs, so that a second start is quick."""
  import jax

  directory = cache_dir()
  if directory is not None:
    jax.config.update('jax_compilation_cache_dir', str(directory / 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def unwritable(flag: str, path: Path, error: OSError) -> UsageError:
  """What to raise where something cannot be written."""
  return UsageError(
    flag,
    f'{path} cannot be written ({error.strerror}); name a directory that can',
  )


def run(main: Callable[[], int]) -> int:
  """Parses the flags and calls `main`; misuse is one line and exit code 2.

  (`absl.app.run` answers misuse with several lines and exit code 1, as it does
  --help, and turns on the log of every library.)
  """
  for name, text in _HELP.items():
    flags.DEFINE_bool(name, False, text)
  try:
    rest = FLAGS(sys.argv)
    if FLAGS['help'].value or FLAGS.helpfull:
      print(_help(FLAGS.helpfull))
      return 0
    if len(rest) > 1:
      return _refuse(
        f'{rest[1]!r} is not a flag; flags are given as --name=value'
      )
    return main()
  except flags.UnrecognizedFlagError as error:
    close = difflib.get_close_matches(error.flagname, list(FLAGS), 1, 0.8)
    guess = f', did you mean --{close[0]}?' if close else ';'
    return _refuse(
      f'--{error.flagname}: there is no such flag{guess} --help lists all'
    )
  except flags.Error as error:
    name, colon, text = str(error).removeprefix('flag ').partition(': ')
    if 'Non-boolean' in text:
      text = 'must be true or false'
    return _refuse(name + colon + text)
  except UsageError as error:
    return _refuse(str(error))


def _help(full: bool) -> str:
  if full:
    own = FLAGS.get_help()
  else:
    _, _, own = FLAGS.main_module_help().partition(':\n')
  return f'{sys.modules["__main__"].__doc__}\nFlags:\n{own}'


def _refuse(message: str) -> int:
  print(' '.join(message.split()), file=sys.stderr)
  return 2
