"""How sure a trained learner is, and how often it is right."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.features import features_of
from experiments.runner.judging import on_features
from experiments.runner.problem import (
  TEST_SEED,
  VALIDATION_SEED,
  Judge,
  Problem,
)
from experiments.runner.progress import shown
from metajax.base import EXCLUDED, PyTree, SampleTask, values_and_weights
from metajax.objectives import confidence_interval
from metajax.runs.evaluation import example_outputs
from metajax.runs.inputs import sampled_inputs
from metajax.trained import fit_temperature, reliability
from metajax.trained.calibration import negative_log_likelihood

__all__ = ['calibrated', 'normalisation_of', 'shares_statistics']

# Predictions that a temperature is fitted to, and judged by, at least.
_FITTED, _JUDGED = 2_000, 5_000
_TASKS = 50  # and tasks


def shares_statistics(problem: Problem) -> bool:
  """Whether a model normalises by the batch at hand."""
  measure = problem.model.measure
  if measure is None:
    return False
  inputs = sampled_inputs(problem.test)
  key = jax.random.key(0)
  found = jax.eval_shape(
    lambda key, inputs: measure(problem.model.init(key, inputs), inputs),
    key,
    inputs,
  )
  return bool(jax.tree.leaves(found))


def calibrated(
  problem: Problem, judge: Judge, prepared: PyTree
) -> dict[str, Any] | None:
  """How sure the learner is, and how often it is right.

  The temperature is fitted on tasks of validation, and judged on those of the
  test, as whoever uses the learner gets its answers (`served`).

  Args:
    problem: of classification.
    judge: by which it is served.
    prepared: meta-parameters as that one wants them.

  Returns:
    None where predictions are no numbers.
  """
  settings = problem.settings
  temperature, fitted = 1.0, 0
  if _is_validated(problem):
    fitted = _enough(problem.validation, _FITTED, settings.validation_tasks)
    found = _predicted(
      problem, judge, prepared, problem.validation, VALIDATION_SEED, fitted
    )
    outputs, classes = found.counted()
    if np.isfinite(outputs).all():
      temperature = fit_temperature(outputs, classes)
    else:
      fitted = 0  # to none of them
  number = _enough(problem.test, _JUDGED, settings.eval_tasks)
  test = _predicted(problem, judge, prepared, problem.test, TEST_SEED, number)
  outputs, classes = test.counted()
  if not np.isfinite(outputs).all():
    return None
  right = test.accuracy
  after = reliability(outputs, classes, temperature)
  return {
    'normalisation': normalisation_of(problem, judge),
    'temperature': temperature,
    'validation_tasks': fitted,
    'test_tasks': number,
    'accuracy': float(right.mean()),
    'ci95': float(confidence_interval(jnp.asarray(right))),
    'expected_calibration_error': after.error,
    'expected_calibration_error_before': reliability(outputs, classes).error,
    'negative_log_likelihood': negative_log_likelihood(
      outputs / temperature, classes
    ),
    'negative_log_likelihood_before': negative_log_likelihood(outputs, classes),
    'bins': {
      'share': after.share,
      'confidence': after.confidence,
      'accuracy': after.accuracy,
    },
  }


def _enough(sample: SampleTask, predictions: int, most: int) -> int:
  """Tasks that have so many queries, but no more than there are to be."""
  task = jax.eval_shape(sample, jax.random.key(0))
  queries = len(values_and_weights(task.query.targets)[0])
  return min(most, max(_TASKS, -(-predictions // queries)))


def _is_validated(problem: Problem) -> bool:
  """Whether there are tasks of validation like those of the test."""

  def examples(sample: SampleTask) -> int:
    task = jax.eval_shape(sample, jax.random.key(0))
    return len(values_and_weights(task.support.targets)[0])

  return examples(problem.validation) == examples(problem.test)


def normalisation_of(problem: Problem, judge: Judge) -> str:
  """What a query shares statistics with, in one word."""
  if problem.recipe.evaluation == 'population':
    return 'population'
  shares = shares_statistics(problem)
  return judge.normalisation if shares else 'none'


class _Predicted(NamedTuple):
  """What the learner says of queries, and what is right."""

  outputs: np.ndarray  # [tasks, queries, classes]
  targets: np.ndarray  # [tasks, queries]
  real: np.ndarray  # the same: not what fills a smaller task up

  @property
  def accuracy(self) -> np.ndarray:
    """Of each task."""
    right = self.outputs.argmax(axis=-1) == self.targets
    return np.sum(right & self.real, axis=1) / np.sum(self.real, axis=1)

  def counted(self) -> tuple[np.ndarray, np.ndarray]:
    """Outputs `[predictions, classes]` and classes, of all tasks."""
    return self.outputs[self.real], self.targets[self.real]


def _predicted(
  problem: Problem,
  judge: Judge,
  prepared: PyTree,
  sample: SampleTask,
  seed: int,
  num_tasks: int,
) -> _Predicted:
  """What the learner says of tasks that the seed fixes."""
  learner = judge.learner
  if (of := on_features(problem, prepared, sample, num_tasks)) is not None:
    learner = of.learner
    sample = features_of(sample, of.encode)
  what = 'fitting' if seed == VALIDATION_SEED else 'judging'
  with shown(f'{what} the temperature') as progress:
    targets, outputs = example_outputs(
      learner,
      prepared,
      sample,
      key=jax.random.key(seed),
      indices=range(num_tasks),
      normalisation=judge.normalisation,
      judged='last_step',
      mesh=problem.mesh,
      progress=progress,
    )
  classes, weights = values_and_weights(targets)
  classes, outputs = np.asarray(classes), np.asarray(outputs)[:, -1]
  real = np.ones(classes.shape, bool)
  if weights is not None:  # whoever asks of two classes is told of two
    real = np.asarray(weights) > 0
    ways = classes.max(axis=1, keepdims=True) + 1
    present = np.arange(outputs.shape[-1]) < ways
    outputs = np.where(present[:, None], outputs, EXCLUDED)
  return _Predicted(outputs, classes, real)
