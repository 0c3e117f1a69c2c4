"""What an environment does that makes no number of a return."""

import jax
import jax.numpy as jnp

from experiments.runner.problem import Problem
from metajax.base import PyTree
from metajax.control.rollouts import Trajectory

__all__ = ['why_no_number']

_TASKS = 8  # that are played


def why_no_number(problem: Problem, meta_params: PyTree) -> str | None:
  """Says that rewards are no numbers before anything is adapted, if they are.

  What adapts may have too high a rate; what was not adapted is finite, so that
  rewards and observations are the environment's.

  Args:
    problem: of acting.
    meta_params: that are finite.
  """
  weights = problem.algorithm.weights
  assert weights is not None  # all that acts has a network
  params = weights(meta_params)

  def played(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    found: Trajectory = problem.model.apply(
      params, problem.train(key).query.inputs
    )
    axes = tuple(range(1, found.rewards.ndim))
    seen = found.observations.reshape(*found.rewards.shape, -1)
    bad_rewards = ~jnp.isfinite(found.rewards)
    return bad_rewards.any(axes), (~jnp.isfinite(seen)).any((*axes, -1))

  keys = jax.random.split(jax.random.key(0), _TASKS)
  for what, bad in zip(
    ('rewards', 'observations'), jax.jit(jax.vmap(played))(keys), strict=True
  ):
    if bad.any():
      return (
        f'the cause is --environment={problem.protocol["dataset"]}, whose'
        f' {what} are no finite numbers in {int(bad.sum())} of {bad.size}'
        ' episodes before adaptation'
      )
  return None
