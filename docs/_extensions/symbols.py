"""Public names of metajax, and where each of them is defined."""

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
from types import ModuleType
from typing import NamedTuple

import metajax

__all__ = [
  'Symbol',
  'defined',
  'home',
  'imported_from',
  'members_of',
  'modules',
  'nodes_of',
  'separated',
  'summary',
]


class Symbol(NamedTuple):
  """A name, in the public module whose page it stands on."""

  module: str
  name: str

  @property
  def path(self) -> str:
    """What the inventory calls it; a module has no name within itself."""
    return f'{self.module}.{self.name}' if self.name else self.module


@functools.cache
def modules() -> tuple[str, ...]:
  """All public modules, with `metajax` itself first."""
  found = [
    each.name
    for each in pkgutil.walk_packages(metajax.__path__, 'metajax.')
    if not any(part.startswith('_') for part in each.name.split('.'))
  ]
  return ('metajax', *sorted(found))


@functools.cache
def nodes_of(module: str) -> dict[str, ast.AST]:
  """Statements at the root of a module by the name that they bind."""
  bound: dict[str, ast.AST] = {}
  source = inspect.getsource(importlib.import_module(module))
  for node in ast.parse(source).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      bound[node.name] = node
    elif isinstance(node, ast.Assign):
      bound |= {one.id: node for one in node.targets if hasattr(one, 'id')}
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      bound[node.target.id] = node
  return bound


def home(module: str, name: str) -> Symbol | None:
  """Where a public name is defined, or read from a module beside it.

  Args:
    module: a public module.
    name: what its `__all__` lists.

  Returns:
    The last public module on the way from import to import, or None where no
    statement binds the name.
  """
  if f'{module}.{name}' in modules() and not _is_shadowed(module, name):
    return Symbol(f'{module}.{name}', '')
  if name in nodes_of(module):
    return Symbol(module, name)
  for source, original in _imports(module):
    if original not in (name, '*'):
      continue
    if f'{source}.{name}' in modules() and not _is_shadowed(source, name):
      return Symbol(f'{source}.{name}', '')
    if original == '*' and name not in importlib.import_module(source).__all__:
      continue
    if any(part.startswith('_') for part in source.split('.')):
      return Symbol(module, name)
    return home(source, name)
  return None


def defined(module: str) -> list[str]:
  """Public names whose page is that of this module."""
  names = importlib.import_module(module).__all__
  return [name for name in names if home(module, name) == (module, name)]


def members_of(module: str) -> dict[str, Symbol | None]:
  """Public names of a module, and where each of them is explained."""
  names = importlib.import_module(module).__all__
  return {name: home(module, name) for name in names}


def summary(symbol: Symbol) -> str:
  """What its docstring begins with, or nothing where it has none."""
  found: object = importlib.import_module(symbol.module)
  if symbol.name:
    found = getattr(found, symbol.name)
    if not (callable(found) and inspect.getmodule(found)):
      return ''
  paragraph = (inspect.getdoc(found) or '').partition('\n\n')[0]
  text = '' if paragraph.startswith('..') else ' '.join(paragraph.split())
  return separated(text)


def separated(text: str) -> str:
  """Writes the plural of a name, which ends in "`s", as Sphinx reads it."""
  return re.sub(r'(`[^`\n]+`)s\b', r'\1\\ s', text)


def imported_from(module: str, name: str) -> list[str]:
  """Modules that a module imports a name from."""
  return [source for source, found in _imports(module) if found == name]


def _is_shadowed(module: str, name: str) -> bool:
  """Whether the package has a function of the name of one of its modules."""
  value = getattr(importlib.import_module(module), name, None)
  return not isinstance(value, ModuleType)


@functools.cache
def _imports(module: str) -> tuple[tuple[str, str], ...]:
  """Pairs of a module and what is imported from it, `*` for everything."""
  source = inspect.getsource(importlib.import_module(module))
  return tuple(
    (_source(module, node), alias.name)
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
    if alias.asname is None
  )


def _source(module: str, node: ast.ImportFrom) -> str:
  """The module that is imported from, whose dots begin at the package."""
  if not node.level:
    return node.module or ''
  package = importlib.import_module(module).__spec__.parent
  return importlib.util.resolve_name(
    '.' * node.level + (node.module or ''), package
  )
