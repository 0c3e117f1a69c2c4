"""How the method of a problem is judged on tasks."""

from typing import Any, NamedTuple

import jax

from experiments.runner.features import (
  Encode,
  encoding,
  features_of,
  given_features,
)
from experiments.runner.over_tasks import (
  number_of_tasks,
  of_tasks_that_differ,
  tasks_drawn,
)
from experiments.runner.problem import TEST_SEED, Judge, Problem
from experiments.runner.progress import shown
from metajax.algorithms.table import ALGORITHMS
from metajax.base import (
  Learner,
  MetaLearner,
  Model,
  PyTree,
  SampleTask,
  as_argument,
  sample_tasks,
)
from metajax.devices.mesh import put
from metajax.equality import Frozen
from metajax.metric import with_metrics
from metajax.normalisation import Normalisation, population
from metajax.runs.evaluation import Evaluation, Judged, evaluate
from metajax.tasks.episodes import stored_parts
from metajax.wrappers.auxiliary import WeighedParams
from metajax.wrappers.distillation import TaughtParams

__all__ = [
  'OnFeatures',
  'Ready',
  'evaluated',
  'judged',
  'make_judge',
  'on_features',
  'ready',
  'steps_judged',
  'tasks_that_differ',
  'unwrapped',
  'weights_of',
]


def make_judge(problem: Problem) -> Judge:
  """Builds the learner of the test, with its own number of inner steps."""
  recipe = problem.recipe._replace(
    inner_steps=problem.recipe.eval_inner_steps,
    inner_batch=problem.recipe.eval_inner_batch,
  )

  def make(model: Model | Frozen) -> Any:
    return problem.make(model, recipe)

  if recipe.evaluation != 'population':
    return Judge(make(problem.model), recipe.evaluation, lambda params: params)

  measure = problem.model.measure
  assert isinstance(problem.model, Model)  # what is frozen has no statistics
  assert measure is not None  # all models of the table have it

  @jax.jit
  def measured(meta_params: PyTree, sample: SampleTask) -> PyTree:
    tasks = sample_tasks(sample, jax.random.key(0), _population_tasks(sample))
    images = jax.tree.map(
      lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tasks.support.inputs
    )
    return meta_params, measure(weights_of(problem, meta_params), images)

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


def judged(
  problem: Problem,
  judge: Judge,
  meta_params: PyTree,
  sample: SampleTask,
  seed: int,
  num_tasks: int,
  what: str = 'testing',
) -> Evaluation:
  """Judges meta-parameters on tasks that the seed fixes.

  Where some are drawn again, means and intervals are over those that differ.

  Args:
    problem: whose method and objective it is.
    judge: of the problem.
    meta_params: as they are trained.
    sample: draws the tasks.
    seed: of these tasks.
    num_tasks: how many.
    what: goes on, as it is shown.
  """
  of_test = ready(problem, judge, meta_params, sample, num_tasks)
  return evaluated(problem, of_test, seed, num_tasks, what)


class Ready(NamedTuple):
  """What a test is made of, once all that tasks share is computed."""

  learner: Learner | MetaLearner | Frozen
  meta_params: PyTree  # as the learner wants them
  sample: SampleTask  # of features, where tasks are of these
  normalisation: Normalisation


def ready(
  problem: Problem,
  judge: Judge,
  meta_params: PyTree,
  sample: SampleTask,
  num_tasks: int,
) -> Ready:
  """Computes what all tasks of a test share; see `judged`."""
  learner, prepared = judge.learner, judge.prepare(meta_params)
  if (of := on_features(problem, prepared, sample, num_tasks)) is not None:
    learner = of.learner
    sample = features_of(sample, of.encode)
  return Ready(learner, prepared, sample, judge.normalisation)


def evaluated(
  problem: Problem,
  of_test: Ready,
  seed: int,
  num_tasks: int,
  what: str = 'testing',
) -> Evaluation:
  """Judges what is ready; see `judged`."""
  with shown(what) as progress:
    found = evaluate(
      of_test.learner,
      with_metrics(problem.objective, *problem.metrics),
      of_test.meta_params,
      of_test.sample,
      key=jax.random.key(seed),
      num_tasks=num_tasks,
      normalisation=of_test.normalisation,
      judged=steps_judged(problem),
      mesh=problem.mesh,
      progress=progress,
    )
  return of_tasks_that_differ(
    found, tasks_drawn(problem.which_task, of_test.sample, seed, num_tasks)
  )


def tasks_that_differ(problem: Problem) -> int | None:
  """How many tasks the draws of the test are of; None: no two are of one."""
  if problem.which_task is None:
    return None
  drawn = tasks_drawn(
    problem.which_task, problem.test, TEST_SEED, problem.settings.eval_tasks
  )
  assert drawn is not None  # as there is something that says it
  return number_of_tasks(drawn)


class OnFeatures(NamedTuple):
  """A method that is tested on features of examples, and what makes them."""

  learner: Learner | MetaLearner | Frozen
  encode: Encode


def on_features(
  problem: Problem, prepared: PyTree, sample: SampleTask, num_tasks: int
) -> OnFeatures | None:
  """A test for which features are computed once, and not once for every task.

  Args:
    problem: whose method it is.
    prepared: meta-parameters, by which features are computed.
    sample: draws the tasks.
    num_tasks: how many.

  Returns:
    None where that is not the same, or is more work.
  """
  if not _compares_features(problem, sample, num_tasks):
    return None
  judge = make_judge(problem._replace(model=given_features()))
  weights = weights_of(problem, prepared)
  return OnFeatures(judge.learner, encoding(problem.model, weights))


def weights_of(problem: Problem, meta_params: PyTree) -> PyTree:
  """The weights of the model among meta-parameters, whatever is around them."""
  weights = problem.algorithm.weights
  assert weights is not None  # of whoever asks the method has some
  return weights(unwrapped(meta_params))


def unwrapped(meta_params: PyTree) -> PyTree:
  """Meta-parameters of the method itself, without those of what trains it."""
  while isinstance(meta_params, WeighedParams | TaughtParams):
    meta_params = meta_params.params
  return meta_params


def _compares_features(
  problem: Problem, sample: SampleTask, num_tasks: int
) -> bool:
  """Whether features of all texts are less work than those of the tasks.

  Of transformers on pretrained weights, where all tasks compare features by the
  same weights; they are those of a text by itself, whatever else there is in a
  task. One device computes those of all texts, and all together those of tasks.
  """
  row = ALGORITHMS.get(problem.settings.algorithm)  # some are in no table
  return (
    row is not None
    and isinstance(problem.model, Frozen)
    and row.head.kind == 'features'
    and row.weights is not None
    and row.trains_on == 'tasks'
    and not row.adapts_by_gradient
    and not row.adapts_weights
    and jax.process_count() == 1
    and _num_texts(sample) * (problem.mesh.size if problem.mesh else 1)
    < num_tasks * _texts_of_a_task(sample)
  )


def _num_texts(sample: SampleTask) -> int:
  texts, _ = stored_parts(sample)
  return len(texts)


def _texts_of_a_task(sample: SampleTask) -> int:
  task = jax.eval_shape(sample, jax.random.key(0))
  return sum(len(part.inputs) for part in (task.support, task.query))


def steps_judged(problem: Problem) -> Judged:
  """After which inner steps a method is judged.

  The last of a memory, and on pretrained weights: others would cost as much.
  """
  row = ALGORITHMS.get(problem.settings.algorithm)  # some are in no table
  if (row and row.head.kind == 'memory') or isinstance(problem.model, Frozen):
    return 'last_step'
  return 'every_step'
