"""Which methods have a recipe for a kind of problem, and which it is.

A kind of problem is a module of this package with `KIND`, its name; `NETWORK`,
what is trained unless a recipe says otherwise; and `RECIPES` by method. Methods
from outside bring their own (`metajax.algorithms.register`).
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

import experiments.recipes
from experiments.recipes.overrides import check_fields
from experiments.runner.errors import UsageError
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS, registered

__all__ = ['known', 'methods', 'published']


@cache
def known() -> tuple[str, ...]:
  """The names of all kinds of problem, which are modules of this package."""
  modules = [
    importlib.import_module(f'{experiments.recipes.__name__}.{each.name}')
    for each in pkgutil.iter_modules(experiments.recipes.__path__)
  ]
  return tuple(module.KIND for module in modules if hasattr(module, 'KIND'))


def methods(kind: ModuleType) -> list[str]:
  """The names of all methods that have a recipe for a kind of problem."""
  return [
    name
    for name in ALGORITHMS
    if name in kind.RECIPES or _from_outside(kind, name) is not None
  ]


def published(
  kind: ModuleType, name: str, ways: int = 5, shots: int = 1
) -> Recipe:
  """The recipe of a method, its network named.

  Args:
    kind: of problem, a module of this package.
    name: of a method that has a recipe for it (`methods`).
    ways: classes of a task, where the kind has any.
    shots: support examples, of each class where there are any.
  """
  outside = _from_outside(kind, name)
  found = kind.RECIPES[name] if outside is None else outside
  try:
    recipe = found if isinstance(found, Recipe) else found(ways, shots)
    if outside is not None:
      _check(recipe, name)
  except (TypeError, ValueError) as error:
    if outside is None:
      raise
    raise UsageError(
      'plugin', f'the recipe of {name} for {kind.KIND}: {error}'
    ) from error
  if ALGORITHMS[name].head.kind == 'none' or recipe.network is not None:
    return recipe
  return recipe._replace(network=kind.NETWORK)


def _check(recipe: object, name: str) -> None:
  """Refuses what is no recipe of a method."""
  if not isinstance(recipe, Recipe):
    raise TypeError(f'must be a Recipe, got {type(recipe).__name__}')
  check_fields(recipe)
  options = ALGORITHMS[name].options
  if unknown := sorted(set(recipe.options) - set(options)):
    raise ValueError(
      f'{unknown[0]!r} is no option; there are {", ".join(options) or "none"}'
    )


def _from_outside(kind: ModuleType, name: str) -> Any:
  entry = registered().get(name)
  return None if entry is None else entry.recipes.get(kind.KIND)
