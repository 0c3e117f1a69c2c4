"""The table of all methods, as Markdown.

  python -m experiments.methods [--plugin=my.module]

prints a line for every row of the table of methods: what it is, by the first
line of its documentation; which head it wants of a network; what it trains on;
and which kinds of problem it runs on. docs/methods.md has it.
"""

import inspect
import sys

from experiments.recipes import control, images, multimodal, regression, text
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
from experiments.runner.stream_learners import METHODS as ON_STREAMS
from metajax.algorithms.table import ALGORITHMS

__all__ = ['Settings', 'run', 'table']

# Driving is regression, with recipes of its own.
_KINDS = {
  'images': images,
  'regression': regression,
  'driving': regression,
  'tables of classes': on_tables,
  'text': text,
  'multimodal': multimodal,
  'control': control,
}


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
  header = ['name', 'what it is', 'head', 'trains on', 'runs on']
  able = {name: methods(kind) for name, kind in _KINDS.items()}
  able['streams'] = list(ON_STREAMS)
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
