"""What results are compared with: no learning, on the very same test tasks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runner.over_tasks import of_tasks_that_differ, tasks_drawn
from experiments.runner.problem import TEST_SEED, Problem
from experiments.runner.progress import shown
from metajax import (
  Learner,
  Model,
  evaluate,
  maml,
  nearest_class_mean,
  protonet,
)
from metajax.adaptation.bag_of_words import bag_of_words_scores
from metajax.adaptation.classes import one_step
from metajax.base import Batch, PyTree, SampleTask
from metajax.models.pretrained.networks import unit_length
from metajax.runs.evaluation import Evaluation

__all__ = ['bag_of_words', 'mean', 'of_texts', 'pixels', 'zero']


def pixels(problem: Problem) -> dict[str, float]:
  """Nearest class mean in pixel space."""
  learner = nearest_class_mean(problem.objective, problem.recipe.ways)
  evaluation = _evaluated(problem, learner, ())
  return {
    'pixel_accuracy': float(evaluation.mean['accuracy'][-1]),
    'pixel_ci95': float(evaluation.ci95['accuracy'][-1]),
  }


def bag_of_words(problem: Problem) -> dict[str, float]:
  """Nearest class mean of counts of tokens."""

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Batch, Any]:
    unknown = support._replace(
      targets=jax.tree.map(jnp.zeros_like, support.targets)
    )
    return support, one_step(unknown, support)

  learner = Learner(
    init=lambda key, inputs: (),
    adapt=adapt,
    predict=lambda support, inputs: bag_of_words_scores(
      support, inputs, problem.recipe.ways
    ),
  )
  evaluation = _evaluated(problem, learner, ())
  return {
    'bag_of_words_accuracy': float(evaluation.mean['accuracy'][-1]),
    'bag_of_words_ci95': float(evaluation.ci95['accuracy'][-1]),
  }


def of_texts(
  problem: Problem,
  *,
  tokens: SampleTask,
  features: Callable[[], SampleTask] | None,
) -> dict[str, float]:
  """That of bags of words; and where weights are pretrained, of those alone.

  Args:
    problem: what is compared.
    tokens: the test tasks, of tokens.
    features: computes the test tasks, of what the weights make of the tokens
      as they are, where there are any; the mean that is nearest is that of
      features of unit length.
  """
  found = bag_of_words(problem._replace(test=tokens))
  if features is None:
    return found
  model = Model(
    lambda key, inputs: (), lambda params, inputs: unit_length(inputs)
  )
  learner = protonet(model, problem.objective, problem.recipe.ways)
  evaluation = _evaluated(problem._replace(test=features()), learner, ())
  return found | {
    'frozen_features_accuracy': float(evaluation.mean['accuracy'][-1]),
    'frozen_features_ci95': float(evaluation.ci95['accuracy'][-1]),
  }


def zero(problem: Problem) -> dict[str, float]:
  """The error of predicting zero."""
  model = Model(
    init=lambda key, inputs: jnp.zeros(()),
    apply=lambda params, inputs: params * inputs,
  )
  learner = maml(model, problem.objective, num_steps=0)
  evaluation = _evaluated(problem, learner, jnp.zeros(()))
  return {'zero_mse': float(evaluation.mean['mse'][0])}


def mean(problem: Problem) -> dict[str, float]:
  """The error of the mean of the targets in the support set."""

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[jax.Array, Any]:
    mean = jnp.mean(support.targets, axis=0)
    return mean, one_step(jnp.zeros_like(mean), mean)

  learner = Learner(
    init=lambda key, inputs: (),
    adapt=adapt,
    predict=lambda mean, inputs: jnp.broadcast_to(
      mean, (len(inputs), len(mean))
    ),
  )
  evaluation = _evaluated(problem, learner, ())
  return {'mean_mse': float(evaluation.mean['mse'][-1])}


def _evaluated(
  problem: Problem, learner: Any, meta_params: PyTree
) -> Evaluation:
  number = problem.settings.eval_tasks
  with shown('testing the baseline') as progress:
    found = evaluate(
      learner,
      problem.objective,
      meta_params,
      problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=number,
      progress=progress,
    )
  drawn = tasks_drawn(problem.which_task, problem.test, TEST_SEED, number)
  return of_tasks_that_differ(found, drawn)
