"""Kernels of linear layers that are no plain arrays.

A layer computes `inputs @ kernel`. JAX hands the operation over to a kernel of
a type that it does not know, so what stands here can be where an array was: in
a parameter tree, under `jit`, `vmap` and `scan`, with leading axes of layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from metajax.base import PyTree, as_key

__all__ = ['LowRank', 'Quantised', 'dense', 'is_kernel', 'kernel_dtype']


@jax.tree_util.register_pytree_with_keys_class
class Quantised:
  """A kernel of 8-bit integers, with a factor for each of its columns.

  No method adapts any of it: integers are buffers, and so is the factor.

  Args:
    values: int8 `[..., in, out]`.
    scale: floating-point `[..., out]`.

  Example:
    >>> import jax.numpy as jnp
    >>> kernel = Quantised(jnp.array([[2], [3]], jnp.int8), jnp.array([0.5]))
    >>> (jnp.ones((1, 2)) @ kernel).tolist()
    [[2.5]]
  """

  __array_ufunc__ = None  # NumPy arrays too leave the product to it

  def __init__(self, values: Any, scale: Any) -> None:
    self.values, self.scale = values, scale

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the kernel that it stands for, `[..., in, out]`."""
    return jnp.shape(self.values)

  def __rmatmul__(self, inputs: Any) -> jax.Array:
    """Inputs `[..., in]` times the kernel; never is it made floating-point."""
    scale = jnp.asarray(self.scale)
    inputs = _floating(inputs, scale.dtype)
    outputs = inputs @ self.values.astype(inputs.dtype)
    # A factor that is rounded to the bits of the inputs is another one.
    wide = jnp.promote_types(inputs.dtype, scale.dtype)
    scaled = outputs.astype(wide) * _columns(scale, outputs).astype(wide)
    return scaled.astype(inputs.dtype)

  def __repr__(self) -> str:
    return f'Quantised({_shape(self.values)}; an array by materialised or fold)'

  def tree_flatten_with_keys(self) -> tuple[tuple, None]:
    """Its arrays; the name of the factor says that it is not learned."""
    key = jax.tree_util.GetAttrKey
    return (
      (key('values'), self.values),
      (key('constants/scale'), self.scale),
    ), None

  @classmethod
  def tree_unflatten(cls, _: None, children: tuple) -> 'Quantised':
    """From its arrays."""
    return cls(*children)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LowRank:
  r"""A kernel and a product of low rank beside it, which is never computed.

  .. math:: x W' = x W + s \, (x A) B

  With a change of magnitude :math:`\delta` it is that of DoRA, whose columns
  have a length of their own,

  .. math::
    W'_j = (\|W_j\| + \delta_j) \frac{W_j + s (A B)_j}{\|W_j + s (A B)_j\|}

  The length below is differentiated as all else is. The paper may hold it
  constant to save memory; here no matrix is kept for it, and a gradient that is
  that of no function would make a meta-gradient wrong.

  Args:
    kernel: an array `[..., in, out]`, or `Quantised`. It is cast to the type of
      the inputs.
    a: `[..., in, rank]`.
    b: `[..., rank, out]`.
    magnitude: the change :math:`\delta`, `[..., out]`, or None.
    dropout_key: the data of a key; with it inputs of `a` are dropped.
    scale: the factor :math:`s`.
    dropout: the share of inputs that is.

  References:
    Hu et al. (2021), LoRA, https://arxiv.org/abs/2106.09685
    Liu et al. (2024), DoRA, https://arxiv.org/abs/2402.09353

  Example:
    >>> import jax.numpy as jnp
    >>> kernel = LowRank(jnp.eye(2), jnp.ones((2, 1)), jnp.ones((1, 2)))
    >>> (jnp.array([[1.0, 2.0]]) @ kernel).tolist()
    [[4.0, 5.0]]
  """

  kernel: Any
  a: Any
  b: Any
  magnitude: Any = None
  dropout_key: Any = None
  scale: float = dataclasses.field(default=1.0, metadata={'static': True})
  dropout: float = dataclasses.field(default=0.0, metadata={'static': True})

  __array_ufunc__ = None  # NumPy arrays too leave the product to it

  def __rmatmul__(self, inputs: Any) -> jax.Array:
    """Inputs `[..., in]` times the kernel."""
    inputs = _floating(inputs, kernel_dtype(self.kernel))
    dtype = inputs.dtype
    kernel = self.kernel
    if not isinstance(kernel, Quantised):
      kernel = kernel.astype(dtype)
    kept = inputs
    if self.dropout_key is not None:
      kept = _dropped(self.dropout_key, inputs, self.dropout)
    low = (kept @ self.a.astype(dtype)) @ self.b.astype(dtype)
    outputs = inputs @ kernel + self.scale * low
    if self.magnitude is None:
      return outputs
    return outputs * _columns(self._factor(), outputs).astype(dtype)

  def _factor(self) -> jax.Array:
    """What a column of the sum is multiplied with, to have its length."""
    dtype = jnp.result_type(self.magnitude)
    kernel, a, b = (
      jnp.asarray(x, dtype) for x in (dense(self.kernel), self.a, self.b)
    )
    # Of squares of lengths: that of the kernel, and what the product adds. The
    # latter and the magnitude are exactly 0 before anything is learned, and so
    # the factor is 1, however it is compiled.
    square = jnp.sum(kernel * kernel, -2)
    transposed = jnp.swapaxes(a, -1, -2)
    both = 2 * (transposed @ kernel) + self.scale * ((transposed @ a) @ b)
    change = self.scale * jnp.sum(both * b, -2)
    # A column of zeros has no direction, and stays as it is.
    exists = (square > 0) & (square + change > 0)
    before = jnp.sqrt(jnp.where(exists, square, 1.0))
    after = jnp.sqrt(jnp.where(exists, square + change, 1.0))
    longer = self.magnitude - change / (before + after)
    return jnp.where(exists, 1 + longer / after, 1.0)

  def sum(self) -> jax.Array:
    """The kernel as one array `[..., in, out]`.

    Raises:
      ValueError: if inputs are dropped, which a sum does not have.
    """
    if self.dropout_key is not None:
      raise ValueError(
        'dropout of low-rank adapters is of the inputs of a, which a'
        ' materialised kernel does not have: give lora(dropout=0.0)'
      )
    dtype = jnp.promote_types(
      kernel_dtype(self.kernel), jnp.result_type(self.a)
    )
    kernel, a, b = (
      jnp.asarray(x, dtype) for x in (dense(self.kernel), self.a, self.b)
    )
    whole = kernel + self.scale * (a @ b)
    if self.magnitude is None:
      return whole
    return whole * jnp.expand_dims(self._factor().astype(dtype), -2)

  def __repr__(self) -> str:
    return (
      f'LowRank({_shape(self.kernel)}, rank {jnp.shape(self.a)[-1]}; an array'
      ' by materialised or fold)'
    )


