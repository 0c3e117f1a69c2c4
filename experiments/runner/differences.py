"""What has shaped what a run has learned, and what of it is otherwise here."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.runner.common import Common
from experiments.runner.errors import UsageError, shown
from experiments.runner.records import RECORD, read_record
from experiments.runner.settings import Base, Part, said
from metajax.algorithms.recipe import Recipe

__all__ = [
  'check_one_seed',
  'differences',
  'naming_differences',
  'settings_kept',
]

# What has shaped what a run has learned, and what its tasks are.
_PARTS: tuple[Part, ...] = ('tasks', 'data', 'method')


def differences(
  settings: Common, recipe: Recipe, parts: tuple[Part, ...] = _PARTS
) -> str:
  """The flags of the run of `--load` whose values are others here.

  Args:
    settings: of the run that loads another.
    recipe: with these settings.
    parts: what the flags are of.

  Returns:
    One line, such as `runs/x had --ways=20 (here 5)`, or nothing.
  """
  if settings.load is None:
    return ''
  record = Path(settings.load) / RECORD
  if not record.exists():  # of an older run
    return ''
  there, here = read_record(record, 'load'), settings.given()
  names = [
    name
    for name, each in said(type(settings)).items()
    if each.of in parts and name in there
  ]
  changed = list[str]()
  for name in names:
    value = here[name]
    if value is None and name in Recipe._fields:
      value = getattr(recipe, name)
    # What is not given may stand for any default.
    if there[name] != value and (value or there[name]):
      changed.append(f'--{name}={_text(there[name])} (here {_text(value)})')
  return f'{settings.load} had {", ".join(changed)}' if changed else ''


def check_one_seed(
  record: Mapping[str, Any], workdir: Path, setting: str
) -> None:
  """Refuses a run of several seeds, where nobody says which is meant.

  Args:
    record: of the run.
    workdir: of the run.
    setting: the one that names it.

  Raises:
    UsageError: if there are several.
  """
  if record.get('seeds', 1) != 1:
    raise UsageError(
      setting, f'{workdir} is of several seeds; name a run of one'
    )


def settings_kept(
  record: Mapping[str, Any], kind: type[Base]
) -> dict[str, Any]:
  """What a test of a run has of its settings: of tasks, data and method.

  Args:
    record: of the run.
    kind: the settings of its experiment.
  """
  return {
    name: record[name]
    for name, each in said(kind).items()
    if each.of in _PARTS and record.get(name) is not None
  }


def _text(value: Any) -> str:
  if isinstance(value, list):
    value = ','.join(map(str, value))
  if isinstance(value, bool):
    return str(value).lower()
  return 'none' if value in (None, '') else shown(value).strip("'")


@contextlib.contextmanager
def naming_differences(settings: Common, recipe: Recipe) -> Iterator[None]:
  """Has what is refused say what all was set otherwise in the run of `--load`.

  Raises:
    UsageError: if the block does.
  """
  try:
    yield
  except UsageError as error:
    try:
      more = differences(settings, recipe)
    except UsageError:  # the record is damaged, which is not what was asked
      more = ''
    if not more:
      raise
    refused = UsageError(error.setting, f'{error.message}; {more}')
    refused.given = error.given
    raise refused from error
