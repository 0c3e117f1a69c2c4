"""Meta-reinforcement learning: environments that differ from task to task.

  python -m experiments.control

meta-trains MAML on two-dimensional navigation, where a point has to find a goal
that it cannot see, and tests it on new goals: the return of an episode before
adaptation and after an update from 20 episodes (--eval_inner_steps for more of
them), with 95% intervals, beside one who does nothing and one who knows the
goal. Other environments, methods and losses:

  python -m experiments.control --environment=rooms --algorithm=meta_sgd
  python -m experiments.control --environment=my_module:MyEnvironment
  python -m experiments.control --surrogate=dice
  python -m experiments.control --outer=trpo
  python -m experiments.control --environment=bandit --algorithm=rl2
  python -m experiments.control --environment=car

The last of them is `experiments.car`, which has flags of its own.

See docs/guides/control.md. The workdir receives `result.json`, `metrics.jsonl`,
`tensorboard/`, `checkpoints/`, a page about all of it, `report.html`, and
pictures: `learning_curve.png`, `return_by_inner_step.png`, `test_tasks.png`.
"""

import argparse
import sys
from functools import partial

import jax
import jax.numpy as jnp

from experiments import car
from experiments.data.control import ControlData, Loaded, load
from experiments.figures.bandits import draw as draw_bandit
from experiments.figures.control import draw
from experiments.recipes import control as kind
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.gathered import report
from experiments.reports.rollouts import rollouts
from experiments.runner import remembering
from experiments.runner.acting import acting
from experiments.runner.common import Common, algorithm, worded
from experiments.runner.experiment import Experiment
from experiments.runner.networks import check_network, make_model
from experiments.runner.outer_steps import (
  objective_of,
  outer_steps,
  usual_causality,
  usual_surrogate,
)
from experiments.runner.problem import Problem, tested_how
from experiments.runner.settings import settings
from experiments.runner.undefined import why_no_number
from metajax.algorithms.recipe import Recipe
from metajax.base import Batch, Model, Task
from metajax.control.advantages import advantages
from metajax.control.environments import Environment
from metajax.control.policies import policy_for
from metajax.control.rollouts import rollout_model
from metajax.control.trials import returned
from metajax.metric import Metric

__all__ = [
  'EXPERIMENT', 'RETURN', 'Settings', 'main', 'make_problem', 'make_recipe',
  'run',
]  # fmt: skip

_NOT_KEPT = 'it acts in episodes, and experiments.predict reads examples'
RETURN = Metric('return', higher_is_better=True, label='return of an episode')


@settings
class Settings(Common, ControlData):
  """The shared settings and those of acting."""

  algorithm: str = algorithm('maml', lambda: sorted(methods(kind)))
  shots: int | None = worded(
    'shots', 'episodes of a task before adaptation, for what adapts by gradient'
  )
  queries: int | None = worded(
    'queries', 'episodes of a test task after adaptation, or trials'
  )
  train_shots: int | None = worded(
    'train_shots', 'episodes of a training task before adaptation'
  )
  train_queries: int | None = worded(
    'train_queries', 'episodes of a training task after adaptation, or trials'
  )


