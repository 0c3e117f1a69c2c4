"""What `--help` says: all settings, grouped by what they are of."""

import dataclasses
import re
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

from experiments.runner.common import Common
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Listed,
  OneOf,
  Repeated,
  Said,
  Text,
  YesNo,
  said,
)

__all__ = ['COLUMNS', 'described']

COLUMNS = 80  # of a terminal; no line is longer

_OWN = 'Of this experiment'
_PARTS = {
  'tasks': 'Tasks: what a test asks for',
  'data': 'Data: where they lie',
  'method': 'Method: what adapts, and how',
  'training': 'Training',
  'test': 'Test: how it is judged',
  'machine': 'Machine: where and how it runs',
}
_HELP = {
  'help': 'show this help',
  'helpfull': 'show the flags of libraries too',
}


def described(cls: type, hidden: Collection[str] = ()) -> str:
  """The flags of a class of settings, a group for each part.

  First comes what no other experiment has.

  Args:
    cls: the class of settings.
    hidden: those that are not shown, since the experiment refuses them.
  """
  groups: dict[str, list[str]] = {_OWN: [], **{name: [] for name in _PARTS}}
  shared = {
    name
    for base in (*cls.__bases__, Common)
    if dataclasses.is_dataclass(base)
    for name in said(base)
  }
  for name, each in said(cls).items():
    if name not in hidden:
      default = cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
      groups[each.of if name in shared else _OWN].append(
        _flag(name, each, default)
      )
  shown = [
    '\n'.join([_PARTS.get(part, part), *flags])
    for part, flags in groups.items()
    if flags
  ]
  return '\n\n'.join([*shown, '\n'.join(['Help', *_of_help()])])


def _of_help() -> Iterator[str]:
  for name, text in _HELP.items():
    yield _wrapped(f'--{name}: {text}', '  ')


def _flag(name: str, each: Said, default: Any) -> str:
  """A flag: what it means, its default, and what is allowed."""
  switch = '[no]' if isinstance(each.kind, YesNo) else ''
  text = f'--{switch}{name}: {each.text}'
  usual = ','.join(map(str, default)) if isinstance(default, tuple) else default
  if isinstance(usual, bool):
    usual = str(usual).lower()
  if usual not in (None, ''):
    text += f' [default: {usual}]'
  lines = [_wrapped(text, '  ')]
  if allowed := _allowed(each):
    lines.append(_wrapped(f'({allowed})', '    '))
  return '\n'.join(lines)


def _allowed(each: Said) -> str:
  kind = each.kind
  if isinstance(kind, YesNo) or type(kind) is Text:
    return ''
  if isinstance(kind, OneOf):
    return ', '.join(kind.names)
  if isinstance(kind, Place):
    return 'a path'
  if type(kind) is Repeated:
    return 'may be given several times'
  if type(kind) is Listed:
    return '' if 'commas' in each.text else 'with commas between them'
  return kind.allowed


def _wrapped(text: str, indent: str) -> str:
  # What is short stays together.
  held = re.sub(r'\[default: (\S+)\]', '[default:\N{NO-BREAK SPACE}\\1]', text)
  return textwrap.fill(
    held, COLUMNS, initial_indent=indent, subsequent_indent=' ' * 4,
    break_long_words=False, break_on_hyphens=False,
  ).replace('\N{NO-BREAK SPACE}', ' ')  # fmt: skip
