"""Computing in fewer bits than parameters are kept in."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from metajax.base import Model, PyTree
from metajax.equality import by_value
from metajax.models.modes import like, with_key

__all__ = ['drawn_like_inputs', 'with_precision']


@by_value
def with_precision(model: Model, dtype: DTypeLike) -> Model:
  """The same model, computed in another floating-point type.

  Parameters stay as they are (float32 master copies), and so do their
  gradients; they and the inputs are cast on the way into the network, and
  outputs are cast back. Integers are left alone, and so are statistics that
  are held fixed: normalisation computes in float32 at least.

  Args:
    model: any model.
    dtype: of the computation, such as `jnp.bfloat16` on a GPU or TPU. On CPU
      it is slower than float32.

  Returns:
    A `Model` with the parameters of `model`.

  Raises:
    ValueError: if `dtype` is not a floating-point type.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models import mlp
    >>> model = with_precision(mlp([8], 1), jnp.bfloat16)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(params, jnp.zeros((1, 2))).dtype.name
    'float32'
  """
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f'dtype must be a floating-point type, got {dtype}')
  measure, freeze = model.measure, model.freeze

  def apply(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    applied = with_key(model.apply, key)
    outputs = applied(_cast(params, dtype), _cast(inputs, dtype))
    return _cast(outputs, _type_of(params, inputs))

  def measured(params: PyTree, inputs: PyTree) -> PyTree:
    assert measure is not None
    statistics = measure(_cast(params, dtype), _cast(inputs, dtype))
    return _cast(statistics, _type_of(params, inputs))

  def frozen(statistics: PyTree) -> Model:
    assert freeze is not None
    return with_precision(freeze(statistics), dtype)

  return Model(
    model.init,
    like(model.apply, apply),
    None if measure is None else measured,
    None if freeze is None else frozen,
  )


@by_value
def drawn_like_inputs(model: Model) -> Model:
  """The same model, whose parameters are drawn in the type of its inputs.

  Networks draw in float32; what stands on features in double precision should
  not be what loses it.

  Args:
    model: any model of floating-point inputs.

  Returns:
    A `Model` like it.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models import mlp
    >>> model = drawn_like_inputs(mlp([8], 1))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.bfloat16))
    >>> params['head']['kernel'].dtype.name
    'bfloat16'
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return _cast(model.init(key, inputs), _type_of(inputs))

  return model._replace(init=init)


def _cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
  return jax.tree.map(
    lambda leaf: (
      jnp.asarray(leaf).astype(dtype)
      if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
      else leaf
    ),
    tree,
  )


def _type_of(*trees: PyTree) -> jnp.dtype:
  """The widest floating-point type among the leaves; float32 without any."""
  types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(trees)]
  floats = [dtype for dtype in types if jnp.issubdtype(dtype, jnp.floating)]
  return jnp.result_type(*floats) if floats else jnp.dtype(jnp.float32)
