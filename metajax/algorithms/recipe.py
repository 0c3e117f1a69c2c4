"""What a recipe is: the setting of a method, and its outer optimiser.

The recipes themselves stand with the experiments, a file for every kind of
problem; this type and the optimisers stay below the table of methods.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import optax

from metajax.adaptation.outer_optimizers import outer_optimizer
from metajax.algorithms.delta_encoder import LABELS as DELTA_ENCODER
from metajax.algorithms.maml_plus_plus import LABELS as MAML_PLUS_PLUS
from metajax.algorithms.reptile import LABELS as REPTILE
from metajax.algorithms.rl2 import LABELS as RL2
from metajax.devices.parallel import ChunkSize

__all__ = [
  'ANNEALED',
  'SCHEDULES',
  'Evaluation',
  'Recipe',
  'Schedule',
  'clipped_adam',
  'counted_adam',
  'delta_encoder_optimizer',
  'interpolation',
  'outer_rate',
  'plain_adam',
  'whole_steps',
]

Evaluation = Literal['transductive', 'support', 'population']
Schedule = Literal['constant', 'cosine', 'linear', 'halving']


class Recipe(NamedTuple):
  """The setting of one experiment. Rates are for losses that are means.

  It holds no network, but the name of the one that it is published with: what
  an experiment takes unless it is told another (`metajax.models.encoders`).
  """

  network: str | None = None  # a name; that of the kind of problem without one
  width: int | None = None  # of the network; as the network has it without one
  depth: int | None = None  # the same
  ways: int = 5  # classes per test task
  shots: int = 1  # support examples per class, at test
  queries: int = 1  # query examples per class, at test
  train_ways: int | None = None  # as at test
  train_shots: int | None = None  # as at test
  train_queries: int | None = None  # as at test
  # Where a method trains on classes, not on tasks:
  train_classes: int | None = None  # all of training; the data set says
  batch_size: int = 16  # images per step
  inner_lr: float = 0.4
  inner_steps: int = 1
  inner_batch: int | None = None  # the whole support set
  eval_inner_steps: int = 1
  eval_inner_batch: int | None = None
  outer_lr: float = 1e-3
  outer_schedule: Schedule = 'constant'
  tasks_per_step: int = 32
  chunk_size: ChunkSize = 'auto'  # tasks vectorised together
  steps: int = 40_000
  short_steps: int = 400  # where minutes must do
  # Where minutes must do and the rate falls to zero; `outer_lr` without one.
  short_outer_lr: float | None = None
  evaluation: Evaluation = 'transductive'
  log_every: int = 25  # steps per dispatch
  checkpoint_every: int = 500
  # What the method has beside these, by name (`Algorithm.options`).
  options: Mapping[str, Any] = MappingProxyType({})


# The outer rate as a function of the step, from the rate and all steps.
SCHEDULES: dict[str, Callable[[float, int], float | optax.Schedule]] = {
  'constant': lambda rate, steps: rate,
  'cosine': optax.cosine_decay_schedule,
  'linear': lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
  # Snell's: it halves every 20 epochs of 100 episodes.
  'halving': lambda rate, steps: optax.exponential_decay(
    rate, 2000, 0.5, staircase=True
  ),
}


# Those that depend on how many steps there are.
ANNEALED = frozenset({'cosine', 'linear'})


def outer_rate(recipe: Recipe) -> float | optax.Schedule:
  """The outer rate of a recipe, constant or by its schedule."""
  return SCHEDULES[recipe.outer_schedule](recipe.outer_lr, recipe.steps)


def plain_adam(recipe: Recipe) -> optax.GradientTransformation:
  """The outer optimiser of most methods."""
  return optax.adam(outer_rate(recipe))


def counted_adam(recipe: Recipe) -> optax.GradientTransformation:
  """Adam, beside which MAML++ counts its steps."""
  return outer_optimizer(plain_adam(recipe), MAML_PLUS_PLUS)


def interpolation(recipe: Recipe) -> optax.GradientTransformation:
  """Reptile's outer step: towards the adapted weights, at a rate up to 1."""
  return outer_optimizer(optax.sgd(outer_rate(recipe)), REPTILE)


def whole_steps(recipe: Recipe) -> optax.GradientTransformation:
  """RL²'s outer step: to where its own steps have led, at a rate of 1."""
  return outer_optimizer(optax.sgd(outer_rate(recipe)), RL2)


def delta_encoder_optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """Adam, but for the moments of codes, which average themselves."""
  return outer_optimizer(plain_adam(recipe), DELTA_ENCODER)


def clipped_adam(recipe: Recipe) -> optax.GradientTransformation:
  """Rusu et al. (recalled): by value, then by norm."""
  return optax.chain(
    optax.clip(0.1), optax.clip_by_global_norm(0.1), plain_adam(recipe)
  )
