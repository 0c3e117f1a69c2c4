"""Writes a page for each public module, gathered by wing.

A module that is added to metajax has its page with the next build.
"""

import ast
import importlib
import inspect
from pathlib import Path

import symbols
from symbols import Symbol

__all__ = ['WINGS', 'setup', 'write_pages']

# Wings in the order in which a reader meets them, and their titles. What is no
# package stands at the root of metajax.
WINGS = {
  'metajax.algorithms': 'Methods',
  'metajax.tasks': 'Tasks and data',
  'metajax.models': 'Models',
  'metajax.runs': 'Training, tests and checkpoints',
  'metajax.inner': 'Inner loops',
  'metajax.adaptation': 'Pieces of adaptation',
  'metajax.learned': 'Learned optimisers and losses',
  'metajax.wrappers': 'Around a method',
  'metajax.devices': 'Devices',
  'metajax.testing': 'Testing a method',
}
ROOT = 'base'  # the page of what is in no package


def setup(app):
  """Registers the generator with Sphinx."""
  app.connect('builder-inited', lambda app: write_pages(Path(app.srcdir)))
  return {'parallel_read_safe': True}


def write_pages(folder: Path) -> None:
  """Writes `api/` anew, and leaves files alone that are the same."""
  pages = {'index': _index()}
  for wing in (*_wings(), 'metajax'):
    pages[_page(wing)] = _wing(wing)
  for module in symbols.modules():
    if module not in (*_wings(), 'metajax'):
      pages[module] = _module(module)
  target = folder / 'api'
  target.mkdir(exist_ok=True)
  for old in target.glob('*.rst'):
    if old.stem not in pages:
      old.unlink()
  for name, text in pages.items():
    path = target / f'{name}.rst'
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def _wings() -> list[str]:
  """Packages beside the root; one without a title comes last under its name."""
  packages = [
    name
    for name in symbols.modules()
    if name.count('.') == 1 and _is_package(name)
  ]
  return sorted(packages, key=[*WINGS, *packages].index)


def _is_package(module: str) -> bool:
  return hasattr(importlib.import_module(module), '__path__')


def _page(wing: str) -> str:
  return ROOT if wing == 'metajax' else wing.removeprefix('metajax.')


def _pages_below(wing: str) -> list[str]:
  """Modules whose pages are listed on the page of a wing."""
  if wing == 'metajax':
    return [
      name
      for name in symbols.modules()
      if name.count('.') == 1 and not _is_package(name)
    ]
  return [name for name in symbols.modules() if name.startswith(f'{wing}.')]


def _index() -> str:
  pages = [_page(wing) for wing in (*_wings(), 'metajax')]
  return '\n'.join(
    [
      *_title('Reference'),
      'Every public name, from its docstring. A method is a function of',
      '``metajax``; the pages of the wings have all else.',
      '',
      '.. toctree::',
      '   :maxdepth: 1',
      '',
      *(f'   {page}' for page in pages),
      '',
      *_title('What metajax exports', '-'),
      *_table(symbols.members_of('metajax')),
    ]
  )


def _wing(wing: str) -> str:
  title = WINGS.get(wing, wing) if wing != 'metajax' else 'The base'
  below = _pages_below(wing)
  rows = {name.removeprefix(f'{wing}.'): Symbol(name, '') for name in below}
  lines = [*_title(title), f'.. automodule:: {wing}', '', *_table(rows)]
  if wing != 'metajax':
    lines += [*_members(wing)]
  return '\n'.join(
    [
      *lines,
      '.. toctree::',
      '   :hidden:',
      '',
      *(f'   {_short(name, wing)} <{name}>' for name in below),
      '',
    ]
  )


def _short(module: str, wing: str) -> str:
  return module.removeprefix(f'{wing}.')


def _module(module: str) -> str:
  lines = [
    *_title(module.removeprefix('metajax.')),
    f'.. automodule:: {module}',
  ]
  return '\n'.join([*lines, '', *_members(module)])


def _members(module: str) -> list[str]:
  """What is defined here, and a table of what is only passed on."""
  lines = []
  own = symbols.defined(module)
  for name in own:
    lines += [*_member(module, name), '']
  others = {
    name: symbol
    for name, symbol in symbols.members_of(module).items()
    if name not in own and symbol
  }
  if others:
    lines += [f'``{module}`` also exports', '', *_table(others)]
  return lines


def _member(module: str, name: str) -> list[str]:
  value = getattr(importlib.import_module(module), name)
  if inspect.isclass(value) and value.__name__ == name:
    return [f'.. autoclass:: {name}', '   :members:']
  if inspect.isfunction(value):
    return [f'.. autofunction:: {name}']
  return _data(module, name)


def _data(module: str, name: str) -> list[str]:
  """A constant or a name of a type, with the comment above it."""
  node = symbols.nodes_of(module).get(name)
  lines = [f'.. py:data:: {name}']
  if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
    return lines
  source = inspect.getsource(importlib.import_module(module)).splitlines()
  value = ast.unparse(node.value)
  if len(value) < 200:
    lines += [f'   :value: {value}']
  above = []
  line = node.lineno - 2
  while line >= 0 and source[line].startswith('# '):
    above.insert(0, f'   {source[line][2:]}')
    line -= 1
  return [*lines, '', *above]


def _table(rows: dict[str, Symbol | None]) -> list[str]:
  """Names, linked, beside the first lines of their docstrings."""
  lines = ['.. list-table::', '   :widths: 30 70', '']
  for name, symbol in rows.items():
    role = 'py:obj' if symbol and symbol.name else 'py:mod'
    path = symbol.path if symbol else name
    summary = symbols.summary(symbol) if symbol else ''
    lines += [f'   * - :{role}:`{name} <{path}>`', f'     - {summary}']
  return [*lines, ''] if rows else []


def _title(text: str, under: str = '=') -> list[str]:
  return [text, under * len(text), '']