def make_recipe(settings: Settings) -> Recipe:
  """The recipe of the method, as the settings change it."""
  remembering.check_settings(settings)
  recipe = published(kind, settings.algorithm)
  if settings.outer == 'ppo':
    recipe = recipe._replace(outer_lr=kind.PROXIMAL_LR)
  return with_settings(recipe, settings)


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Makes the environment, its tasks, and what acts in it."""
  data = load(settings, recipe)
  remembers = remembering.remembers(settings)
  problem = (_by_memory if remembers else _by_gradient)(settings, recipe, data)
  if settings.environment != 'bandit':
    return problem
  pulls = data.steps * (settings.trial_episodes or 1)
  return problem._replace(
    baseline=partial(remembering.bandit_baselines, pulls=pulls),
    draw=partial(draw_bandit, pulls=pulls),
  )


def _by_memory(settings: Settings, recipe: Recipe, data: Loaded) -> Problem:
  """A memory of all that was seen in a trial adapts without a gradient."""
  environment, steps = data.environment, data.steps
  model = remembering.remembering_model(settings, recipe, environment, steps)
  name = settings.environment.replace(':', '.')
  return Problem(
    name=f'control-{name}-{settings.algorithm}-{settings.seed_name}',
    settings=settings,
    recipe=recipe._replace(chunk_size=recipe.tasks_per_step),
    objective=returned,
    model=model,
    train=data.train,
    validation=data.test,
    test=data.test,
    metric=RETURN._replace(label='return of a trial'),
    protocol={
      'dataset': settings.environment,
      'shots': 0,  # it sees no episode before those of the trial
      'queries': recipe.queries,
      **data.protocol,
      'trial_episodes': settings.trial_episodes or 1,
      **tested_how(settings),
    },
    baseline=partial(
      remembering.trial_baselines, environment=environment, steps=steps
    ),
    at_once=True,
    draw=draw,
    report=partial(report, show=partial(rollouts, places=None)),
    not_kept=_NOT_KEPT,
    why_diverged=why_no_number,
  )


def _check_network(
  network: Model, environment: Environment, settings: Settings, recipe: Recipe
) -> None:
  """Refuses a network that cannot read the observations."""
  seen = environment.observation

  def one(key: jax.Array) -> Task:
    del key  # all observations are of one form
    batch = Batch(jnp.zeros((1, *seen.shape), seen.dtype), ())
    return Task(batch, batch)

  check_network(
    network,
    one,
    'environment' if settings.network is None else 'network',
    f'{recipe.network} cannot read observations of {environment.name}, of'
    f' shape {list(seen.shape)}',
  )


def _by_gradient(settings: Settings, recipe: Recipe, data: Loaded) -> Problem:
  """A network that sees one observation is adapted by gradients of returns."""
  environment = data.environment
  network = make_model(settings, recipe, environment.actions.size)
  _check_network(network, environment, settings, recipe)
  policy = policy_for(environment.actions, network)
  estimate = advantages(settings.value, settings.discount, settings.trace)
  outer = outer_steps(settings, recipe, policy, estimate)
  at_once = settings.outer != 'adam'  # one step is of all tasks
  if at_once:
    recipe = recipe._replace(chunk_size=recipe.tasks_per_step)
  name = settings.environment.replace(':', '.')
  return Problem(
    name=f'control-{name}-{settings.algorithm}-{recipe.shots}shot'
    f'-{settings.seed_name}',
    settings=settings,
    recipe=recipe,
    objective=objective_of(settings, estimate),
    model=rollout_model(policy, environment, data.steps),
    train=data.train,
    validation=data.test,
    test=data.test,
    metric=RETURN,
    protocol={
      'dataset': settings.environment,
      'shots': recipe.shots,
      'queries': recipe.queries,
      **data.protocol,
      'surrogate': usual_surrogate(settings),
      'causality': usual_causality(settings),
      'outer': settings.outer,
      **tested_how(settings),
    },
    baseline=partial(
      acting, environment=environment, steps=data.steps, known=data.known
    ),
    around=outer.around,
    optimizer=outer.optimizer,
    at_once=at_once,
    draw=partial(draw, places=data.places),
    report=partial(report, show=partial(rollouts, places=data.places)),
    not_kept=_NOT_KEPT,
    why_diverged=why_no_number,
  )


EXPERIMENT = Experiment(
  Settings, make_recipe, make_problem, small_operations=True
)
run = EXPERIMENT.run


def main() -> int:
  """The binary; that of cars, a regression and not episodes, for a car."""
  reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  reader.add_argument('--environment', nargs='?')
  asked, others = reader.parse_known_args(sys.argv[1:])
  if asked.environment != 'car':
    return EXPERIMENT.main()
  sys.argv[1:] = others  # its flags are others, and none is this one
  return car.EXPERIMENT.main()


if __name__ == '__main__':
  sys.exit(main())
