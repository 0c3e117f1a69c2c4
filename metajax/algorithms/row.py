"""What a row of the table is, and rows of the usual kinds of methods."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import optax

from metajax.algorithms.recipe import Recipe, plain_adam
from metajax.base import Head, MetaLearner, Model, Objective, PyTree

__all__ = [
  'Algorithm',
  'AnyRecipe',
  'Make',
  'closed_form_method',
  'gradient_method',
  'own_options',
]

Make = Callable[[Model, Objective, Recipe], MetaLearner]
# A recipe, or what makes one from the numbers of ways and shots.
AnyRecipe = Recipe | Callable[[int, int], Recipe]


class Algorithm(NamedTuple):
  """A row of the table: what a method is, on any kind of problem."""

  make: Make
  optimizer: Callable[[Recipe], optax.GradientTransformation] = plain_adam
  head: Head = Head('outputs')  # what it wants at the end of a network
  # The weights of the model among the meta-parameters; None: there are none.
  weights: Callable[[PyTree], PyTree] | None = lambda meta_params: meta_params
  adapts_by_gradient: bool = True
  # Whether a task changes the weights of the model; None: what adapts by
  # gradient does, and what does not leaves features of an example as they are.
  adapts_weights: bool | None = None
  adapts_at_random: bool = False  # another key, another meta-gradient
  # Whether it takes one example of a support set after another, each by itself:
  # a network that normalises by the batch has none then.
  on_streams: bool = False
  more_metrics: tuple[str, ...] = ()  # beside those of the objective
  # 'classes': training "tasks" are batches with the labels of all classes.
  trains_on: Literal['tasks', 'classes'] = 'tasks'
  # What a recipe may set beside its own fields, with what is taken otherwise.
  options: Mapping[str, Any] = MappingProxyType({})
  factory: Callable[..., Any] | None = None  # the function that the row is of


def own_options(factory: Callable[..., Any], **taken: Any) -> dict[str, Any]:
  """The options of a factory that a recipe may set, with their defaults.

  They are its keyword-only parameters with a plain value, but for those that
  recipes have as a field.

  Args:
    factory: makes a method.
    **taken: values in place of the defaults.
  """
  return {
    name: each.default
    for name, each in inspect.signature(factory).parameters.items()
    if each.kind is each.KEYWORD_ONLY
    and isinstance(each.default, bool | int | float | str)
    and name not in Recipe._fields
  } | taken


def gradient_method(
  factory: Callable[..., MetaLearner],
  optimizer: Callable[[Recipe], optax.GradientTransformation] = plain_adam,
  *fields: str,
  options: Mapping[str, Any] = MappingProxyType({}),
  **row: Any,
) -> Algorithm:
  """A row of what takes inner steps.

  Args:
    factory: `(model, objective, inner_lr, num_steps, ...) -> MetaLearner`.
    optimizer: the outer one.
    *fields: of the recipe that it takes beside rate and steps, by keyword.
    options: values in place of the defaults of the factory.
    **row: further fields of the row.
  """

  def make(model: Model, objective: Objective, recipe: Recipe) -> MetaLearner:
    return factory(
      model,
      objective,
      recipe.inner_lr,
      recipe.inner_steps,
      **{field: getattr(recipe, field) for field in fields},
      **{**options, **recipe.options},
    )

  return Algorithm(
    make,
    optimizer,
    options=own_options(factory, **options),
    factory=factory,
    **row,
  )


def closed_form_method(
  factory: Callable[..., MetaLearner],
  optimizer: Callable[[Recipe], optax.GradientTransformation] = plain_adam,
  *fields: str,
  options: Mapping[str, Any] = MappingProxyType({}),
  **row: Any,
) -> Algorithm:
  """A row of what is made of the classes of a support set.

  Args:
    factory: `(model, objective, num_classes, ...) -> MetaLearner`.
    optimizer: the outer one.
    *fields: of the recipe that come after the number of classes, such as the
      rate and the steps of what descends from there.
    options: values in place of the defaults of the factory.
    **row: further fields of the row.
  """

  def make(model: Model, objective: Objective, recipe: Recipe) -> MetaLearner:
    return factory(
      model,
      objective,
      recipe.ways,
      *(getattr(recipe, field) for field in fields),
      **{**options, **recipe.options},
    )

  return Algorithm(
    make,
    optimizer,
    adapts_by_gradient=False,
    options=own_options(factory, **options),
    head=Head('features'),
    factory=factory,
  )._replace(**row)
