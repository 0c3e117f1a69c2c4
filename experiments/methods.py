"""The table of all methods, as Markdown.

  python -m experiments.methods [--plugin=my.module]

prints a line for every row of the table of methods: what it is, by the first
line of its documentation; which head it wants of a network; what it trains on;
and for which kinds of problem there is a recipe. docs/methods.md has it.
"""

import inspect
import sys

from experiments.recipes import control, images, regression, text
from experiments.recipes import tables as on_tables
from experiments.recipes.kinds import methods
from experiments.runner import flags, tables
from experiments.runner.plugins import import_plugins
from experiments.runner.settings import (
  Base,
  Listed,
  setting,
  settings,
)
from metajax.algorithms.table import ALGORITHMS

__all__ = ['Settings', 'run', 'table']

_KINDS = (images, regression, on_tables, text, control)


@settings
class Settings(Base):
  """Which methods there are beside those of the library."""

  plugin: tuple[str, ...] = setting(
    (), Listed(),
    'modules, with commas between them, that register methods of their own'
    ' (metajax.algorithms.register)',
    of='method', resume=False,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Prints the table."""
  import_plugins(settings.plugin)
  print(tables.markdown(table(), names=5), end='')
  return 0


def table() -> list[list[str]]:
  """The header, and a line for every method."""
  header = ['name', 'what it is', 'head', 'trains on', 'recipes for']
  able = {kind.KIND: methods(kind) for kind in _KINDS}
  return [
    header,
    *(
      [
        f'`{name}`',
        _described(name),
        row.head.describe(),
        row.trains_on if row.weights else 'nothing',
        ', '.join(kind for kind, names in able.items() if name in names),
      ]
      for name, row in ALGORITHMS.items()
    ),
  ]


def _described(name: str) -> str:
  """The first line of the documentation of its file, or of its function.

  A file is of one method, but where several are close relatives.
  """
  factory = ALGORITHMS[name].factory
  if factory is None:
    return ''
  module = inspect.getmodule(factory)
  relatives = {
    row.factory
    for row in ALGORITHMS.values()
    if row.factory and inspect.getmodule(row.factory) is module
  }
  documented = module if len(relatives) == 1 else factory
  return (inspect.getdoc(documented) or '').partition('\n')[0]


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
