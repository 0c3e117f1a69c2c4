"""Modules of flax nnx as `metajax.Model`s."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.base import Apply, Model, PyTree
from metajax.equality import by_value
from metajax.models.adapters import check_statistics
from metajax.models.modes import without_key

__all__ = ['from_nnx']


@by_value
def from_nnx(make: Callable[[nnx.Rngs], Callable[..., Any]]) -> Model:
  """Wraps a module of flax nnx.

  What its variables become follows from their type. `nnx.Param` are the
  parameters. Statistics of batch normalisation are those of the batch at hand,
  in training and at test; `measure` gathers them and `freeze` holds them, so
  that running averages and their momentum are not used. What a module draws
  from, for dropout, is the key of training. All other variables are constants,
  which stand beside the parameters and are not learned.

  Args:
    make: builds the module from `nnx.Rngs`.

  Returns:
    A `Model` whose parameters are nested dictionaries; of a module with
    constants, those are under `params` and `constants`.

  Raises:
    ValueError: if `make` makes none, or if the module keeps other statistics
      than means and variances; when it is used, if it changes its constants,
      or draws random numbers at test.

  Example:
    >>> from flax import nnx
    >>> import jax, jax.numpy as jnp
    >>> model = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(params, jnp.zeros((5, 2))).shape
    (5, 3)
  """
  if isinstance(make, nnx.Module) or not callable(make):
    raise ValueError(
      'from_nnx wants what makes a module from nnx.Rngs, such as lambda rngs:'
      f' nnx.Linear(2, 3, rngs=rngs); got {type(make).__name__}'
    )
  kinds = (nnx.Param, nnx.BatchStat, nnx.RngState, ...)
  structure, *templates = nnx.split(
    nnx.eval_shape(lambda: make(nnx.Rngs(0))), *kinds
  )
  check_statistics('from_nnx', _names(templates[1]))
  has_constants = bool(_names(templates[3]))

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    del inputs  # nnx modules know their shapes
    _, params, _, _, constants = nnx.split(make(nnx.Rngs(key)), *kinds)
    params = nnx.to_pure_dict(params)
    if not has_constants:
      return params
    return {'params': params, 'constants': nnx.to_pure_dict(constants)}

  def run(
    params: PyTree,
    inputs: PyTree,
    key: jax.Array | None = None,
    statistics: PyTree | None = None,
  ) -> tuple[PyTree, PyTree]:
    constants: PyTree = {}
    if has_constants:
      params, constants = params['params'], params['constants']
    values = (
      params,
      _zeros(templates[1]) if statistics is None else statistics,
      _drawn(templates[2], jax.random.key(0) if key is None else key),
      constants,
    )
    module = nnx.merge(structure, *map(_filled, templates, values), copy=True)
    _set_mode(module, key is not None, statistics is not None)
    outputs = module(inputs)
    _, _, measured, drawn, after = nnx.split(module, *kinds)
    _refuse_changes(constants, nnx.to_pure_dict(after))
    if key is None:
      _refuse_draws(module, values[2], nnx.to_pure_dict(drawn))
    return outputs, nnx.to_pure_dict(measured)

  def with_statistics(statistics: PyTree | None) -> Apply:
    def apply(
      params: PyTree, inputs: PyTree, key: jax.Array | None = None
    ) -> PyTree:
      return run(params, inputs, key, statistics)[0]

    return apply if _names(templates[2]) else without_key(apply)

  def measure(params: PyTree, inputs: PyTree) -> PyTree:
    return run(params, inputs)[1]

  def freeze(statistics: PyTree) -> Model:
    return Model(init, with_statistics(statistics))

  return Model(init, with_statistics(None), measure, freeze)


def _names(state: Any) -> list[str]:
  return ['/'.join(map(str, path)) for path, _ in nnx.to_flat_state(state)]


def _filled(template: Any, values: PyTree) -> Any:
  # It takes a copy, because the template serves every call, also traced ones.
  state = jax.tree.map(lambda leaf: leaf, template)
  nnx.replace_by_pure_dict(state, values)
  return state


def _zeros(template: Any) -> PyTree:
  return jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nnx.to_pure_dict(template)
  )


def _drawn(template: Any, key: jax.Array) -> PyTree:
  """Streams of random numbers from a key, at their start."""
  leaves, structure = jax.tree.flatten(nnx.to_pure_dict(template))

  def start(number: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jnp.zeros(leaf.shape, leaf.dtype)  # a count of draws
    own = jax.random.fold_in(key, number)
    return jax.random.split(own, leaf.shape) if leaf.shape else own

  return jax.tree.unflatten(structure, map(start, range(len(leaves)), leaves))


def _set_mode(module: Any, trains: bool, fixed: bool) -> None:
  """Dropout as in training or at test, and batch normalisation by the batch.

  Without momentum its averages are exactly the statistics of the batch.
  """
  if trains:
    module.train()
  else:
    module.eval()
  for _, layer in nnx.iter_modules(module):
    if isinstance(layer, nnx.BatchNorm):
      layer.use_running_average = fixed
      layer.momentum = 0.0


def _refuse_changes(before: PyTree, after: PyTree) -> None:
  changed = [path for path, _ in _changed(before, after)]
  if changed:
    raise ValueError(
      'from_nnx: a model is a function of its parameters and inputs, but this'
      f' module changes its variables {", ".join(changed)} when it is called'
    )


def _refuse_draws(module: Any, before: PyTree, after: PyTree) -> None:
  # What a recurrent layer draws its first state from, it does not show.
  recurrent = [
    path
    for path, layer in nnx.iter_modules(module)
    if isinstance(layer, nnx.RNN | nnx.RNNCellBase)
  ]
  drawn = [
    name
    for name, path in _changed(before, after)
    if not any(path[: len(each)] == each for each in recurrent)
  ]
  if drawn:
    raise ValueError(
      'from_nnx: this module draws random numbers at test too, from'
      f' {", ".join(drawn)}; it must not where its attribute `deterministic` is'
      ' True, as module.eval() sets it'
    )


def _changed(before: PyTree, after: PyTree) -> list[tuple[str, tuple]]:
  """Names and paths of the values that were put in the place of others."""
  pairs = zip(
    jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
  )
  paths = [path for (path, old), new in pairs if old is not new]
  return [
    (
      jax.tree_util.keystr(path, simple=True, separator='/'),
      tuple(key.key for key in path),
    )
    for path in paths
  ]
