"""What an experiment hands to the loop: a method on a task distribution."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import optax
from jax.sharding import Mesh

from experiments.runner.common import Common
from experiments.runner.data_digest import Digests
from experiments.runner.errors import UsageError
from experiments.runner.over_tasks import WhichTask
from experiments.runner.reading import Reading
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS, Algorithm, registered
from metajax.base import (
  Learner,
  MetaLearner,
  Model,
  Objective,
  PyTree,
  SampleTask,
)
from metajax.equality import Frozen
from metajax.metric import Metric
from metajax.normalisation import Normalisation
from metajax.runs.writers import Writer

__all__ = [
  'TEST_SEED',
  'VALIDATION_SEED',
  'Judge',
  'OfSeeds',
  'Problem',
  'Tested',
  'Trained',
  'no_tasks',
  'tested_how',
]


# Seeds of evaluations: fixed, so that all methods are tested on the same tasks.
VALIDATION_SEED = 1_000_001
TEST_SEED = 1_000_002


class Tested(NamedTuple):
  """A task distribution that a method is judged on."""

  validation: SampleTask
  test: SampleTask


def no_tasks(*_: Any) -> Any:
  """Stands for the tasks of a problem that is made without data."""
  raise RuntimeError('this problem was made without data, and has no tasks')


class Problem(NamedTuple):
  """A method, its task distributions, and how it is judged."""

  name: str  # of a run of it
  settings: Common
  recipe: Recipe
  objective: Objective
  model: Model | Frozen
  train: SampleTask
  validation: SampleTask
  test: SampleTask
  metric: Metric  # the headline
  protocol: dict[str, Any]
  # What the result is compared with, on the very same test tasks.
  baseline: Callable[['Problem'], dict[str, float]]
  draw: Callable[[Any], None]  # the pictures of a run that is `Finished`
  # Writes its page (`experiments.reports`), where there is one.
  report: Callable[[Any], None] | None = None
  # Why no meta-gradient is finite, where that is known, of meta-parameters.
  why_diverged: Callable[[Any, PyTree], str | None] | None = None
  metrics: tuple[Metric, ...] = ()  # what else a test measures
  besides: Mapping[str, Tested] = MappingProxyType({})  # what else is tested
  digests: Digests | None = None  # of data that no program has drawn
  # Of the transformer that the model stands on.
  weights_digest: dict[str, str] | None = None
  teacher_digest: str | None = None  # of the run that it learns from
  # What else `result.json` has, of the trained meta-parameters; its `tables`,
  # {title: [header, *lines]} of texts, are printed and on the page.
  more: Callable[['Problem', 'Judge', PyTree], dict[str, Any]] | None = None
  without_more: str = ''  # the flag that goes without it
  # What stands around the method, such as a second loss.
  around: Callable[[Any], MetaLearner | Frozen] | None = None
  # The outer optimiser; that of the method without one.
  optimizer: Callable[[Recipe], optax.GradientTransformation] | None = None
  at_once: bool = False  # whether a step wants all of its tasks on one device
  writers: tuple[Writer, ...] = ()  # where else metrics go
  mesh: Mesh | None = None  # of devices; the default device alone without one
  # Which task a key draws, where tasks are drawn again: means are then of a
  # task first, and intervals over tasks. None: no two draws are of one task.
  which_task: WhichTask | None = None
  reading: Reading | None = None  # of examples, for use; None: it is not kept
  not_kept: str | None = None  # why, in a line for whoever wants to use it

  @property
  def algorithm(self) -> Algorithm:
    """The row of the method."""
    return ALGORITHMS[self.settings.algorithm]

  @property
  def divided(self) -> tuple[int, str]:
    """How many parts of a step devices may share, and of what."""
    if self.at_once:
      return 1, 'step'
    return self.recipe.tasks_per_step, 'tasks_per_step'

  def meta_learner(self) -> MetaLearner | Frozen:
    """The method as it is trained."""
    recipe = self.recipe
    return self.make(
      self.model,
      recipe._replace(
        ways=recipe.train_ways or recipe.ways,
        shots=recipe.train_shots or recipe.shots,
      ),
    )

  def make(self, model: Model | Frozen, recipe: Recipe) -> MetaLearner | Frozen:
    """The method on a network.

    Raises:
      UsageError: if the method refuses an option that the user has set.
    """
    name = self.settings.algorithm
    try:
      # Factories take what is frozen for a model.
      made: Any = self.algorithm.make(
        cast(Model, model), self.objective, recipe
      )
      if not isinstance(made, MetaLearner | Frozen):
        raise TypeError(f'made {type(made).__name__}, not a MetaLearner')
      whole = made if self.around is None else self.around(made)
      return cast(MetaLearner, whole)
    except (ValueError, TypeError) as error:
      if self.settings.set:
        raise UsageError('set', str(error)) from error
      if name in registered():
        raise UsageError('plugin', f'{name}: {error}') from error
      raise


class OfSeeds(NamedTuple):
  """What training leaves of each seed."""

  skipped: list[int]  # steps of each
  lost: Mapping[int, int]  # those that gave up, with the step they stay at


class Trained(NamedTuple):
  """What training leaves for the test."""

  meta_params: PyTree
  step: int
  skipped: int
  tasks_per_second: float | None
  seconds_to_first_step: float | None  # from the start, compilation included
  # Of all steps of this process but its first one, which compiles; without
  # validation and checkpoints.
  training_seconds: float
  of_seeds: OfSeeds | None = None


class Judge(NamedTuple):
  """The method as it is tested."""

  learner: Learner | MetaLearner | Frozen
  normalisation: Normalisation
  prepare: Callable[[PyTree], PyTree]  # meta-parameters as `learner` wants


def tested_how(settings: Common) -> dict[str, Any]:
  """What every protocol says of the test."""
  return {
    'test_tasks': settings.eval_tasks,
    'test_seed': TEST_SEED,
    'precision': settings.precision,
  }
