"""Test tasks some queries of which are of no class."""

from typing import Any, NamedTuple

from experiments.data.samplers import Data, Wanted
from experiments.runner.errors import UsageError
from experiments.runner.settings import Base, OneOf, setting, settings
from metajax import tasks
from metajax.tasks.labelled import check_episode

__all__ = ['Apart', 'OutOfScope', 'with_queries_apart']

# Of all queries, about; as many classes of all classes.
_SHARE = 0.2


@settings
class OutOfScope(Base):
  """Which queries are of no class."""

  out_of_scope: str | None = setting(
    None, OneOf(['texts', 'classes', 'none']),
    'test too how queries of no class are found: texts that the data set has of'
    ' these (clinc150), or texts of classes that are not of the task'
    ' [default: texts where there are such, none elsewhere]',
    of='test', resume=True,
  )  # fmt: skip


class Apart(NamedTuple):
  """Tasks some queries of which are of no class."""

  validation: Any
  test: Any
  described: str  # for the protocol


def with_queries_apart(wanted: Wanted, data: Data) -> Apart | None:
  """Tasks of validation and test with queries that are of no class, if wanted.

  Args:
    wanted: what is loaded.
    data: of texts.

  Raises:
    UsageError: if the data have none.
  """
  kind = wanted.settings.out_of_scope
  if kind is None:
    kind = 'none' if data.text.out_of_scope is None else 'texts'
  if kind == 'none':
    return None
  return _texts(wanted, data) if kind == 'texts' else _classes(wanted, data)


def _texts(wanted: Wanted, data: Data) -> Apart:
  """With texts that are of no class."""
  others, recipe = data.text.out_of_scope, wanted.recipe
  if others is None:
    raise UsageError(
      'out_of_scope',
      f'is texts, but {wanted.settings.dataset} has none that are of no class;'
      ' take classes, or leave it out',
    )
  try:  # a run that is only tested may have smaller tasks of validation
    check_episode(
      data.text.splits.validation, recipe.ways, recipe.shots, recipe.queries
    )
  except tasks.DataError as error:
    raise UsageError(
      'out_of_scope',
      f'needs tasks of validation as those of the test ({error}); take none',
    ) from error
  queries = recipe.ways * recipe.queries
  most = min(len(others.validation), len(others.test))
  share = min(_SHARE, most / (most + queries))
  return Apart(
    tasks.with_out_of_scope(data.validation, others.validation, share),
    tasks.with_out_of_scope(data.test, others.test, share),
    f'a {share:.0%} share of queries, texts of no class',
  )


def _classes(wanted: Wanted, data: Data) -> Apart:
  """With texts of classes that are not of the task."""
  recipe, splits = wanted.recipe, data.text.splits
  there = min(len(splits.validation.names), len(splits.test.names))
  apart = min(max(1, round(recipe.ways * _SHARE)), there - recipe.ways)
  if apart < 1:
    raise UsageError(
      'out_of_scope',
      f'is classes, but tasks of {recipe.ways} ways leave none of the {there}'
      ' classes of validation or test; lower --ways, or leave it out',
    )

  def sampler(sample: Any, part: tasks.Texts) -> Any:
    groups = None
    if wanted.settings.within_groups:
      groups = tasks.groups_of(part)
    examples, _ = sample.args
    try:
      places = tasks.episode_places(
        part.labels, recipe.ways + apart, recipe.shots, recipe.queries,
        groups=groups,
      )  # fmt: skip
    except ValueError as error:  # of groups, which are all that is unchecked
      raise UsageError(
        'out_of_scope', f'is classes: {error}; lower --ways, or leave it out'
      ) from error
    return tasks.with_classes_apart(
      tasks.device_tasks(examples, places), recipe.ways, apart
    )

  return Apart(
    sampler(data.validation, splits.validation),
    sampler(data.test, splits.test),
    f'queries of {apart} of {recipe.ways + apart} classes, which have no'
    ' support',
  )
