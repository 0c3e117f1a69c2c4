"""Every method in one table, each with its published setting.

The conformance test, the experiments and the benchmark read this table and
know no method by name; a new method is a new row.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from metajax.algorithms.anil import anil
from metajax.algorithms.fomaml import fomaml
from metajax.algorithms.maml import maml
from metajax.algorithms.protonet import protonet
from metajax.algorithms.recipes import (
  MAML_SINUSOID,
  Recipe,
  adam,
  interpolation,
  maml_images,
  protonet_images,
  reptile_images,
  untrained_images,
)
from metajax.algorithms.reptile import reptile
from metajax.algorithms.scratch import from_scratch, nearest_class_mean
from metajax.base import MetaLearner, Model, Objective, PyTree
from metajax.models import mlp


class Algorithm(NamedTuple):
  """A row of the table."""

  make: Callable[[Model, Objective, Recipe], MetaLearner]
  optimizer: Callable[[Recipe], optax.GradientTransformation]
  images: Callable[[int, int], Recipe] | None  # from ways and shots
  sinusoid: Recipe | None
  # The weights of the model among the meta-parameters.
  weights: Callable[[PyTree], PyTree] | None = lambda meta_params: meta_params
  adapts_by_gradient: bool = True
  adapts_at_random: bool = False  # another key, another adaptation


def _gradient_method(
  factory: Callable[..., MetaLearner],
) -> Callable[[Model, Objective, Recipe], MetaLearner]:
  return lambda model, objective, recipe: factory(
    model, objective, recipe.inner_lr, recipe.inner_steps
  )


def _make_reptile(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  return reptile(
    model,
    objective,
    recipe.inner_lr,
    recipe.inner_steps,
    inner_batch=recipe.inner_batch,
  )


ALGORITHMS: dict[str, Algorithm] = {
  'maml': Algorithm(
    _gradient_method(maml), adam, maml_images, MAML_SINUSOID
  ),
  'fomaml': Algorithm(
    _gradient_method(fomaml), adam, maml_images, MAML_SINUSOID
  ),
  'anil': Algorithm(
    _gradient_method(anil), adam, maml_images, MAML_SINUSOID
  ),
  'reptile': Algorithm(
    _make_reptile,
    interpolation,
    reptile_images,
    MAML_SINUSOID._replace(
      inner_steps=5,
      outer_lr=1.0,
      outer_schedule='linear',
      tasks_per_step=5,
    ),
    weights=lambda meta_params: meta_params.params,
    adapts_at_random=True,
  ),
  'protonet': Algorithm(
    lambda model, objective, recipe: protonet(model, objective, recipe.ways),
    adam,
    protonet_images,
    None,
    adapts_by_gradient=False,
  ),
  'pixels': Algorithm(
    lambda model, objective, recipe: nearest_class_mean(
      objective, recipe.ways
    ),
    adam,
    untrained_images,
    None,
    weights=None,
    adapts_by_gradient=False,
  ),
  'scratch': Algorithm(
    _gradient_method(from_scratch),
    adam,
    partial(
      untrained_images, inner_lr=1e-3, inner_steps=50, eval_inner_steps=50
    ),
    Recipe(
      network=partial(mlp, [40, 40]),
      shots=10, queries=100,
      inner_lr=1e-2, inner_steps=50, eval_inner_steps=50,
      tasks_per_step=25, steps=0, short_steps=0,
    ),
    weights=None,
    adapts_at_random=True,
  ),
}  # fmt: skip
