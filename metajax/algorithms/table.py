"""Every method in one table, and a door for those from outside.

The conformance test, the experiments and the benchmark read this table and
know no method by name; a new method is a new row. What a row's `factory` is
called is exported by `metajax.algorithms` and `metajax`.
"""

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from metajax.algorithms.alfa import alfa
from metajax.algorithms.alpaca import alpaca
from metajax.algorithms.anil import anil
from metajax.algorithms.anml import anml
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
from metajax.algorithms.la_maml import la_maml
from metajax.algorithms.leo import leo
from metajax.algorithms.lr_d2 import lr_d2
from metajax.algorithms.maml import maml
from metajax.algorithms.maml_plus_plus import maml_plus_plus
from metajax.algorithms.matchingnet import matchingnet
from metajax.algorithms.meta_curvature import meta_curvature
from metajax.algorithms.meta_sgd import meta_sgd
from metajax.algorithms.metaicl import metaicl
from metajax.algorithms.metaoptnet import metaoptnet
from metajax.algorithms.multi_task import multi_task
from metajax.algorithms.neural_process import neural_process
from metajax.algorithms.oml import oml
from metajax.algorithms.protomaml import protomaml
from metajax.algorithms.protonet import protonet
from metajax.algorithms.r2d2 import r2d2
from metajax.algorithms.recipe import (
  Recipe,
  clipped_adam,
  counted_adam,
  delta_encoder_optimizer,
  interpolation,
  plain_adam,
  whole_steps,
)
from metajax.algorithms.relationnet import relationnet
from metajax.algorithms.reptile import reptile
from metajax.algorithms.rl2 import rl2
from metajax.algorithms.row import (
  Algorithm,
  AnyRecipe,
  closed_form_method,
  gradient_method,
  own_options,
)
from metajax.algorithms.scratch import from_scratch, nearest_class_mean
from metajax.algorithms.siamese import siamese
from metajax.algorithms.transfer import (
  baseline,
  baseline_plus_plus,
  nearest_mean,
  transfer,
)
from metajax.algorithms.warpgrad import warpgrad
from metajax.base import Head, MetaLearner, Model, Objective, PyTree
from metajax.models import mlp


def _params(meta_params: PyTree) -> PyTree:
  return meta_params.params


