"""A recipe with what the user set instead."""

import contextlib
import typing
from types import NoneType, UnionType
from typing import Any

from experiments.runner.common import Common
from experiments.runner.errors import UsageError, suggestion
from experiments.runner.settings import (
  Finite,
  Kind,
  OneOf,
  Whole,
  YesNo,
  assigned,
  assignments,
  said,
)
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS, Algorithm
from metajax.models.encoders import ENCODERS

__all__ = [
  'assigned_kinds',
  'check_fields',
  'check_train_ways',
  'with_settings',
]

# What the experiment finds out or a comparison takes, and what only some kinds
# of problem have; where these have it there is a flag.
_NOT_TO_SET = frozenset({
  'train_classes', 'options', 'short_steps', 'short_outer_lr',
  'ways', 'train_ways', 'batch_size', 'evaluation',
})  # fmt: skip


# Sizes of what a method trains on, by what it does not train on.
_SIZES = {
  'tasks': ('batch_size',),
  'classes': ('train_ways', 'train_shots', 'train_queries'),
}


def with_settings(recipe: Recipe, settings: Common) -> Recipe:
  """The recipe with what the settings have in place of its fields.

  Args:
    recipe: as it is published.
    settings: those whose name is a field of the recipe replace it, unless they
      are None; then come the fields and options that `set` names.

  Raises:
    UsageError: if there is no such field or option, or a value is of another
      type, or has no meaning for the method.
  """
  row = ALGORITHMS[settings.algorithm]
  for name in _SIZES[row.trains_on]:
    if (value := getattr(settings, name, None)) is not None:
      raise UsageError(
        name,
        f'is {value}, but has no meaning for {settings.algorithm}, which trains'
        f' on {row.trains_on}',
      )
  given = {
    name: value
    for name in said(type(settings))
    if name in Recipe._fields and (value := getattr(settings, name)) is not None
  }
  fields, options = _assigned(settings, row)
  given |= fields
  if recipe.steps == 0 and 'steps' in given:
    raise UsageError(
      'steps', f'{settings.algorithm} needs no training; leave the flag out'
    )
  recipe = recipe._replace(**given)
  if options:
    recipe = recipe._replace(options={**recipe.options, **options})
  if settings.test_only and settings.load is None and recipe.steps:
    raise UsageError(
      'test_only', 'tests what --load names, the workdir of a run; give both'
    )
  if 'inner_steps' in given and 'eval_inner_steps' not in given:
    least = max(recipe.inner_steps, recipe.eval_inner_steps)
    recipe = recipe._replace(eval_inner_steps=least)
  if 'inner_batch' in given and 'eval_inner_batch' not in given:
    recipe = recipe._replace(eval_inner_batch=recipe.inner_batch)
  check_train_ways(row, recipe, settings.algorithm)
  return _with_network(recipe, settings, row)


def check_train_ways(row: Algorithm, recipe: Recipe, subject: str) -> None:
  """Refuses to train what has an output for each class on others than it tests.

  Args:
    row: of the method.
    recipe: of the tasks.
    subject: how the message calls the method, before "has".
  """
  per_class = row.head.kind == 'outputs'
  if per_class and recipe.train_ways not in (None, recipe.ways):
    raise UsageError(
      'train_ways',
      f'is {recipe.train_ways}, but {subject} has an output for each class, so'
      f' only --ways={recipe.ways} is allowed',
    )


def _with_network(recipe: Recipe, settings: Common, row: Algorithm) -> Recipe:
  """The recipe with the width and depth that its network has."""
  if row.head.kind == 'none':
    for name in ('network', 'depth'):  # a width is taken, and does nothing
      if getattr(settings, name) is not None:
        raise UsageError(name, f'{settings.algorithm} has no network')
    return recipe
  assert recipe.network is not None  # that of the kind of problem, at least
  network = ENCODERS[recipe.network]
  if settings.depth is not None and network.depth is None:
    able = [
      name
      for name, each in ENCODERS.items()
      if each.depth and row.head.kind in each.heads
    ]
    raise UsageError(
      'depth',
      f'is {settings.depth}, but {recipe.network} has no choice of it;'
      f' {", ".join(able)} have',
    )
  return recipe._replace(
    width=recipe.width or network.width,
    depth=(recipe.depth or network.depth) if network.depth else None,
  )


def _assigned(
  settings: Common, row: Algorithm
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The fields and the options that `set` names, with their values."""
  fields, options = dict[str, Any](), dict[str, Any]()
  kinds = _field_kinds(settings)
  for name, text in assignments(settings.set):
    if name in fields or name in options:
      raise UsageError('set', f'{name} is given twice')
    if name in kinds:
      fields[name] = assigned(name, text, kinds[name])
    elif name in row.options:
      options[name] = assigned(name, text, _option_kind(row, name))
    else:
      names = sorted({*kinds, *row.options})
      raise UsageError(
        'set',
        f'{settings.algorithm} has no {name!r} among {", ".join(names)}'
        f'{suggestion(name, names)}',
      )
  return fields, options


def assigned_kinds(cls: type, row: Algorithm) -> dict[str, Kind]:
  """What `set` may assign for a method, and what each may be."""
  fields = {
    name: kind for name, kind in _kinds(cls).items() if name not in _NOT_TO_SET
  }
  return fields | {name: _option_kind(row, name) for name in row.options}


def _field_kinds(settings: Common) -> dict[str, Kind]:
  """What each field of a recipe may be: as the setting, or as its type says."""
  kinds = _kinds(type(settings))
  return {name: kind for name, kind in kinds.items() if name not in _NOT_TO_SET}


def check_fields(recipe: Recipe) -> None:
  """Refuses a recipe from outside with a value that no setting may have.

  Raises:
    ValueError: if there is one; what needs no training takes 0 steps.
  """
  usual, untrained = Recipe(), ('steps', 'short_steps')
  for name, kind in _kinds(Common).items():
    value = getattr(recipe, name)
    if value is None and getattr(usual, name) is None:
      continue
    try:
      (Whole(0) if name in untrained else kind).check(value)
    except ValueError as error:
      # In quotes, for it is no flag that is wrong.
      raise ValueError(f'{name!r} is {value!r}, but {error}') from None


def _kinds(cls: type) -> dict[str, Kind]:
  known = {name: each.kind for name, each in said(cls).items()}
  types = typing.get_type_hints(Recipe)
  return {
    name: known.get(name) or _kind_of(types[name])
    for name in Recipe._fields
    if name != 'options'
  }


def _option_kind(row: Algorithm, name: str) -> Kind:
  """One of some words where the factory says which, or what the default is."""
  hints: dict[str, Any] = {}
  with contextlib.suppress(NameError):  # of types for type checkers alone
    hints = typing.get_type_hints(row.factory) if row.factory else {}
  hint = hints.get(name)
  for part in (hint, *typing.get_args(hint)):
    if typing.get_origin(part) is typing.Literal:
      return OneOf(typing.get_args(part))
  default = type(row.options[name])
  return Whole(0) if default is int else _kind_of(default)


def _kind_of(annotation: Any) -> Kind:
  if typing.get_origin(annotation) in (UnionType, typing.Union):
    (annotation,) = set(typing.get_args(annotation)) - {NoneType}
  if typing.get_origin(annotation) is typing.Literal:
    return OneOf(typing.get_args(annotation))
  if annotation is bool:
    return YesNo()
  return {int: Whole(), float: Finite()}.get(annotation, Kind())
