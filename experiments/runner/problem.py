"""What an experiment hands to the loop: a method on a task distribution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from metajax.algorithms.recipes import Recipe
from metajax.algorithms.table import Algorithm
from metajax.base import (
  Learner,
  MetaLearner,
  Model,
  Objective,
  PyTree,
  SampleTask,
  sample_tasks,
)
from metajax.devices.mesh import put
from metajax.normalisation import Normalisation, population
from metajax.runs.evaluation import Evaluation, evaluate
from metajax.runs.samplers import as_argument


class Problem(NamedTuple):
  """A method, its task distributions, and how it is judged."""

  algorithm: Algorithm
  recipe: Recipe
  objective: Objective
  model: Model
  train: SampleTask
  validation: SampleTask
  test: SampleTask
  metric: str  # the headline: 'accuracy', or 'mse'
  protocol: dict[str, Any]
  mesh: Mesh | None = None  # of devices; the default device alone without one

  @property
  def higher_is_better(self) -> bool:
    """Whether the metric is one to maximise."""
    return self.metric == 'accuracy'

  def meta_learner(self) -> MetaLearner:
    """The method as it is trained."""
    recipe = self.recipe
    return self.algorithm.make(
      self.model,
      self.objective,
      recipe._replace(
        ways=recipe.train_ways or recipe.ways,
        shots=recipe.train_shots or recipe.shots,
      ),
    )


class Trained(NamedTuple):
  """What training leaves for the test."""

  meta_params: PyTree
  step: int
  skipped: int
  tasks_per_second: float | None
  seconds_to_first_step: float | None
  training_seconds: float


class Judge(NamedTuple):
  """The method as it is tested."""

  learner: Learner | MetaLearner
  normalisation: Normalisation
  prepare: Callable[[PyTree], PyTree]  # meta-parameters as `learner` wants


def make_judge(problem: Problem) -> Judge:
  """Builds the learner of the test, with its own number of inner steps."""
  recipe = problem.recipe._replace(
    inner_steps=problem.recipe.eval_inner_steps,
    inner_batch=problem.recipe.eval_inner_batch,
  )

  def make(model: Model) -> MetaLearner:
    return problem.algorithm.make(model, problem.objective, recipe)

  if recipe.evaluation != 'population':
    return Judge(make(problem.model), recipe.evaluation, lambda params: params)

  weights, measure = problem.algorithm.weights, problem.model.measure
  assert weights is not None  # or --evaluation=population is refused
  assert measure is not None  # all models of the table have it

  @jax.jit
  def measured(meta_params: PyTree, sample: SampleTask) -> PyTree:
    tasks = sample_tasks(sample, jax.random.key(0), _population_tasks(sample))
    images = jax.tree.map(
      lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tasks.support.inputs
    )
    return meta_params, measure(weights(meta_params), images)

  def prepare(meta_params: PyTree) -> PyTree:
    sample = as_argument(problem.train)
    if problem.mesh is not None:
      meta_params, sample = put((meta_params, sample), problem.mesh)
    return measured(meta_params, sample)

  return Judge(population(make, problem.model), 'transductive', prepare)


def _population_tasks(sample: SampleTask) -> int:
  """Enough training tasks for about a thousand images."""
  task = jax.eval_shape(sample, jax.random.key(0))
  images = jax.tree.leaves(task.support.inputs)[0]
  return -(-1000 // len(images))


def test(
  problem: Problem,
  judge: Judge,
  meta_params: PyTree,
  sample: SampleTask,
  seed: int,
  num_tasks: int,
) -> Evaluation:
  """Judges meta-parameters on tasks that the seed fixes."""
  return evaluate(
    judge.learner,
    problem.objective,
    judge.prepare(meta_params),
    sample,
    key=jax.random.key(seed),
    num_tasks=num_tasks,
    normalisation=judge.normalisation,
    mesh=problem.mesh,
  )