def _make_maml_plus_plus(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  options = _MAML_PLUS_PLUS | dict(recipe.options)
  first_order = options.pop('first_order')
  return maml_plus_plus(
    model,
    objective,
    recipe.inner_lr,
    recipe.inner_steps,
    multi_step=recipe.steps // 10,  # the authors' 10 of 100 epochs
    first_order=int(first_order * recipe.steps),
    **options,
  )


# Its first order is a share of the steps, the first ones.
_MAML_PLUS_PLUS = own_options(maml_plus_plus, first_order=0.0)
del _MAML_PLUS_PLUS['multi_step']


def _make_protonet_hallucination(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  base = protonet(identity, objective, recipe.ways)
  return hallucinate(model, objective, base, noisy_copies(), **recipe.options)


def _make_delta_encoder(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  base = protonet(identity, objective, recipe.ways)
  return delta_encoder(model, objective, base, **recipe.options)


def _make_attentive(
  model: Model, objective: Objective, recipe: Recipe
) -> MetaLearner:
  attention = mlp([128], 128)
  return neural_process(model, objective, attention=attention, **recipe.options)


def _from_classes(
  factory: Callable[..., MetaLearner], *fields: str, **row: Any
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
      *(getattr(recipe, field) for field in fields),
      **recipe.options,
    )

  return Algorithm(
    make,
    head=Head('features'),
    weights=_params,
    adapts_by_gradient=False,
    trains_on='classes',
    options=own_options(factory),
    factory=factory,
  )._replace(**row)


_STEPS = ('inner_lr', 'inner_steps')


def _without_classes(
  factory: Callable[..., MetaLearner],
  *fields: str,
  optimizer: Callable[[Recipe], Any] = plain_adam,
  **row: Any,
) -> Algorithm:
  """A row of what knows no classes, and takes no inner steps of descent."""

  def make(model: Model, objective: Objective, recipe: Recipe) -> MetaLearner:
    taken = (getattr(recipe, field) for field in fields)
    return factory(model, objective, *taken, **recipe.options)

  return Algorithm(
    make,
    optimizer,
    weights=_params,
    adapts_by_gradient=False,
    options=own_options(factory),
    factory=factory,
    **row,
  )


# The network of a recipe is what makes it one of recurrence or of attention.
_RL2 = _without_classes(
  rl2,
  'inner_lr',
  optimizer=whole_steps,
  head=Head('memory'),
  adapts_at_random=True,
)

ALGORITHMS: dict[str, Algorithm] = {
  'maml': gradient_method(maml),
  'fomaml': gradient_method(fomaml),
  'anil': gradient_method(anil),
  'boil': gradient_method(boil),
  'meta_sgd': gradient_method(meta_sgd, weights=_params),
  'meta_curvature': gradient_method(meta_curvature, weights=_params),
  'maml_plus_plus': Algorithm(
    _make_maml_plus_plus,
    counted_adam,
    weights=_params,
    options=_MAML_PLUS_PLUS,
    factory=maml_plus_plus,
  ),
  'alfa': gradient_method(alfa, weights=_params),
  'cavia': gradient_method(cavia, weights=_params),
  'warpgrad': gradient_method(warpgrad, head=Head('outputs', warps=True)),
  'reptile': gradient_method(
    reptile,
    interpolation,
    'inner_batch',
    weights=_params,
    adapts_at_random=True,
  ),
  'imaml': gradient_method(
    imaml, more_metrics=('inner_gradient_norm', 'solver_residual')
  ),
  'es_maml': gradient_method(
    es_maml, options={'scale': 0.02}, adapts_at_random=True
  ),
  'protomaml': closed_form_method(
    protomaml, plain_adam, *_STEPS, adapts_weights=True
  ),
  'leo': closed_form_method(
    leo, clipped_adam, *_STEPS, weights=_params, adapts_at_random=True
  ),
  'protonet_hallucination': Algorithm(
    _make_protonet_hallucination,
    head=Head('features'),
    weights=_params,
    adapts_by_gradient=False,
    adapts_at_random=True,
    options=own_options(hallucinate),
    factory=hallucinate,
  ),
  'delta_encoder': Algorithm(
    _make_delta_encoder,
    delta_encoder_optimizer,
    head=Head('features'),
    weights=_params,
    adapts_by_gradient=False,
    adapts_at_random=True,
    options=own_options(delta_encoder),
    factory=delta_encoder,
  ),
  'protonet': closed_form_method(protonet),
  'siamese': closed_form_method(
    siamese, head=Head('features', 256), weights=_params
  ),
  'matchingnet': closed_form_method(
    matchingnet, options={'scale': 10.0}, weights=_params
  ),
  'matchingnet_fce': closed_form_method(
    matchingnet,
    options={'full_context': True, 'scale': 10.0},
    weights=_params,
  ),
  'relationnet': closed_form_method(
    relationnet, head=Head('maps'), weights=_params
  ),
  'r2d2': closed_form_method(r2d2, weights=_params),
  'lr_d2': closed_form_method(lr_d2, weights=_params),
  'metaoptnet': closed_form_method(
    metaoptnet, options={'scale': 10.0}, weights=_params
  ),
  'in_context': closed_form_method(
    in_context, weights=_params, adapts_at_random=True
  ),
  'metaicl': closed_form_method(
    metaicl, head=Head('words'), adapts_at_random=True
  ),
  'rl2': _RL2,
  'rl2_attention': _RL2,
  'alpaca': _without_classes(alpaca, head=Head('features')),
  'cnp': _without_classes(neural_process),
  'anp': _without_classes(neural_process)._replace(make=_make_attentive),
  'baseline': _from_classes(baseline, *_STEPS),
  'baseline_plus_plus': _from_classes(baseline_plus_plus, *_STEPS),
  'multi_task': _from_classes(multi_task, *_STEPS),
  'nearest_mean': _from_classes(nearest_mean),
  'transfer': _from_classes(transfer, *_STEPS, adapts_by_gradient=True),
  'oml': _from_classes(oml, *_STEPS, adapts_by_gradient=True, on_streams=True),
  'anml': _from_classes(
    anml, *_STEPS, adapts_by_gradient=True, on_streams=True
  ),
  'la_maml': gradient_method(la_maml, weights=_params, on_streams=True),
  'pixels': Algorithm(
    lambda model, objective, recipe: nearest_class_mean(
      objective, recipe.ways
    ),
    head=Head('none'),
    weights=None,
    adapts_by_gradient=False,
    factory=nearest_class_mean,
  ),
  'scratch': gradient_method(
    from_scratch, weights=None, adapts_at_random=True
  ),
}  # fmt: skip

# The functions that rows are of.
FACTORIES = sorted(
  {getattr(row.factory, '__name__', name) for name, row in ALGORITHMS.items()}
)
if not TYPE_CHECKING:  # which takes all names above for exported
  __all__ = sorted(
    [
      *FACTORIES,
      'ALGORITHMS',
      'Algorithm',
      'Registered',
      'closed_form_method',
      'gradient_method',
      'register',
      'registered',
      'unregister',
    ]
  )


class Registered(NamedTuple):
  """A method from outside, with its recipes by kind of problem."""

  algorithm: Algorithm
  recipes: Mapping[str, AnyRecipe]
  module: str  # which registered it


_REGISTERED: dict[str, Registered] = {}


def register(name: str, algorithm: Algorithm, **recipes: AnyRecipe) -> None:
  """Adds a method of one's own to the table.

  Whatever reads the table then knows it: experiments by `--algorithm` (with
  `--plugin`, the module that calls this), comparisons, the conformance test.

  Args:
    name: what it is called; that of another method is refused.
    algorithm: the row, see `gradient_method` and `closed_form_method`.
    **recipes: its setting on each kind of problem that it is for, such as
      `images=recipe` and `regression=recipe`: a `Recipe`, or a function that
      makes one from the numbers of ways and shots.

  Raises:
    TypeError: if the row or a recipe is none.
    ValueError: if the name is taken by another module, or is no identifier.

  Example:
    >>> import metajax
    >>> from metajax.algorithms import Recipe, gradient_method, register
    >>> def slow_maml(model, objective, inner_lr, num_steps):
    ...   return metajax.maml(model, objective, inner_lr / 10, num_steps)
    >>> register('slow_maml', gradient_method(slow_maml), images=Recipe())
    >>> 'slow_maml' in metajax.algorithms.ALGORITHMS
    True
    >>> metajax.algorithms.unregister('slow_maml')
  """
  module = sys._getframe(1).f_globals.get('__name__', '')
  if not isinstance(algorithm, Algorithm):
    raise TypeError(
      f'{name} needs an Algorithm, got {type(algorithm).__name__};'
      ' gradient_method and closed_form_method make one'
    )
  for kind, recipe in recipes.items():
    if recipe is Recipe or not (isinstance(recipe, Recipe) or callable(recipe)):
      raise TypeError(
        f'{kind} needs a Recipe, or a function of ways and shots that returns'
        f' one; got {type(recipe).__name__}'
      )
  if not (isinstance(name, str) and name.isidentifier()):
    raise ValueError(f'{name!r} is no identifier, such as my_method')
  before = _REGISTERED.get(name)
  if name in ALGORITHMS and (before is None or before.module != module):
    raise ValueError(
      f'there is a method {name!r} already'
      + (f', of {before.module}' if before else '')
      + '; register another name'
    )
  ALGORITHMS[name] = algorithm
  _REGISTERED[name] = Registered(algorithm, recipes, module)


def registered() -> Mapping[str, Registered]:
  """The methods from outside, by name."""
  return MappingProxyType(_REGISTERED)


def unregister(name: str) -> None:
  """Takes a method from outside out of the table again.

  Args:
    name: what it was registered as.

  Raises:
    ValueError: if no method from outside has this name.
  """
  if name not in _REGISTERED:
    raise ValueError(
      f'there is no method {name!r} from outside to take out of the table;'
      f' there are {", ".join(_REGISTERED) or "none"}'
    )
  del ALGORITHMS[name], _REGISTERED[name]
