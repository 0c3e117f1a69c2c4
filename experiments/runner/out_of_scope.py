"""How well queries that are of no class are told from the others."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.features import Encode
from experiments.runner.judging import on_features
from experiments.runner.problem import (
  TEST_SEED,
  VALIDATION_SEED,
  Judge,
  Problem,
)
from metajax.base import PyTree, SampleTask, as_argument
from metajax.equality import Frozen, as_frozen
from metajax.normalisation import Normalisation, predict_queries
from metajax.objectives import confidence_interval
from metajax.tasks import (
  accuracy_with_rejection,
  area_under_curve,
  is_out_of_scope,
  tune_threshold,
)

__all__ = ['OfFeatures', 'with_rejection']

# Tasks of validation and test, of features that are made so.
OfFeatures = Callable[[Encode], tuple[SampleTask, SampleTask]]

# What no probability is below, or all are: JSON has no infinite numbers.
_ACCEPT_ALL, _REJECT_ALL = 0.0, 1.01


def with_rejection(
  problem: Problem,
  judge: Judge,
  meta_params: PyTree,
  *,
  validation: SampleTask,
  test: SampleTask,
  of_features: OfFeatures | None = None,
) -> dict[str, Any]:
  """Rejects queries whose greatest probability is low; how low, is tuned.

  Args:
    problem: whose method it is.
    judge: of the problem.
    meta_params: as they are trained.
    validation: tasks that the threshold is tuned on, some queries of which are
      of no class.
    test: such tasks that it is tested on.
    of_features: makes both of features of the same texts, for methods that
      compare them.

  Returns:
    What `result.json` has under `out_of_scope`: the area under the curve, the
    accuracy where what is below the threshold is rejected, and that where
    nothing is, each with its interval over tasks; and the threshold. None
    where a probability is no number.
  """
  given, settings = judge.prepare(meta_params), problem.settings
  learner = judge.learner
  if of_features is not None:
    of = on_features(problem, given, problem.test, settings.eval_tasks)
    if of is not None:
      learner, (validation, test) = of.learner, of_features(of.encode)

  def found(sample: SampleTask, seed: int, number: int) -> Any:
    keys = jax.random.split(jax.random.key(seed), number)
    return _found(
      judge.normalisation, as_frozen(learner), given, as_argument(sample), keys
    )

  tuned = found(validation, VALIDATION_SEED, settings.validation_tasks)
  tested = found(test, TEST_SEED, settings.eval_tasks)
  probabilities, _, outside = tested
  if np.isnan(tuned[0]).any() or np.isnan(probabilities).any():
    return {'out_of_scope': None}
  threshold = tune_threshold(*tuned)
  threshold = min(max(threshold, _ACCEPT_ALL), _REJECT_ALL)
  accuracy: Any = jax.vmap(accuracy_with_rejection, (0, 0, 0, None))
  values = {
    'auroc': jax.vmap(area_under_curve)(probabilities, outside),
    'accuracy': accuracy(*tested, threshold),
    'accuracy_of_accepting_all': accuracy(*tested, _ACCEPT_ALL),
  }
  return {
    'out_of_scope': {
      **{
        name: {
          'mean': float(jnp.mean(each)),
          'ci95': float(confidence_interval(each)),
        }
        for name, each in values.items()
      },
      'threshold': threshold,
    }
  }


@partial(jax.jit, static_argnums=0)
def _found(
  normalisation: Normalisation,
  learner: Frozen,
  meta_params: PyTree,
  sample: SampleTask,
  keys: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Probabilities, classes, and what is of none: `[tasks, queries, ...]`."""
  made = learner.made()

  def of_task(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    task_key, adapt_key = jax.random.split(key)
    task = sample(task_key)
    adapted, _ = made.adapt(adapt_key, meta_params, task.support)
    outputs = predict_queries(made, adapted, task, normalisation)
    targets: Any = task.query.targets
    return jax.nn.softmax(outputs), targets.values, is_out_of_scope(targets)

  return jax.lax.map(of_task, keys)
