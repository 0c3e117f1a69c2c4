"""Published settings, and the optimisers of outer loops."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import optax

from metajax.algorithms.reptile import outer_optimizer
from metajax.base import Model
from metajax.models import conv4, mlp
from metajax.parallel import ChunkSize

Evaluation = Literal['transductive', 'support', 'population']
Schedule = Literal['constant', 'cosine', 'linear', 'halving']


class Recipe(NamedTuple):
  """The setting of one experiment. Rates are for losses that are means."""

  network: Callable[..., Model]  # from the number of outputs, and `width`
  ways: int = 5  # classes per test task
  shots: int = 1  # support examples per class, at test
  queries: int = 1  # query examples per class, at test
  train_ways: int | None = None  # as at test
  train_shots: int | None = None  # as at test
  train_queries: int | None = None  # as at test
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
  evaluation: Evaluation = 'transductive'
  log_every: int = 25  # steps per dispatch
  checkpoint_every: int = 500


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


def adam(recipe: Recipe) -> optax.GradientTransformation:
  """The outer optimiser of most methods."""
  return optax.adam(outer_rate(recipe))


def interpolation(recipe: Recipe) -> optax.GradientTransformation:
  """Reptile's outer step: towards the adapted weights, at a rate up to 1."""
  return outer_optimizer(optax.sgd(outer_rate(recipe)))


def maml_images(ways: int, shots: int) -> Recipe:
  """Finn et al., Omniglot; the rate is for a mean loss (see docs)."""
  recipe = Recipe(
    network=conv4, ways=ways, shots=shots, queries=shots, eval_inner_steps=3
  )
  if ways <= 5:
    return recipe
  return recipe._replace(
    inner_lr=0.1, inner_steps=5, eval_inner_steps=5, tasks_per_step=16
  )


def reptile_images(ways: int, shots: int) -> Recipe:
  """Nichol et al., Omniglot; their 5-way 1-shot row is the transductive one."""
  recipe = Recipe(
    network=partial(conv4, pool='flatten'),
    ways=ways,
    shots=shots,
    outer_schedule='linear',
  )
  if ways > 5:
    return recipe._replace(
      train_shots=9 if shots == 1 else 12,
      inner_lr=4.6e-4, inner_steps=12, inner_batch=20 if shots > 1 else 15,
      eval_inner_steps=97, eval_inner_batch=10,
      outer_lr=1.0, tasks_per_step=3, steps=200_000, evaluation='support',
    )  # fmt: skip
  if shots > 1:
    return recipe._replace(
      train_shots=10, inner_lr=1.5e-3, inner_steps=5, inner_batch=10,
      eval_inner_steps=100, eval_inner_batch=6,
      outer_lr=0.7, tasks_per_step=5, steps=100_000, evaluation='support',
    )  # fmt: skip
  return recipe._replace(
    train_shots=15, inner_lr=1e-3, inner_steps=3, inner_batch=25,
    eval_inner_steps=5, eval_inner_batch=25,
    outer_lr=1.0, tasks_per_step=10, steps=100_000,
  )  # fmt: skip


def protonet_images(ways: int, shots: int) -> Recipe:
  """Snell et al., Omniglot: trained 60-way, one episode a step."""

  def embedding(num_outputs: int, width: int = 64) -> Model:
    del num_outputs  # distances take the place of a head
    return conv4(None, width=width, downsample='max_pool', pool='flatten')

  return Recipe(
    network=embedding, ways=ways, shots=shots, queries=15,
    train_ways=60, train_queries=5,
    tasks_per_step=1, steps=10_000, evaluation='population',
    outer_schedule='halving',
  )  # fmt: skip


def untrained_images(ways: int, shots: int, **changes: Any) -> Recipe:
  """For what is tested without training."""
  recipe = Recipe(network=conv4, ways=ways, shots=shots, steps=0, short_steps=0)
  return recipe._replace(**changes)


MAML_SINUSOID = Recipe(
  network=partial(mlp, [40, 40]),
  shots=10, queries=100, train_queries=10,
  inner_lr=0.01, inner_steps=1, eval_inner_steps=10,
  tasks_per_step=25, steps=70_000,
  log_every=1000, checkpoint_every=10_000,
)  # fmt: skip
