"""Modules of flax as `metajax.Model`s."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from metajax.base import Model, PyTree

__all__ = ['from_linen', 'from_nnx']


def from_linen(module: nn.Module) -> Model:
  """Wraps a stateless flax module.

  Args:
    module: all its variables are in the collection `params`. Layers that keep
      normalisation statistics do so in the collection `statistics`, as
      `metajax.models.BatchNorm` does.

  Returns:
    A `Model` whose parameters are the contents of `params`.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> model = from_linen(nn.Dense(3))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(params, jnp.zeros((5, 2))).shape
    (5, 3)
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return module.init(key, inputs)['params']

  def apply(params: PyTree, inputs: PyTree) -> PyTree:
    return module.apply({'params': params}, inputs)

  def measure(params: PyTree, inputs: PyTree) -> PyTree:
    _, measured = module.apply(
      {'params': params}, inputs, mutable=['statistics']
    )
    return measured.get('statistics', {})

  def freeze(statistics: PyTree) -> Model:
    def apply_frozen(params: PyTree, inputs: PyTree) -> PyTree:
      return module.apply({'params': params, 'statistics': statistics}, inputs)

    return Model(init, apply_frozen)

  return Model(init, apply, measure, freeze)


def from_nnx(make: Callable[[nnx.Rngs], Callable[..., Any]]) -> Model:
  """Wraps a stateless nnx module.

  Args:
    make: builds the module from `nnx.Rngs`. All its variables are `nnx.Param`.

  Returns:
    A `Model` whose parameters are nested dictionaries.

  Raises:
    ValueError: if the module has other variables, such as running averages or
      the keys of dropout, which a pure function would silently not update.

  Example:
    >>> from flax import nnx
    >>> import jax, jax.numpy as jnp
    >>> model = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(params, jnp.zeros((5, 2))).shape
    (5, 3)
  """
  abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  structure, template, others = nnx.split(abstract, nnx.Param, ...)
  names = ['/'.join(map(str, path)) for path, _ in nnx.to_flat_state(others)]
  if names:
    raise ValueError(
      'from_nnx wants a module whose variables are all nnx.Param; this one also'
      f' has {", ".join(names)}. Use batch normalisation without running'
      ' averages, and no dropout'
    )

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    del inputs  # nnx modules know their shapes
    return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))

  def apply(params: PyTree, inputs: PyTree) -> PyTree:
    # It takes a copy, because the template serves every call, also traced ones.
    state = jax.tree.map(lambda leaf: leaf, template)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(structure, state, copy=True)(inputs)

  return Model(init, apply)
