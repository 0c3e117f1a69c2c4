"""The outer step of acting: by the optimiser, or on the same episodes again."""

from typing import Any, NamedTuple

import optax

from experiments.runner.errors import UsageError
from metajax.algorithms.recipe import Recipe, outer_rate
from metajax.algorithms.table import ALGORITHMS
from metajax.base import MetaLearner, Objective
from metajax.control.advantages import Advantages
from metajax.control.policies import Policy
from metajax.control.surrogates import able, surrogate_objective
from metajax.control.trust_region import proximal, trust_region
from metajax.equality import by_value

__all__ = ['OuterSteps', 'objective_of', 'outer_steps', 'usual_causality',
           'usual_surrogate']  # fmt: skip

_CAUSALITY = 0.9  # less variance than 1, and learns faster on navigation
_REPEATING = ('maml', 'fomaml', 'meta_sgd')  # adapt differentiably
# Rates that an outer step does not have.
_WITHOUT = {
  'trpo': {
    'outer_lr': 'goes as far as its trust region',
    'outer_schedule': 'goes as far as its trust region',
  },
  'ppo': {'outer_schedule': 'begins anew with every batch of tasks'},
}


class OuterSteps(NamedTuple):
  """What replaces the estimator and the optimiser of a method, or nothing."""

  around: Any = None
  optimizer: Any = None


def usual_surrogate(settings: Any) -> str:
  """The surrogate that is asked for, or else the one that suits the outer."""
  if settings.surrogate is not None:
    return str(settings.surrogate)
  return 'dice' if settings.outer == 'adam' else 'likelihood_ratio'


def usual_causality(settings: Any) -> float:
  """The causality that is asked for, or else 0.9 where nothing is asked."""
  if settings.causality is not None:
    return float(settings.causality)
  is_usual = settings.surrogate is None and settings.outer == 'adam'
  return _CAUSALITY if is_usual else 1.0


def objective_of(settings: Any, estimate: Advantages) -> Objective:
  """The objective inside, and outside with Adam.

  Raises:
    UsageError: if the surrogate cannot be used for what is asked.
  """
  name = usual_surrogate(settings)
  try:
    if settings.outer != 'adam':
      able(name, f'--outer={settings.outer}', lambda row: row.repeats)
    return surrogate_objective(name, estimate, usual_causality(settings))
  except ValueError as error:
    blamed = 'causality' if 'causality' in str(error) else 'surrogate'
    raise UsageError(blamed, str(error)) from error


def outer_steps(
  settings: Any, recipe: Recipe, policy: Policy, estimate: Advantages
) -> OuterSteps:
  """What `--outer` puts in the place of Adam.

  Raises:
    UsageError: if the method or its recipe does not go with it.
  """
  if settings.outer == 'adam':
    return OuterSteps()
  chosen = f'--outer={settings.outer}'
  if settings.algorithm not in _REPEATING:
    names = ', '.join(name for name in _REPEATING if name in ALGORITHMS)
    raise UsageError(
      'outer',
      f'is {settings.outer}, which repeats a differentiable adaptation;'
      f' {settings.algorithm} has none: take {names}, or --outer=adam',
    )
  if recipe.inner_steps != 1:
    raise UsageError(
      'inner_steps',
      f'is {recipe.inner_steps}, but {chosen} repeats a recorded adaptation of'
      ' one step; give --inner_steps=1, or --outer=adam',
    )
  for name, why in _WITHOUT[settings.outer].items():
    if (value := getattr(settings, name)) is not None:
      raise UsageError(name, f'is {value}, but {chosen} {why}; leave it out')
  if settings.mesh is not None or settings.is_distributed:
    raise UsageError(
      'mesh',
      f'{chosen} takes one step for all tasks on one device; leave it out',
    )
  around = (
    _with_trust_region(policy, estimate)
    if settings.outer == 'trpo'
    else _with_updates(policy, estimate, outer_rate(recipe))
  )
  return OuterSteps(around, lambda recipe: optax.sgd(1.0))


@by_value
def _with_trust_region(policy: Policy, estimate: Advantages) -> Any:
  objective = surrogate_objective('likelihood_ratio', estimate)

  def around(learner: MetaLearner) -> MetaLearner:
    return learner._replace(
      grad=trust_region(learner, objective, policy.divergence)
    )

  return around


def _with_updates(policy: Policy, estimate: Advantages, rate: Any) -> Any:
  objective = surrogate_objective('clipped', estimate)
  optimizer = optax.adam(rate)

  def around(learner: MetaLearner) -> MetaLearner:
    return learner._replace(
      grad=proximal(learner, objective, policy.divergence, optimizer)
    )

  return around