def is_kernel(leaf: Any) -> bool:
  """Whether it is a kernel that is no plain array."""
  return isinstance(leaf, Quantised | LowRank)


def kernel_dtype(kernel: Any) -> jnp.dtype:
  """The floating-point type that a kernel has, or stands for."""
  if isinstance(kernel, LowRank):
    return kernel_dtype(kernel.kernel)
  if isinstance(kernel, Quantised):
    kernel = kernel.scale
  dtype: jnp.dtype = jnp.result_type(kernel)
  return dtype


def dense(kernel: Any) -> Any:
  """A kernel as one array `[..., in, out]`; an array as it is."""
  if isinstance(kernel, LowRank):
    return kernel.sum()
  if isinstance(kernel, Quantised):
    scale = jnp.expand_dims(jnp.asarray(kernel.scale), -2)
    return kernel.values.astype(scale.dtype) * scale
  return kernel


def _floating(inputs: Any, dtype: DTypeLike) -> jax.Array:
  """Inputs as an array; integers in the type of the kernel."""
  inputs = jnp.asarray(inputs)
  if jnp.issubdtype(inputs.dtype, jnp.inexact):
    return inputs
  return inputs.astype(dtype)


def _columns(vector: jax.Array, outputs: jax.Array) -> jax.Array:
  """A number a column, `[..., out]`, in front of outputs `[..., out]`."""
  missing = outputs.ndim - vector.ndim
  return jnp.expand_dims(vector, tuple(range(-1 - missing, -1)))


def _dropped(key: jax.Array, inputs: jax.Array, share: float) -> jax.Array:
  kept = jax.random.bernoulli(as_key(key), 1 - share, inputs.shape)
  return jnp.where(kept, inputs / (1 - share), jnp.zeros_like(inputs))


def _shape(kernel: PyTree) -> str:
  return repr(kernel) if is_kernel(kernel) else str(list(jnp.shape(kernel)))
