"""What results of acting are compared with: whoever does not learn."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runner.problem import TEST_SEED, Problem
from experiments.runner.progress import shown
from metajax.adaptation.classes import one_step
from metajax.base import Batch, Learner, PyTree
from metajax.control.environments import Environment
from metajax.control.rollouts import Act, Episodes, Trajectory, play
from metajax.runs.evaluation import evaluate

__all__ = ['acting', 'at_random']


def acting(
  problem: Problem,
  environment: Environment,
  steps: int,
  known: Mapping[str, Act],
) -> dict[str, float]:
  """Returns of those who act without learning, on the test tasks."""
  found = {}
  for name, act in {'random': at_random(environment), **known}.items():
    learner = _acting(environment, steps, act)
    with shown(f'testing {name}') as progress:
      evaluation = evaluate(
        learner, problem.objective, (), problem.test,
        key=jax.random.key(TEST_SEED),
        num_tasks=problem.settings.eval_tasks, judged='last_step',
        progress=progress,
      )  # fmt: skip
    found[f'{name}_return'] = float(evaluation.mean['return'][-1])
  return found


def at_random(environment: Environment) -> Act:
  """Acts at random: every choice as likely, or numbers between the bounds."""
  discrete = environment.actions.kind == 'discrete'

  def act(
    observation: jax.Array, noise: jax.Array, parameters: PyTree
  ) -> jax.Array:
    del observation, parameters
    if discrete:
      return jnp.argmax(noise)
    return 2 * jax.scipy.stats.norm.cdf(noise) - 1

  return act


def _acting(environment: Environment, steps: int, act: Act) -> Learner:
  size = environment.actions.size

  def noise(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (steps, size))

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Any]:
    return (), one_step((), ())

  def predict(adapted: PyTree, episodes: Episodes) -> Trajectory:
    played = play(environment, act, episodes, noise)
    nothing = jnp.zeros_like(played[2])
    return Trajectory(*played, nothing, nothing, ())

  return Learner(lambda key, inputs: (), adapt, predict)
