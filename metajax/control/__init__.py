"""Meta-reinforcement learning: acting as a model, policy gradients as losses.

A rollout is what the `apply` of a model does (`rollouts`); a surrogate is an
objective of it (`surrogates`). So methods that adapt by gradient run on this as
on anything else.
"""

from metajax.control.advantages import advantages
from metajax.control.bandits import BernoulliBandit, thompson_sampling
from metajax.control.environments import Actions, Environment, as_environment
from metajax.control.indices import (
  gittins_index,
  index_policy,
  optimal_policy,
  optimal_return,
)
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
from metajax.control.trials import num_scores, returned, trial_model
from metajax.control.trust_region import proximal, trust_region

__all__ = [
  'SURROGATES',
  'Actions',
  'BernoulliBandit',
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
  'gittins_index',
  'index_policy',
  'num_scores',
  'optimal_policy',
  'optimal_return',
  'policy_for',
  'proximal',
  'returned',
  'rollout_model',
  'surrogate_objective',
  'thompson_sampling',
  'trial_model',
  'trust_region',
]
