"""How to run something again: the command, settings, machine and versions."""

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from experiments.reports import pieces
from experiments.reports.page import Section
from experiments.reports.scales import plain_number
from experiments.runner.settings import Base

__all__ = [
  'command_and_settings',
  'command_of',
  'flag',
  'given',
  'machine',
  'said',
]

_LONGEST = 76  # letters of a command in one line
# Settings that a command again goes without.
_NOT_GIVEN = ('dry_run', 'resume')


def command_of(data: Mapping[str, Any]) -> str | None:
  """The command that runs the same again, if it is known."""
  if not data.get('experiment'):
    return None
  flags = [
    part
    for name, value in data['given'].items()
    for part in _flags(name, value)
  ]
  parts = [f'python -m {data["experiment"]}', *flags]
  line = ' '.join(parts)
  return line if len(line) <= _LONGEST else ' \\\n  '.join(parts)


def _flags(name: str, value: Any) -> list[str]:
  if isinstance(value, bool):
    return [f'--{name}' if value else f'--no{name}']
  if isinstance(value, list) and name == 'shard':  # which may be repeated
    return [f'--{name}={shlex.quote(str(each))}' for each in value]
  if isinstance(value, list):
    value = ','.join(map(str, value))
  return [f'--{name}={shlex.quote(str(value))}']


def given(settings: Base) -> dict[str, Any]:
  """The experiment, and the settings that are not as they are by default."""
  cls = type(settings)
  usual = cls().given()
  return {
    'experiment': _module_of(cls),
    'given': {
      name: value
      for name, value in settings.given().items()
      if value != usual[name] and name not in _NOT_GIVEN
    },
  }


def _module_of(cls: type) -> str | None:
  """The module of a class, also where it runs as a program."""
  name = cls.__module__
  if name == '__main__':
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    if spec is None:  # it was started by its path
      return None
    name = spec.name
  return name.removesuffix('.__main__')


def command_and_settings(
  config: Mapping[str, Any], data: Mapping[str, Any] | None
) -> Section:
  """The command that runs the same again, and what it was told.

  Args:
    config: all settings, as the workdir remembers them.
    data: what says which of them were given, if that is known.
  """
  parts, given = list[Markup](), dict[str, Any]()
  if data is not None:
    given = data['given']
    if command := command_of(data):
      parts.append(pieces.command(command))
    if given:
      parts.append(
        pieces.table(
          [
            ['setting', 'given'],
            *([flag(name), said(each)] for name, each in given.items()),
          ],
          'Settings that were given',
          names=2,
        )
      )
    else:
      parts.append(pieces.paragraph('All settings are as they are by default.'))
  rest = [
    [flag(name), said(value)]
    for name, value in config.items()
    if name not in given
  ]
  if rest:
    table = pieces.table(
      [['setting', 'value'], *rest],
      'Defaults, and what a recipe has',
      names=2,
    )
    summary = f'{len(rest)} settings that were not given'
    if data is None:
      summary = f'All {len(rest)} settings; which were given is not recorded'
    parts.append(pieces.details(summary, table))
  heading = 'Settings' if data is None else 'The command again'
  return Section(heading, pieces.join(parts))


def flag(name: str) -> Markup:
  """A setting as the command has it."""
  return Markup('<code>--{}</code>').format(name)


def said(value: Any) -> str:
  """A value of a setting."""
  if value is None or value == [] or value == '':
    return 'none'
  if isinstance(value, list):
    return ', '.join(map(said, value))
  if isinstance(value, str):
    return value
  return json.dumps(value, ensure_ascii=False)


def machine(outcome: Mapping[str, Any]) -> Section:
  """How long it took, on what, with which versions."""
  facts = dict[str, str]()
  if outcome.get('seconds_to_first_step') is not None:
    facts['until the first step'] = _seconds(outcome['seconds_to_first_step'])
  facts['training after it'] = _seconds(outcome['training_seconds'])
  if rate := outcome.get('tasks_per_second'):
    facts['training tasks a second'] = plain_number(float(f'{rate:.3g}'))
    config = outcome['config']
    seeds = config.get('seeds', 1)  # the rate is that of all together
    of_all = f' of all {seeds} seeds' if seeds > 1 else ''
    per_step = config['tasks_per_step'] * seeds / rate
    facts[f'an outer step{of_all}'] = _seconds(per_step)
  facts['outer steps'] = f'{outcome["steps"]:,}'
  if outcome.get('skipped_steps'):
    facts['skipped steps'] = f'{outcome["skipped_steps"]:,}'
  facts['parameters'] = f'{outcome["parameters"]:,}'
  devices = outcome.get('devices', [])
  facts['devices'] = ', '.join(
    f'{devices.count(each)} x {each}' for each in dict.fromkeys(devices)
  )
  versions = outcome.get('versions', {})
  return Section(
    'Time, machine, versions', pieces.facts(facts) + pieces.facts(versions)
  )


def _seconds(seconds: float) -> str:
  if seconds >= 600:
    return f'{seconds / 60:.0f} minutes'
  return f'{seconds:.3g} s' if seconds >= 1 else f'{1000 * seconds:.3g} ms'
