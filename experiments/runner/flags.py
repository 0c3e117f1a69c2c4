"""The door: absl flags become a value of settings, and misuse one line."""

import difflib
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Container
from typing import Any

from absl import flags

from experiments.runner.errors import UsageError, printable
from experiments.runner.help import described
from experiments.runner.settings import Kind, Listed, Repeated, YesNo, said

__all__ = ['as_flags', 'main', 'one_line']

FLAGS = flags.FLAGS
# What this module defines belongs to the binary that asks for it.
flags.disclaim_key_flags()

_HELP = ('help', 'helpfull')


class _Parser(flags.ArgumentParser):
  """Reads a text as the setting of this kind does."""

  def __init__(self, kind: Kind) -> None:
    super().__init__()
    self._kind = kind

  def parse(self, argument: Any) -> Any:
    """Returns the value, or raises ValueError."""
    return self._kind.parse(argument) if isinstance(argument, str) else argument


def main(
  cls: type,
  run: Callable[[Any], int],
  names: str | None = None,
  hidden: Collection[str] = (),
) -> int:
  """Makes settings of the command line, and runs with them.

  (`absl.app.run` answers misuse with several lines and exit code 1, as it does
  --help, and turns on the log of every library.)

  Args:
    cls: the class of settings.
    run: what is called with them; returns the exit code.
    names: the setting, a list, of what is given without a flag.
    hidden: settings that --help leaves out, since `run` refuses them.

  Returns:
    The exit code; 2 for misuse, of which one line says what to put right.
  """
  for name, each in said(cls).items():
    _define(name, each.kind, cls.__dataclass_fields__[name].default, each.text)  # type: ignore[attr-defined]
  for name in _HELP:
    flags.DEFINE_bool(name, False, '')
  FLAGS.set_gnu_getopt(names is not None)  # flags may stand behind names
  try:
    rest = FLAGS(sys.argv)
    if FLAGS['help'].value or FLAGS.helpfull:
      _show_help(cls, hidden, FLAGS.helpfull)
      return 0
    if names is not None:
      rest = _as_setting(names, rest)
    if len(rest) > 1:
      return _refuse(
        f'{rest[1]!r} is not a flag; flags are given as --name=value'
      )
    values = {name: FLAGS[name].value for name in said(cls)}
    return one_line(cls, lambda: run(cls(**values)))
  except flags.UnrecognizedFlagError as error:
    close = difflib.get_close_matches(error.flagname, list(FLAGS), 1, 0.8)
    close = close or [  # --lr, of --inner_lr and --outer_lr
      name for name in said(cls) if error.flagname in name.split('_')
    ]
    meant = ' or '.join(f'--{name}' for name in close[:3])
    guess = f', did you mean {meant}?' if close else ';'
    return _refuse(
      f'--{error.flagname}: there is no such flag{guess} --help lists all'
    )
  except flags.Error as error:
    name, colon, text = str(error).removeprefix('flag ').partition(': ')
    if 'Non-boolean' in text:
      text = 'must be true or false'
    return _refuse(name + colon + text)


def _as_setting(name: str, rest: list[str]) -> list[str]:
  """Adds what was given without a flag to a setting."""
  program, *given = rest
  FLAGS[name].value = [*FLAGS[name].value, *given]
  return [program]


def one_line(cls: type, run: Callable[[], int]) -> int:
  """Makes a line on stderr and exit code 2 of what the user can put right.

  A warning is a line too.

  Args:
    cls: the class of settings.
    run: what returns the exit code.
  """
  with warnings.catch_warnings():
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
      return run()
    except UsageError as error:
      text = as_flags(error.message, said(cls))
      return _refuse(f'--{error.setting}{error.given}: {text}')
    except KeyboardInterrupt:  # where there is nothing to save
      print('stopped', file=sys.stderr)
      return 128 + signal.SIGINT
    except BrokenPipeError:  # such as of `| head`
      _read_no_more()
      print('stopped: what is printed is read no more', file=sys.stderr)
      return 128 + signal.SIGPIPE
    except PermissionError as error:  # of a directory that cannot be entered
      return _refuse(f'{error.filename}: {error.strerror}; name another')


def as_flags(message: str, names: Container[str]) -> str:
  """A message with flags in place of the parameters that it names.

  These are words of several parts, which are the same in the library and here;
  within paths and quotes they are names of something else.

  Example:
    >>> as_flags('damaged; skip_unreadable skips it', ['skip_unreadable'])
    'damaged; --skip_unreadable skips it'
  """

  def flag(word: re.Match[str]) -> str:
    return f'--{word[0]}' if word[0] in names else word[0]

  return re.sub(r'(?<![^\s(])[a-z]+(?:_[a-z]+)+(?![\w./])', flag, message)


def _show_warning(message: Warning | str, *rest: Any) -> None:
  del rest  # where the code is that warns
  text = printable(' '.join(str(message).split()))
  print(f'warning: {text}', file=sys.stderr, flush=True)


def _define(name: str, kind: Kind, default: Any, text: str) -> None:
  if isinstance(kind, YesNo):
    flags.DEFINE_bool(name, default, text)
  elif isinstance(kind, Repeated):
    flags.DEFINE_multi_string(name, list(default), text)
  elif isinstance(kind, Listed):
    usual = None if default is None else list(default)
    flags.DEFINE_list(name, usual, text)
  else:
    flags.DEFINE(_Parser(kind), name, default, text)


def _show_help(cls: type, hidden: Collection[str], full: bool) -> None:
  parts = [str(sys.modules['__main__'].__doc__).rstrip()]
  parts.append(described(cls, hidden))
  if full:
    own = {*said(cls), *_HELP}
    parts += [
      FLAGS.module_help(module).strip('\n')
      for module, defined in FLAGS.flags_by_module_dict().items()
      if not own & {each.name for each in defined}
    ]
  try:
    print('\n\n'.join(parts), flush=True)
  except BrokenPipeError:  # whoever reads has seen enough
    _read_no_more()


def _read_no_more() -> None:
  """What is still to be written goes nowhere, and raises nothing at the end."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> int:
  print(printable(' '.join(message.split())), file=sys.stderr)
  return 2
