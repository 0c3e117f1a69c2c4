"""Recipes for few-shot classification of images.

Each is a function of the numbers of ways and shots, since the papers' settings
depend on them. A recipe names the network that it is published with where it
is another than `NETWORK`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from metajax.algorithms.recipe import Recipe

__all__ = ['KIND', 'NETWORK', 'RECIPES']

KIND = 'images'
NETWORK = 'conv4'


def maml(ways: int, shots: int) -> Recipe:
  """Finn et al., Omniglot, with one rate for a mean loss (see docs).

  Theirs, of sums over all examples, come to 2.0 for 5 ways and for 20; 0.4
  learns more from both.
  """
  recipe = Recipe(
    ways=ways, shots=shots, queries=shots, eval_inner_steps=3,
    short_outer_lr=3e-3,  # that of learn2learn's Omniglot example
  )  # fmt: skip
  if ways <= 5:
    return recipe
  return recipe._replace(inner_steps=5, eval_inner_steps=5, tasks_per_step=16)


def meta_sgd(ways: int, shots: int) -> Recipe:
  """Li et al., Omniglot: MAML's, with one step for any number of ways."""
  return maml(ways, shots)._replace(inner_steps=1, eval_inner_steps=1)


def meta_curvature(ways: int, shots: int) -> Recipe:
  """Park and Oliva: MAML's, and at test the steps that were learned."""
  recipe = maml(ways, shots)
  return recipe._replace(eval_inner_steps=recipe.inner_steps)


def boil(ways: int, shots: int) -> Recipe:
  """Oh et al.: one step of rate 0.5, which the head has no part in."""
  return meta_sgd(ways, shots)._replace(inner_lr=0.5)


def cavia(ways: int, shots: int) -> Recipe:
  """Zintgraf et al.: two steps of rate 1, recalled. None for Omniglot."""
  return maml(ways, shots)._replace(
    inner_lr=1.0, inner_steps=2, eval_inner_steps=2
  )


def maml_plus_plus(ways: int, shots: int) -> Recipe:
  """Antoniou et al., Omniglot, on the network of MAML (theirs max-pools).

  The paper has half of the steps first order; the authors' configuration for
  Omniglot has none.
  """
  return maml(ways, shots)._replace(
    inner_lr=0.1, inner_steps=5, eval_inner_steps=5,
    tasks_per_step=8, outer_schedule='cosine',
  )  # fmt: skip


def warpgrad(ways: int, shots: int) -> Recipe:
  """Flennerhag et al. on MAML's network; none for few shots of Omniglot."""
  return maml(ways, shots)._replace(
    inner_lr=0.1, inner_steps=5, eval_inner_steps=5,
  )  # fmt: skip


