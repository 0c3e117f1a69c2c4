"""Published settings, and the optimisers of outer loops."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import optax

from metajax.algorithms.delta_encoder import OPTIMIZED
from metajax.algorithms.maml_plus_plus import (
  outer_optimizer as counting,
)
from metajax.algorithms.reptile import outer_optimizer
from metajax.base import Model
from metajax.devices.parallel import ChunkSize
from metajax.models import conv4, mlp

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
  # Where a method trains on classes, not on tasks:
  train_classes: int | None = None  # all of training; the data set says
  batch_size: int = 16  # images per step
  inner_lr: float = 0.4
  inner_steps: int = 1
  inner_batch: int | None = None  # the whole support set
  strength: float = 2.0  # of the pull of iMAML's inner problem
  damping: float = 0.0  # where iMAML solves a linear system
  first_order: float = 0.0  # share of the steps, at first, in MAML++
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


def counted_adam(recipe: Recipe) -> optax.GradientTransformation:
  """Adam, beside which MAML++ counts its steps."""
  return counting(adam(recipe))


def interpolation(recipe: Recipe) -> optax.GradientTransformation:
  """Reptile's outer step: towards the adapted weights, at a rate up to 1."""
  return outer_optimizer(optax.sgd(outer_rate(recipe)))


def delta_encoder_optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """Adam, but for the moments of codes, which average themselves."""
  return outer_optimizer(adam(recipe), OPTIMIZED)


def clipped_adam(recipe: Recipe) -> optax.GradientTransformation:
  """Rusu et al. (recalled): by value, then by norm."""
  return optax.chain(
    optax.clip(0.1), optax.clip_by_global_norm(0.1), adam(recipe)
  )


def maml_images(ways: int, shots: int) -> Recipe:
  """Finn et al., Omniglot, with one rate for a mean loss (see docs).

  Theirs, of sums over all examples, come to 2.0 for 5 ways and for 20; 0.4
  learns more from both.
  """
  recipe = Recipe(
    network=conv4, ways=ways, shots=shots, queries=shots, eval_inner_steps=3,
    short_outer_lr=3e-3,  # that of learn2learn's Omniglot example
  )  # fmt: skip
  if ways <= 5:
    return recipe
  return recipe._replace(inner_steps=5, eval_inner_steps=5, tasks_per_step=16)


def meta_sgd_images(ways: int, shots: int) -> Recipe:
  """Li et al., Omniglot: MAML's, with one step for any number of ways."""
  return maml_images(ways, shots)._replace(inner_steps=1, eval_inner_steps=1)


def meta_curvature_images(ways: int, shots: int) -> Recipe:
  """Park and Oliva: MAML's, and at test the steps that were learned."""
  recipe = maml_images(ways, shots)
  return recipe._replace(eval_inner_steps=recipe.inner_steps)


def boil_images(ways: int, shots: int) -> Recipe:
  """Oh et al.: one step of rate 0.5, which the head has no part in."""
  return meta_sgd_images(ways, shots)._replace(inner_lr=0.5)


def cavia_images(ways: int, shots: int) -> Recipe:
  """Zintgraf et al.: two steps of rate 1, recalled. None for Omniglot."""
  return maml_images(ways, shots)._replace(
    inner_lr=1.0, inner_steps=2, eval_inner_steps=2
  )


def maml_plus_plus_images(ways: int, shots: int) -> Recipe:
  """Antoniou et al., Omniglot, on the network of MAML (theirs max-pools).

  The paper has half of the steps first order; the authors' configuration for
  Omniglot has none.
  """
  return maml_images(ways, shots)._replace(
    inner_lr=0.1, inner_steps=5, eval_inner_steps=5,
    tasks_per_step=8, outer_schedule='cosine',
  )  # fmt: skip


def warpgrad_images(ways: int, shots: int) -> Recipe:
  """Flennerhag et al. on MAML's network; none for few shots of Omniglot."""
  return maml_images(ways, shots)._replace(
    network=partial(conv4, warps=True),
    inner_lr=0.1, inner_steps=5, eval_inner_steps=5,
  )  # fmt: skip


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


def imaml_images(ways: int, shots: int) -> Recipe:
  """Rajeswaran et al., Omniglot, but for the inner steps and the pull.

  The authors' code takes 16 steps at 0.1 (25 from 20 ways) without the pull,
  then one towards the meta-parameters, and differentiates the solution of a
  problem that it has not solved. Here the problem that is solved is the one
  that is differentiated: with their strength of 2 it holds the weights so close
  that 100 steps reach 62%, with 0.1 they reach 67% (5-way 1-shot, validation).
  5 steps at 0.4 come as far as 16 at 0.1 in half the time, and learn as much
  from half the tasks (docs/results.md). Strength and damping add up to the 24
  of their linear system.
  """
  return maml_images(ways, shots)._replace(
    inner_steps=5, eval_inner_steps=5, strength=0.1, damping=23.9, steps=20_000
  )


def es_maml_images(ways: int, shots: int) -> Recipe:
  """MAML's setting; the paper has no images."""
  return maml_images(ways, shots)


def _embedding(num_outputs: int, width: int = 64) -> Model:
  """The network of MAML on Omniglot without its head."""
  del num_outputs  # the head is made from the support set
  return conv4(None, width=width, pool='flatten')


def protomaml_images(ways: int, shots: int) -> Recipe:
  """Ours; the paper has Omniglot as one of ten data sets to train on.

  One step, as the prototypes leave little to do for more.
  """
  return maml_images(ways, shots)._replace(
    network=_embedding, inner_lr=0.1, inner_steps=1, eval_inner_steps=1
  )


