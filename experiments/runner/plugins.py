"""Modules of the user's that register methods of their own."""

import importlib
from collections.abc import Sequence

from experiments.runner.errors import UsageError, suggestion

__all__ = ['import_plugins']

# Plugins that have registered something, once.
_IMPORTED = set[str]()


def import_plugins(plugins: Sequence[str]) -> None:
  """Imports modules that register methods of their own.

  Raises:
    UsageError: if one cannot be imported, registers nothing, or has a recipe
      for what is no kind of problem.
  """
  from experiments.recipes.kinds import known
  from metajax.algorithms.table import registered, unregister

  for name in plugins:
    before = set(registered())
    try:
      importlib.import_module(name)
    except (Exception, SystemExit) as error:
      for half in set(registered()) - before:
        unregister(half)
      raise UsageError(
        'plugin',
        f'{name} cannot be imported ({type(error).__name__}: {error})',
      ) from error
    modules = {f'{each.module}.' for each in registered().values()}
    mine = any(module.startswith(f'{name}.') for module in modules)
    if not mine and set(registered()) == before and name not in _IMPORTED:
      raise UsageError(
        'plugin',
        f'{name} registers no method; call metajax.algorithms.register in it',
      )
    _IMPORTED.add(name)
    for method, entry in registered().items():
      new = method not in before or f'{entry.module}.'.startswith(f'{name}.')
      for kind in entry.recipes:
        if not new or kind in known():
          continue
        raise UsageError(
          'plugin',
          f'{entry.module} has a recipe of {method} for {kind!r}, which is no'
          f' kind of problem; they are {", ".join(known())}'
          f'{suggestion(kind, known())}',
        )