def reptile(ways: int, shots: int) -> Recipe:
  """Nichol et al., Omniglot; their 5-way 1-shot row is the transductive one."""
  recipe = Recipe(
    network='conv4_flatten',
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


def protonet(ways: int, shots: int) -> Recipe:
  """Snell et al., Omniglot: trained 60-way, one episode a step."""
  return Recipe(
    network='conv4_max_pool', ways=ways, shots=shots, queries=15,
    train_ways=60, train_queries=5,
    tasks_per_step=1, steps=10_000, evaluation='population',
    outer_schedule='halving',
  )  # fmt: skip


def imaml(ways: int, shots: int) -> Recipe:
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
  return maml(ways, shots)._replace(
    inner_steps=5, eval_inner_steps=5, steps=20_000,
    options={'strength': 0.1, 'damping': 23.9},
  )  # fmt: skip


def es_maml(ways: int, shots: int) -> Recipe:
  """MAML's setting; the paper has no images."""
  return maml(ways, shots)


def protomaml(ways: int, shots: int) -> Recipe:
  """Ours; the paper has Omniglot as one of ten data sets to train on.

  One step, as the prototypes leave little to do for more.
  """
  return maml(ways, shots)._replace(
    inner_lr=0.1, inner_steps=1, eval_inner_steps=1
  )


def leo(ways: int, shots: int) -> Recipe:
  """Rusu et al., rates and steps of miniImageNet (recalled); no Omniglot.

  Their rate of 1 is for losses that are sums.
  """
  return maml(ways, shots)._replace(
    inner_lr=1.0 * ways * shots,
    inner_steps=5,
    eval_inner_steps=5,
  )


def hallucination(ways: int, shots: int) -> Recipe:
  """That of the learner behind it; the paper has ImageNet alone."""
  return protonet(ways, shots)


def delta_encoder(ways: int, shots: int) -> Recipe:
  """That of prototypical networks; the paper has no Omniglot."""
  return protonet(ways, shots)


def _compared(ways: int, shots: int) -> Recipe:
  """Suits methods that compare with the support set, on the network of MAML.

  Their papers have networks that max-pool, which take four times as long, and
  mostly train with as many ways as at test; more of them are harder tasks,
  from which more is learned, as Snell et al. found.
  """
  return Recipe(
    ways=ways, shots=shots, queries=15,
    train_ways=max(20, ways), train_queries=5,
    tasks_per_step=2, steps=10_000, short_steps=1000, evaluation='population',
    outer_schedule='halving',
  )  # fmt: skip


def matchingnet(ways: int, shots: int) -> Recipe:
  """Vinyals et al.; the paper says little of how it trains."""
  return _compared(ways, shots)


def relationnet(ways: int, shots: int) -> Recipe:
  """Sung et al.: on maps of features, here 4 high and wide, there 5.

  Theirs trains on a task a step with 19 queries per class (10 of 20 ways), for
  up to a million steps at 1e-3, halved every 100,000 (recalled). With 2 queries
  a step takes half as long as with 5, as every one is paired with every class.
  """
  return _compared(ways, shots)._replace(train_queries=2)


def siamese(ways: int, shots: int) -> Recipe:
  """Koch et al., with 256 features of a twin instead of 4096.

  Theirs trains on pairs of distorted images, 128 a step, by momentum, with
  large filters and no normalisation (recalled).
  """
  return _compared(ways, shots)._replace(train_queries=2, outer_lr=3e-3)


def r2d2(ways: int, shots: int) -> Recipe:
  """Bertinetto et al.; theirs has Adam at 5e-3 and wider layers (recalled)."""
  return _compared(ways, shots)


def metaoptnet(ways: int, shots: int) -> Recipe:
  """Lee et al.; theirs trains with 15 shots, by momentum (recalled)."""
  return _compared(ways, shots)


def in_context(ways: int, shots: int) -> Recipe:
  """Ours."""
  return _compared(ways, shots)


def classes(ways: int, shots: int, **changes: Any) -> Recipe:
  """Chen et al., Omniglot: batches of 16, five passes over 82,240 images.

  At test they take 100 passes over the support set in batches of 4, at a rate
  of 0.01, which goes about as far as 100 steps of all examples at 0.05.
  (Recalled. The weight decay of 0.001 in these steps is left out.)
  """
  recipe = protonet(ways, shots)._replace(
    train_ways=None, train_queries=None,
    inner_lr=0.05, inner_steps=100, eval_inner_steps=100,
    steps=25_700, short_steps=4000, outer_schedule='constant',
    log_every=100, checkpoint_every=1000,
  )  # fmt: skip
  return recipe._replace(**changes)


def untrained(ways: int, shots: int, **changes: Any) -> Recipe:
  """For what is tested without training."""
  recipe = Recipe(ways=ways, shots=shots, steps=0, short_steps=0)
  return recipe._replace(**changes)


_FINE_TUNED: dict[str, Any] = {
  'inner_lr': 1e-3,
  'inner_steps': 50,
  'eval_inner_steps': 50,
}

RECIPES: dict[str, Callable[[int, int], Recipe]] = {
  'maml': maml,
  'fomaml': maml,
  'anil': maml,
  'boil': boil,
  'meta_sgd': meta_sgd,
  'meta_curvature': meta_curvature,
  'maml_plus_plus': maml_plus_plus,
  'alfa': maml_plus_plus,
  'cavia': cavia,
  'warpgrad': warpgrad,
  'reptile': reptile,
  'imaml': imaml,
  'es_maml': es_maml,
  'protomaml': protomaml,
  'leo': leo,
  'protonet_hallucination': hallucination,
  'delta_encoder': delta_encoder,
  'protonet': protonet,
  'siamese': siamese,
  'matchingnet': matchingnet,
  'matchingnet_fce': matchingnet,
  'relationnet': relationnet,
  'r2d2': r2d2,
  'lr_d2': r2d2,
  'metaoptnet': metaoptnet,
  'in_context': in_context,
  'baseline': classes,
  'baseline_plus_plus': classes,
  'multi_task': classes,
  'nearest_mean': classes,
  'transfer': partial(classes, **_FINE_TUNED),
  'pixels': untrained,
  'scratch': partial(untrained, **_FINE_TUNED),
}
