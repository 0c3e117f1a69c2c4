"""Methods with a memory: what they are trained on, and compared with."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.errors import UsageError
from experiments.runner.networks import make_model
from experiments.runner.problem import TEST_SEED, Problem
from experiments.runner.progress import shown
from experiments.runner.settings import assignments
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.rl2 import RL2Params, rl2
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Model, SampleTask, as_key
from metajax.control import bandits, indices
from metajax.control.environments import Environment
from metajax.control.rollouts import Episodes
from metajax.control.trials import num_scores, trial_model, unmoved
from metajax.models.sequences import SequenceModel
from metajax.objectives import confidence_interval
from metajax.runs.evaluation import evaluate, example_task

__all__ = [
  'Pulled',
  'bandit_baselines',
  'bandit_policies',
  'check_settings',
  'pulled',
  'remembering_model',
  'remembers',
  'test_trials',
  'trial_baselines',
]

# Settings of losses of rollouts, which a memory is not trained by.
_OF_SURROGATES = (
  'surrogate', 'outer', 'causality', 'value', 'discount', 'trace',
)  # fmt: skip


# Settings of what adapts by gradient, which is not what a memory does.
_OF_ADAPTATION = {
  'shots': 'sees no episode before those of its trial',
  'train_shots': 'sees no episode before those of its trial',
  'inner_steps': 'adapts by its memory, in no inner steps',
  'eval_inner_steps': 'adapts by its memory, in no inner steps',
}


def remembers(settings: Any) -> bool:
  """Whether a method adapts by a memory of a trial."""
  return ALGORITHMS[settings.algorithm].head.kind == 'memory'


def check_settings(settings: Any) -> None:
  """Refuses settings that have no meaning for a method.

  Raises:
    UsageError: the line that says which.
  """
  name = settings.algorithm
  if not remembers(settings):
    if settings.trial_episodes is not None:
      able = [name for name, row in ALGORITHMS.items()
              if row.head.kind == 'memory']  # fmt: skip
      raise UsageError(
        'trial_episodes',
        f'has no meaning for {name}, which has no memory; {", ".join(able)}'
        ' have one',
      )
    _check_batches(settings)
    return
  options = ALGORITHMS[name].options
  for field in _OF_SURROGATES:
    if getattr(settings, field) != getattr(type(settings), field):
      end = f'; give --set={field}=...' if field in options else ''
      raise UsageError(
        field, f'has no meaning for {name}, which has a loss of its own{end}'
      )
  for field, why in _OF_ADAPTATION.items():
    if getattr(settings, field) is not None:
      raise UsageError(
        field, f'has no meaning for {name}, which {why}; leave it out'
      )
  _check_batches(settings)
  if settings.precision != 'float32':
    raise UsageError(
      'precision', f'is {settings.precision}, but {name} computes in float32'
    )


def _check_batches(settings: Any) -> None:
  """Refuses batches of episodes where all of them are taken at once."""
  name, of_batches = settings.algorithm, ('inner_batch', 'eval_inner_batch')
  given = [each for each, _ in assignments(settings.set) if each in of_batches]
  if settings.inner_batch is not None:
    given = ['inner_batch', *given]
  if given and name != 'reptile':
    raise UsageError(
      'inner_batch' if given[0] == 'inner_batch' else 'set',
      f'{given[0]} has no meaning for {name}, which takes no batches of the'
      ' episodes of a task, as reptile does; leave it out',
    )


def remembering_model(
  settings: Any, recipe: Recipe, environment: Environment, steps: int
) -> Model:
  """A policy with the memory that a recipe names, which plays trials.

  Args:
    settings: of the run.
    recipe: with these settings.
    environment: in which it happens.
    steps: of an episode.

  Raises:
    UsageError: if the environment has no choices, or the network no memory.
  """
  try:
    outputs = num_scores(environment)
  except ValueError as error:
    raise UsageError('environment', str(error)) from error
  memory = cast(SequenceModel, make_model(settings, recipe, outputs))
  return _trials(memory, settings, environment, steps)


def _trials(
  memory: SequenceModel, settings: Any, environment: Environment, steps: int
) -> Model:
  episodes = settings.trial_episodes or 1
  return trial_model(memory, environment, episodes * steps, steps)


def trial_baselines(
  problem: Problem, environment: Environment, steps: int
) -> dict[str, float]:
  """The return of choices at random, over the test trials."""
  memory = unmoved(num_scores(environment))
  model = _trials(memory, problem.settings, environment, steps)

  learner = rl2(model, problem.objective)
  with shown('testing random') as progress:
    found = evaluate(
      learner, problem.objective, RL2Params((), ()), problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=problem.settings.eval_tasks, judged='last_step',
      progress=progress,
    )  # fmt: skip
  return {
    'random_return': float(found.mean['return'][-1]),
    'random_ci95': float(found.ci95['return'][-1]),
  }


def bandit_policies(arms: int, pulls: int) -> dict[str, bandits.BanditPolicy]:
  """Ways to play a bandit that are known, with the best that there is.

  Args:
    arms: of a bandit.
    pulls: of a trial.

  Returns:
    By name; `optimum` is planned where that can be, `index` is that of Gittins
    for the pulls that remain.
  """
  found = {
    'random': bandits.at_random(),
    'greedy': bandits.greedy(),
    'ucb1': bandits.upper_confidence_bound(),
    'thompson': bandits.thompson_sampling(),
  }
  if pulls <= indices.MOST_PULLS:
    found['index'] = indices.index_policy(pulls)
  if indices.can_be_planned(arms, pulls):
    found['optimum'] = indices.optimal_policy(arms, pulls)
  return found


class Pulled(NamedTuple):
  """What was done with the test bandits, the mean over trials of each."""

  rewards: np.ndarray  # [tasks, pulls]
  regrets: np.ndarray  # [tasks, pulls], the best chance less that of the arm


def pulled(
  policy: bandits.BanditPolicy, sample: SampleTask, num_tasks: int, pulls: int
) -> Pulled:
  """Plays the test bandits, with the luck that a memory has with them.

  Args:
    policy: chooses the arms.
    sample: draws the tasks.
    num_tasks: how many.
    pulls: of a trial.
  """

  @jax.jit
  def played(trials: Episodes) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(
      jax.vmap(
        lambda trial: bandits.play(
          policy, as_key(trial.keys), trial.parameters, pulls
        )
      )
    )(trials)

  trials = test_trials(sample, num_tasks)
  arms, rewards = played(trials)
  lost = bandits.regrets(trials.parameters, arms)
  return Pulled(np.asarray(rewards.mean(1)), np.asarray(lost.mean(1)))


def test_trials(sample: SampleTask, num_tasks: int) -> Episodes:
  """Draws the trials of the test, leaves `[tasks, trials, ...]`."""
  key = jax.random.key(TEST_SEED)

  def of_task(number: Any) -> Episodes:
    trials: Episodes = example_task(sample, key, number).query.inputs
    return trials

  return jax.jit(jax.vmap(of_task))(jnp.arange(num_tasks))


def bandit_baselines(problem: Problem, pulls: int) -> dict[str, float]:
  """Returns of all that are known, with intervals, over the test bandits."""
  arms = problem.protocol['arms']
  number = problem.settings.eval_tasks
  found = dict[str, float]()
  for name, policy in bandit_policies(arms, pulls).items():
    with shown(f'testing {name}'):
      totals = pulled(policy, problem.test, number, pulls).rewards.sum(1)
    found[f'{name}_return'] = float(totals.mean())
    found[f'{name}_ci95'] = float(confidence_interval(jnp.asarray(totals)))
  return found
