"""A problem of regression, which several experiments have."""

from collections.abc import Callable
from typing import Any

from experiments.runner.common import Common
from experiments.runner.networks import check_network, make_model
from experiments.runner.problem import Problem, tested_how
from experiments.runner.reading import Reading
from metajax.algorithms.recipe import Recipe
from metajax.metric import MEAN_SQUARED_ERROR
from metajax.objectives import mean_squared_error

__all__ = ['regression']


def regression(
  settings: Common,
  recipe: Recipe,
  data: Any,
  *,
  name: str,
  dataset: str,
  baseline: Callable[[Problem], dict[str, float]],
  draw: Callable[[Any], None],
  report: Callable[[Any], None],
  experiment: str,
) -> Problem:
  """A problem of regression: a mean squared error on tasks without classes.

  Args:
    settings: of the run.
    recipe: with these settings.
    data: samplers, protocol, number of targets and digests
      (`experiments.data`).
    name: of a run.
    dataset: what the tasks are of.
    baseline: what the result is compared with.
    draw: makes the pictures.
    report: writes the page.
    experiment: whose problem it is.
  """
  model = make_model(settings, recipe, data.num_targets)
  check_network(model, data.train, 'network', recipe.network)
  return Problem(
    name=name,
    settings=settings,
    recipe=recipe,
    objective=mean_squared_error,
    model=model,
    train=data.train,
    validation=data.validation,
    test=data.test,
    metric=MEAN_SQUARED_ERROR,
    protocol={
      'dataset': dataset,
      'shots': recipe.shots,
      'queries': recipe.queries,
      **tested_how(settings),
      **data.protocol,
    },
    baseline=baseline,
    draw=draw,
    report=report,
    digests=data.digests,
    reading=Reading(
      experiment,
      data.inputs,
      data.outputs,
      {'outputs': data.num_targets},
    ),
  )
