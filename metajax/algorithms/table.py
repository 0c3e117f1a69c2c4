"""Every method in one table, each with its published setting.

The conformance test, the experiments and the benchmark read this table and
know no method by name; a new method is a new row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import optax

from metajax.algorithms.alfa import alfa
from metajax.algorithms.anil import anil
from metajax.algorithms.boil import boil
from metajax.algorithms.cavia import cavia
from metajax.algorithms.delta_encoder import delta_encoder
from metajax.algorithms.es_maml import es_maml
from metajax.algorithms.fomaml import fomaml
from metajax.algorithms.hallucination import (
  hallucinate,
  identity,
  noisy_copies,
)
from metajax.algorithms.imaml import imaml
from metajax.algorithms.in_context import in_context
from metajax.algorithms.leo import leo
from metajax.algorithms.lr_d2 import lr_d2
from metajax.algorithms.maml import maml
from metajax.algorithms.maml_plus_plus import maml_plus_plus
from metajax.algorithms.matchingnet import matchingnet
from metajax.algorithms.meta_curvature import meta_curvature
from metajax.algorithms.meta_sgd import meta_sgd
from metajax.algorithms.metaoptnet import metaoptnet
from metajax.algorithms.multi_task import multi_task
from metajax.algorithms.neural_process import neural_process
from metajax.algorithms.protomaml import protomaml
from metajax.algorithms.protonet import protonet
from metajax.algorithms.r2d2 import r2d2
from metajax.algorithms.recipes import (
  CAVIA_SINUSOID,
  ES_MAML_SINUSOID,
  IMAML_SINUSOID,
  IN_CONTEXT_SINUSOID,
  MAML_PLUS_PLUS_SINUSOID,
  MAML_SINUSOID,
  META_SGD_SINUSOID,
  NEURAL_PROCESS_SINUSOID,
  R2D2_SINUSOID,
  WARPGRAD_SINUSOID,
  Recipe,
  adam,
  boil_images,
  cavia_images,
  classes_images,
  clipped_adam,
  counted_adam,
  delta_encoder_images,
  delta_encoder_optimizer,
  es_maml_images,
  hallucination_images,
  imaml_images,
  in_context_images,
  interpolation,
  leo_images,
  maml_images,
  maml_plus_plus_images,
  matchingnet_images,
  meta_curvature_images,
  meta_sgd_images,
  metaoptnet_images,
  protomaml_images,
  protonet_images,
  r2d2_images,
  relationnet_images,
  reptile_images,
  siamese_images,
  untrained_images,
  warpgrad_images,
)
from metajax.algorithms.relationnet import relationnet
from metajax.algorithms.reptile import reptile
from metajax.algorithms.scratch import from_scratch, nearest_class_mean
from metajax.algorithms.siamese import siamese
from metajax.algorithms.transfer import (
  baseline,
  baseline_plus_plus,
  nearest_mean,
  transfer,
)
from metajax.algorithms.warpgrad import warpgrad
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
  adapts_at_random: bool = False  # another key, another meta-gradient
  # 'classes': training "tasks" are batches with the labels of all classes.
  trains_on: Literal['tasks', 'classes'] = 'tasks'


def _gradient_method(
  factory: Callable[..., MetaLearner], *options: str
) -> Callable[[Model, Objective, Recipe], MetaLearner]:
  """Of inner steps; options are fields of the recipe beside rate and steps."""
  return lambda model, objective, recipe: factory(
    model,
    objective,
    recipe.inner_lr,
    recipe.inner_steps,
    **{option: getattr(recipe, option) for option in options},
  )


def _params(meta_params: PyTree) -> PyTree:
  return meta_params.params


def _make_maml_plus_plus(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  return maml_plus_plus(
    model,
    objective,
    recipe.inner_lr,
    recipe.inner_steps,
    multi_step=recipe.steps // 10,  # the authors' 10 of 100 epochs
    first_order=int(recipe.first_order * recipe.steps),
  )


def _class_method(
  factory: Callable[..., MetaLearner],
) -> Callable[[Model, Objective, Recipe], MetaLearner]:
  """Of steps from what is made of the classes of a support set."""
  return lambda model, objective, recipe: factory(
    model, objective, recipe.ways, recipe.inner_lr, recipe.inner_steps
  )


def _by_classes(
  factory: Callable[..., MetaLearner],
) -> Callable[[Model, Objective, Recipe], MetaLearner]:
  """Of a method that adapts in closed form, or reads the support set."""
  return lambda model, objective, recipe: factory(model, objective, recipe.ways)


def _make_protonet_hallucination(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  base = protonet(identity, objective, recipe.ways)
  return hallucinate(model, objective, base, noisy_copies())


def _make_delta_encoder(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  base = protonet(identity, objective, recipe.ways)
  return delta_encoder(model, objective, base)


def _from_classes(
  factory: Callable[..., MetaLearner], recipe: Callable[[int, int], Recipe]
) -> Algorithm:
  """A row of what trains on all classes, and adapts at test alone."""

  def make(model: Model, objective: Objective, recipe: Recipe) -> MetaLearner:
    if recipe.train_classes is None:
      raise ValueError('this method has to know train_classes, of the data set')
    return factory(
      model,
      objective,
      recipe.ways,
      recipe.train_classes,
      recipe.inner_lr,
      recipe.inner_steps,
    )

  return Algorithm(
    make,
    adam,
    recipe,
    None,
    weights=_params,
    adapts_by_gradient=False,
    trains_on='classes',
  )


def _nearest_mean(*arguments: Any) -> MetaLearner:
  """Without a rate and steps: it is closed."""
  return nearest_mean(*arguments[:4])


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
  'boil': Algorithm(
    _gradient_method(boil), adam, boil_images, MAML_SINUSOID
  ),
  'meta_sgd': Algorithm(
    _gradient_method(meta_sgd),
    adam,
    meta_sgd_images,
    META_SGD_SINUSOID,
    weights=_params,
  ),
  'meta_curvature': Algorithm(
    _gradient_method(meta_curvature),
    adam,
    meta_curvature_images,
    META_SGD_SINUSOID,
    weights=_params,
  ),
  'maml_plus_plus': Algorithm(
    _make_maml_plus_plus,
    counted_adam,
    maml_plus_plus_images,
    MAML_PLUS_PLUS_SINUSOID,
    weights=_params,
  ),
  'alfa': Algorithm(
    _gradient_method(alfa),
    adam,
    maml_plus_plus_images,
    MAML_PLUS_PLUS_SINUSOID,
    weights=_params,
  ),
  'cavia': Algorithm(
    _gradient_method(cavia),
    adam,
    cavia_images,
    CAVIA_SINUSOID,
    weights=_params,
  ),
  'warpgrad': Algorithm(
    _gradient_method(warpgrad),
    adam,
    warpgrad_images,
    WARPGRAD_SINUSOID,
  ),
  'reptile': Algorithm(
    _gradient_method(reptile, 'inner_batch'),
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
  'imaml': Algorithm(
    _gradient_method(imaml, 'strength', 'damping'),
    adam,
    imaml_images,
    IMAML_SINUSOID,
  ),
  'es_maml': Algorithm(
    _gradient_method(partial(es_maml, scale=0.02)),
    adam,
    es_maml_images,
    ES_MAML_SINUSOID,
    adapts_at_random=True,
  ),
  'protomaml': Algorithm(
    _class_method(protomaml),
    adam,
    protomaml_images,
    None,
    adapts_by_gradient=False,
  ),
  'leo': Algorithm(
    _class_method(leo),
    clipped_adam,
    leo_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
    adapts_at_random=True,
  ),
  'protonet_hallucination': Algorithm(
    _make_protonet_hallucination,
    adam,
    hallucination_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
    adapts_at_random=True,
  ),
  'delta_encoder': Algorithm(
    _make_delta_encoder,
    delta_encoder_optimizer,
    delta_encoder_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
    adapts_at_random=True,
  ),
  'protonet': Algorithm(
    lambda model, objective, recipe: protonet(model, objective, recipe.ways),
    adam,
    protonet_images,
    None,
    adapts_by_gradient=False,
  ),
  'siamese': Algorithm(
    _by_classes(siamese),
    adam,
    siamese_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'matchingnet': Algorithm(
    _by_classes(partial(matchingnet, scale=10.0)),
    adam,
    matchingnet_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'matchingnet_fce': Algorithm(
    _by_classes(partial(matchingnet, full_context=True, scale=10.0)),
    adam,
    matchingnet_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'relationnet': Algorithm(
    _by_classes(relationnet),
    adam,
    relationnet_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'r2d2': Algorithm(
    _by_classes(r2d2),
    adam,
    r2d2_images,
    R2D2_SINUSOID,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'lr_d2': Algorithm(
    _by_classes(lr_d2),
    adam,
    r2d2_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'metaoptnet': Algorithm(
    _by_classes(partial(metaoptnet, scale=10.0)),
    adam,
    metaoptnet_images,
    None,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'in_context': Algorithm(
    _by_classes(in_context),
    adam,
    in_context_images,
    IN_CONTEXT_SINUSOID,
    weights=_params,
    adapts_by_gradient=False,
    adapts_at_random=True,
  ),
  'cnp': Algorithm(
    lambda model, objective, recipe: neural_process(model, objective),
    adam,
    None,
    NEURAL_PROCESS_SINUSOID,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'anp': Algorithm(
    lambda model, objective, recipe: neural_process(
      model, objective, attention=mlp([128], 128)
    ),
    adam,
    None,
    NEURAL_PROCESS_SINUSOID,
    weights=_params,
    adapts_by_gradient=False,
  ),
  'baseline': _from_classes(baseline, classes_images),
  'baseline_plus_plus': _from_classes(baseline_plus_plus, classes_images),
  'multi_task': _from_classes(multi_task, classes_images),
  'nearest_mean': _from_classes(_nearest_mean, classes_images),
  'transfer': _from_classes(
    transfer,
    partial(classes_images, inner_lr=1e-3, inner_steps=50, eval_inner_steps=50),
  )._replace(adapts_by_gradient=True),
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
