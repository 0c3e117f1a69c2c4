"""Settings as a file of flags, for `--flagfile`."""

from collections.abc import Mapping
from typing import Any

from experiments.runner.common import Common
from experiments.runner.errors import UsageError
from experiments.runner.search import as_settings
from experiments.runner.settings import Repeated, said

__all__ = ['flagfile']

# Where a run lies, is its own business.
_OWN = ('workdir', 'resume', 'fold')


def flagfile(given: Common, values: Mapping[str, Any]) -> str:
  """The flags of settings that are not as they are by default, one a line.

  Args:
    given: settings of an experiment.
    values: what is set in place of some of them.

  Raises:
    UsageError: if a value has a line break, which a line cannot hold.
  """
  settings = as_settings(given, values)
  usual = type(settings)().given()
  lines = []
  for name, value in settings.given().items():
    if name in _OWN or value == usual[name]:
      continue
    several = isinstance(value, list)
    if several and not isinstance(said(type(settings))[name].kind, Repeated):
      value, several = ','.join(map(str, value)), False
    for each in value if several else [value]:
      text = str(each).lower() if isinstance(each, bool) else str(each)
      if len(text.splitlines()) > 1:
        raise UsageError(name, 'has a line break, which no file of flags has')
      lines.append(f'--{name}={text}\n')
  return ''.join(lines)
