"""What a tuning is: a few learned arrays, and where they go in a model."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

from metajax.base import Model, PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.models.modes import (
  check_model,
  like,
  takes_key,
  with_key,
  without_key,
)
from metajax.models.tuning._trees import by_path, replaced
from metajax.models.tuning.kernels import LowRank, dense, is_kernel

__all__ = [
  'Combine',
  'InitTuning',
  'Tuning',
  'check_tuning',
  'fold',
  'materialised',
  'tuned',
]


class InitTuning(Protocol):
  """Draws what is learned for parameters of the given form."""

  def __call__(self, key: jax.Array, params: PyTree, /) -> PyTree: ...


class Combine(Protocol):
  """Parameters for `apply`, of those of the model and of what was learned.

  With an argument `key`, None at test, it trains: see `metajax.models.modes`.
  """

  def __call__(self, params: PyTree, learned: PyTree, /) -> PyTree: ...


class Tuning(NamedTuple):
  """What of a model adapts, as two pure functions.

  `combine` takes a key as the `apply` of a model does, if it behaves
  differently in training (dropout of adapters). Any pair of functions is one:

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models import mlp
    >>> shift = Tuning(  # of the last layer
    ...   lambda key, params: jnp.zeros_like(params['head']['bias']),
    ...   lambda params, learned: {**params, 'head': {
    ...     **params['head'], 'bias': params['head']['bias'] + learned}})
    >>> model = tuned(mlp([8], 2), shift)
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> params['tuning'].shape
    (2,)
  """

  init: InitTuning
  combine: Combine


def check_tuning(tuning: Any) -> None:
  """Refuses what is no tuning.

  Raises:
    ValueError: if it is none, such as the factory of one.
  """
  if not isinstance(tuning, Tuning):
    what = getattr(tuning, '__name__', None) or type(tuning).__name__
    raise ValueError(
      'a tuning is what lora(...), only(...), soft_prompt(...) or prefix(...)'
      f' return, or a Tuning(init, combine); got {what}'
    )


@by_value
def tuned(model: Model, tuning: Tuning) -> Model:
  """A model of which only what a tuning says is to adapt.

  Its parameters are `{'base': those of the model, 'tuning': what is learned}`.
  A method that adapts by gradient is told by `adapts`, and the outer optimiser
  by `metajax.freeze` if the base is to stay as it is.

  Args:
    model: any. One whose layers do not compute `inputs @ kernel`, such as those
      of flax, wants `materialised(tuning)` of low-rank adapters.
    tuning: what adapts.

  Returns:
    A `Model` whose outputs are, before anything is learned, exactly those of
    `model` under `lora` and `only`. It takes a key where one of the two does.

  Raises:
    ValueError: if `model` is no model, or `tuning` no tuning; when parameters
      are drawn, if the model does not read what the tuning adds to them, such
      as a prompt.

  Example:
    >>> import metajax
    >>> from metajax.inner import partition
    >>> from metajax.models import mlp, only
    >>> model = tuned(mlp([8], 2), only(partition.biases))
    >>> learner = metajax.maml(model, metajax.cross_entropy,
    ...                        adapts=partition.matching('^tuning/'))
  """
  check_model(model)
  check_tuning(tuning)
  measure, freeze = model.measure, model.freeze

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    base_key, tuning_key = jax.random.split(key)
    base = model.init(base_key, inputs)
    learned = tuning.init(tuning_key, base)
    _check_read(model, base, tuning.combine(base, learned), inputs)
    return {'base': base, 'tuning': learned}

  def apply(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    keys = (None, None) if key is None else jax.random.split(key)
    combined = with_key(tuning.combine, keys[1])(*_parts(params))
    return with_key(model.apply, keys[0])(combined, inputs)

  def measured(params: PyTree, inputs: PyTree) -> PyTree:
    assert measure is not None
    return measure(tuning.combine(*_parts(params)), inputs)

  def frozen(statistics: PyTree) -> Model:
    assert freeze is not None
    return tuned(freeze(statistics), tuning)

  draws = takes_key(model.apply) or takes_key(tuning.combine)
  return Model(
    init,
    apply if draws else without_key(apply),
    None if measure is None else measured,
    None if freeze is None else frozen,
  )


def _check_read(
  model: Model, base: PyTree, combined: PyTree, inputs: PyTree
) -> None:
  """Refuses entries that a tuning adds and the model does not look at."""
  before = by_path(base)
  new = {x: leaf for x, leaf in by_path(combined).items() if x not in before}
  if not new:
    return

  def outputs(new: dict[str, jax.Array]) -> PyTree:
    places = {path: lambda _, leaf=leaf: leaf for path, leaf in new.items()}
    return model.apply(replaced(combined, places), inputs)

  traced = jax.make_jaxpr(outputs)(new).jaxpr
  read = {id(each) for step in traced.eqns for each in step.invars}
  unread = [
    path
    for path, each in zip(sorted(new), traced.invars, strict=True)
    if id(each) not in read
  ]
  if unread:
    raise ValueError(
      f'this model does not read {partition.list_paths(unread, 3)}, which the'
      ' tuning adds to its parameters: give it to a model that does, as'
      ' pretrained transformers do, or take another tuning'
    )


def _parts(params: PyTree) -> tuple[PyTree, PyTree]:
  if not isinstance(params, Mapping) or {*params} != {'base', 'tuning'}:
    raise ValueError(
      "a tuned model has the parameters {'base': those of the model, 'tuning':"
      f' what tuning.init drew}}; got {type(params).__name__}'
    )
  return params['base'], params['tuning']


def fold(tuning: Tuning, params: PyTree, learned: PyTree) -> PyTree:
  """Parameters of the model alone, with what was learned put into its arrays.

  Low-rank adapters are added to their kernels, which become arrays; a quantised
  kernel that has none stays as it is. Outputs are the same up to rounding.

  Args:
    tuning: what adapted.
    params: of the model.
    learned: of the tuning.

  Returns:
    Parameters for the `apply` of the model.

  Raises:
    ValueError: if `tuning` is none.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models import lora
    >>> params = {'kernel': jnp.ones((4, 3))}
    >>> adapt = lora(rank=2, targets='kernel')
    >>> learned = adapt.init(jax.random.key(0), params)
    >>> fold(adapt, params, learned)['kernel'].shape
    (4, 3)
  """
  check_tuning(tuning)
  return jax.tree.map(
    lambda leaf: dense(leaf) if isinstance(leaf, LowRank) else leaf,
    tuning.combine(params, learned),
    is_leaf=is_kernel,
  )


@by_value
def materialised(tuning: Tuning) -> Tuning:
  """The same tuning, for models that want their kernels to be arrays.

  Layers of flax do. The sum of a kernel and its adapter is computed for every
  task, which takes as much memory as the kernel; gradients are the same. A
  convolution kernel `[height, width, in, out]` has an adapter at every place of
  its window.

  Args:
    tuning: any, without dropout of adapters.

  Returns:
    A `Tuning` that learns the same.

  Raises:
    ValueError: if `tuning` is none; when it trains, if adapters have dropout.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models import lora, mlp
    >>> model = tuned(mlp([8], 2), materialised(lora(2, 'Dense_0/kernel')))
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> model.apply(params, jnp.ones((5, 3))).shape
    (5, 2)
  """
  check_tuning(tuning)

  def combine(
    params: PyTree, learned: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    combined = with_key(tuning.combine, key)(params, learned)
    return jax.tree.map(dense, combined, is_leaf=is_kernel)

  return Tuning(tuning.init, like(tuning.combine, combine))