def leo_images(ways: int, shots: int) -> Recipe:
  """Rusu et al., rates and steps of miniImageNet (recalled); no Omniglot.

  Their rate of 1 is for losses that are sums.
  """
  return maml_images(ways, shots)._replace(
    network=_embedding,
    inner_lr=1.0 * ways * shots,
    inner_steps=5,
    eval_inner_steps=5,
  )


def hallucination_images(ways: int, shots: int) -> Recipe:
  """That of the learner behind it; the paper has ImageNet alone."""
  return protonet_images(ways, shots)


def delta_encoder_images(ways: int, shots: int) -> Recipe:
  """That of prototypical networks; the paper has no Omniglot."""
  return protonet_images(ways, shots)


def _compared_images(ways: int, shots: int) -> Recipe:
  """Of methods that compare with the support set, on the network of MAML.

  Their papers have networks that max-pool, which take four times as long, and
  mostly train with as many ways as at test; more of them are harder tasks,
  from which more is learned, as Snell et al. found.
  """
  return Recipe(
    network=_embedding, ways=ways, shots=shots, queries=15,
    train_ways=max(20, ways), train_queries=5,
    tasks_per_step=2, steps=10_000, short_steps=1000, evaluation='population',
    outer_schedule='halving',
  )  # fmt: skip


def matchingnet_images(ways: int, shots: int) -> Recipe:
  """Vinyals et al.; the paper says little of how it trains."""
  return _compared_images(ways, shots)


def relationnet_images(ways: int, shots: int) -> Recipe:
  """Sung et al.: on maps of features, here 4 high and wide, there 5.

  Theirs trains on a task a step with 19 queries per class (10 of 20 ways), for
  up to a million steps at 1e-3, halved every 100,000 (recalled). With 2 queries
  a step takes half as long as with 5, as every one is paired with every class.
  """

  def embedding(num_outputs: int, width: int = 64) -> Model:
    del num_outputs  # the relation module takes the place of a head
    return conv4(None, width=width, pool='none', halvings=3)

  return _compared_images(ways, shots)._replace(
    network=embedding, train_queries=2
  )


def siamese_images(ways: int, shots: int) -> Recipe:
  """Koch et al., with 256 features of a twin instead of 4096.

  Theirs trains on pairs of distorted images, 128 a step, by momentum, with
  large filters and no normalisation (recalled).
  """

  def twins(num_outputs: int, width: int = 64) -> Model:
    del num_outputs  # there are features of a twin instead
    return conv4(256, width=width, pool='flatten')

  return _compared_images(ways, shots)._replace(
    network=twins, train_queries=2, outer_lr=3e-3
  )


def r2d2_images(ways: int, shots: int) -> Recipe:
  """Bertinetto et al.; theirs has Adam at 5e-3 and wider layers (recalled)."""
  return _compared_images(ways, shots)


def metaoptnet_images(ways: int, shots: int) -> Recipe:
  """Lee et al.; theirs trains with 15 shots, by momentum (recalled)."""
  return _compared_images(ways, shots)


def in_context_images(ways: int, shots: int) -> Recipe:
  """Ours."""
  return _compared_images(ways, shots)


def classes_images(ways: int, shots: int, **changes: Any) -> Recipe:
  """Chen et al., Omniglot: batches of 16, five passes over 82,240 images.

  At test they take 100 passes over the support set in batches of 4, at a rate
  of 0.01, which goes about as far as 100 steps of all examples at 0.05.
  (Recalled. The weight decay of 0.001 in these steps is left out.)
  """
  recipe = protonet_images(ways, shots)._replace(
    train_ways=None, train_queries=None,
    inner_lr=0.05, inner_steps=100, eval_inner_steps=100,
    steps=25_700, short_steps=4000, outer_schedule='constant',
    log_every=100, checkpoint_every=1000,
  )  # fmt: skip
  return recipe._replace(**changes)


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

# Where what a step does is learned, there are as many at test as in training.
META_SGD_SINUSOID = MAML_SINUSOID._replace(eval_inner_steps=1)
MAML_PLUS_PLUS_SINUSOID = MAML_SINUSOID._replace(
  inner_steps=5,
  eval_inner_steps=5,
  outer_schedule='cosine',
  first_order=0.5,  # as in the paper
)
# The rate and the step are the authors'; from 5 points two steps come to a
# mean squared error of 0.09, and one to 0.35.
CAVIA_SINUSOID = MAML_SINUSOID._replace(
  inner_lr=1.0, inner_steps=1, eval_inner_steps=1
)
WARPGRAD_SINUSOID = MAML_SINUSOID._replace(
  network=partial(mlp, [40, 40], warps=True),
  inner_lr=0.001,  # with 0.01 the warps learn steps that several of diverge
  inner_steps=5,
  eval_inner_steps=5,
)


# The paper has no sinusoids; the rate converges at the curvature there is.
IMAML_SINUSOID = MAML_SINUSOID._replace(inner_steps=16, eval_inner_steps=16)


# Smoothed by less than the weights are large.
ES_MAML_SINUSOID = MAML_SINUSOID


# Regression by methods that do not descend: as many tasks a step as MAML.
R2D2_SINUSOID = MAML_SINUSOID._replace(
  network=lambda num_outputs: mlp([40, 40], 40)
)
NEURAL_PROCESS_SINUSOID = MAML_SINUSOID._replace(
  network=partial(mlp, [128, 128])
)
IN_CONTEXT_SINUSOID = MAML_SINUSOID._replace(
  network=lambda num_outputs: mlp([64], 64)
)
