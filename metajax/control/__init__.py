"""Meta-reinforcement learning: acting as a model, policy gradients as losses.

A rollout is what the `apply` of a model does (`rollouts`); a surrogate is an
objective of it (`surrogates`). So methods that adapt by gradient run on this as
on anything else.
"""

from metajax.control.advantages import advantages
from metajax.control.environments import Actions, Environment, as_environment
from metajax.control.navigation import Navigation
from metajax.control.policies import Policy, categorical, gaussian, policy_for
from metajax.control.rollouts import (
  Episodes,
  Trajectory,
  episode_tasks,
  rollout_model,
)
from metajax.control.surrogates import (
  SURROGATES,
  Surrogate,
  surrogate_objective,
)

__all__ = [
  'SURROGATES',
  'Actions',
  'Environment',
  'Episodes',
  'Navigation',
  'Policy',
  'Surrogate',
  'Trajectory',
  'advantages',
  'as_environment',
  'categorical',
  'episode_tasks',
  'gaussian',
  'policy_for',
  'rollout_model',
  'surrogate_objective',
]
