"""Functions that are equal where they were made alike.

JAX compiles once for functions and samplers that are equal, and Python takes
two functions for equal where they are one and the same. So what a factory
returns would be compiled anew each time that it is called, and never be freed.
Here equality is that of values: of the factory, and of what it was called with.

Arguments are compared by value where they have one: numbers (with their type),
text, arrays, lists, dictionaries, partial functions, whatever is hashable. All
others, plain functions among them, are equal where they are the same: name a
`lambda` once, outside of a loop. A factory is given copies of lists,
dictionaries and arrays; what is changed in other objects afterwards, and what a
function reads besides its arguments, is not seen.
"""

import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

__all__ = ['EqualPartial', 'by_value']

_Parameters = ParamSpec('_Parameters')
_Result = TypeVar('_Result')


class EqualPartial(functools.partial):
  """A `functools.partial` that is equal to any that was made alike.

  Inside a `jax.tree_util.Partial` it holds what is static of a sampler.

  Example:
    >>> EqualPartial(pow, 2) == EqualPartial(pow, 2)
    True
    >>> EqualPartial(pow, 2) == EqualPartial(pow, 2.0)
    False
  """

  def __eq__(self, other: object) -> bool:
    return isinstance(other, EqualPartial) and _value(self) == _value(other)

  def __hash__(self) -> int:
    return hash(_value(self))


def by_value(
  factory: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
  """A factory whose results are equal if it was called alike.

  Args:
    factory: returns a function, or a NamedTuple of functions such as a `Model`
      or a `MetaLearner`. What it returns must follow from its arguments alone.
      Other things that it returns stay as they are; give a sampler that holds
      arrays an `EqualPartial` inside of its `jax.tree_util.Partial`. NumPy
      arrays among the arguments are read at every call.

  Returns:
    The factory. Each function that it returns is equal to, and has the hash of,
    that of another call with equal arguments. They can be pickled if the
    arguments can, and the factory is found by its name.

  Example:
    >>> import jax.numpy as jnp
    >>> @by_value
    ... def power_loss(power):
    ...   return lambda outputs, targets: jnp.mean((outputs - targets) ** power)
    >>> power_loss(4) == power_loss(power=4), power_loss(4) == power_loss(2)
    (True, False)
  """
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    bound.arguments.update(_kept(bound.arguments))
    result: Any = factory(*bound.args, **bound.kwargs)
    origin = EqualPartial(make, *bound.args, **bound.kwargs)
    value = _value(origin)
    made: Any = _made(result, origin, value, None)
    if hasattr(result, '_fields'):
      parts = enumerate(result)
      made = type(result)(*(_made(x, origin, value, at) for at, x in parts))
    return made

  return make


class _Made:
  """A function of which is known how it was made."""

  __wrapped__: Callable[..., Any]

  def __init__(
    self,
    function: Callable[..., Any],
    origin: EqualPartial,
    value: Any,
    part: int | None,
  ) -> None:
    functools.update_wrapper(self, function)
    self._origin = origin
    self._part = part  # which of the functions that the factory returned
    self._value = value
    self._hash = hash((value, part))

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self.__wrapped__(*args, **kwargs)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, _Made) or self._part != other._part:
      return False
    # A tuple that is the same is equal, without a look at what is in it.
    return self._hash == other._hash and (
      self._value is other._value or self._value == other._value
    )

  def __hash__(self) -> int:
    return self._hash

  def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return _make_again, (self._origin, self._part)


def _made(
  part: Any, origin: EqualPartial, value: Any, index: int | None
) -> Any:
  if not _is_function(part):
    return part
  # Of factories that call each other the outermost counts: what it gives to the
  # others may be functions of its own, which are equal to none.
  function = part.__wrapped__ if isinstance(part, _Made) else part
  return _Made(function, origin, value, index)


def _is_function(part: Any) -> bool:
  """Whether it is no more than a function.

  What is called may be more: a `jax.tree_util.Partial` and other trees have
  arrays, which are arguments of what is compiled, and a sampler on the host
  has methods. These have an equality of their own.
  """
  if isinstance(part, EqualPartial) or not jax.tree_util.all_leaves([part]):
    return False
  jitted = hasattr(part, 'lower') and hasattr(part, 'trace')
  return jitted or isinstance(
    part,
    (types.FunctionType, types.MethodType, functools.partial, _Made),
  )


def _make_again(origin: EqualPartial, part: int | None) -> Any:
  result = origin()
  return result if part is None else result[part]


def _kept(each: Any) -> Any:
  """Copies of what could be changed in place: lists, dictionaries, arrays."""
  if type(each) in (list, tuple):
    return type(each)(map(_kept, each))
  if isinstance(each, dict):
    return {key: _kept(item) for key, item in each.items()}
  if type(each) is np.ndarray and each.flags.writeable:
    return each.copy()
  return each


def _value(each: Any) -> Any:
  """Something hashable that is equal where two arguments are."""
  if isinstance(each, float):
    return type(each), each.hex()  # tells 0.0 from -0.0, and knows a nan again
  if isinstance(each, complex):
    return type(each), each.real.hex(), each.imag.hex()
  if isinstance(each, np.generic):
    return type(each), each.dtype, each.tobytes()
  if isinstance(each, frozenset):
    return type(each), frozenset(map(_value, each))
  if isinstance(each, (list, tuple)):
    return type(each), *map(_value, each)
  if isinstance(each, dict):
    items = tuple((_value(key), _value(item)) for key, item in each.items())
    return type(each), items
  if isinstance(each, functools.partial):
    return type(each), *map(_value, (each.func, each.args, each.keywords))
  if type(each) is np.ndarray and not each.dtype.hasobject:
    return np.ndarray, each.shape, each.dtype, _digest(each)
  if isinstance(each, jax.Array):
    return _OfArray(each)
  try:
    hash(each)
  except TypeError:
    return _Same(each)
  if dataclasses.is_dataclass(each) and _is_value(each):
    fields = (getattr(each, x.name, None) for x in dataclasses.fields(each))
    return type(each), each, *map(_value, fields)
  return type(each), each


def _digest(array: np.ndarray | jax.Array) -> bytes:
  contiguous = np.ascontiguousarray(array)
  return hashlib.sha256(contiguous.view(np.uint8).data).digest()


def _is_value(each: Any) -> bool:
  """Whether a dataclass is equal by its fields, which may differ in type."""
  return not isinstance(each, type) and type(each).__eq__ is not object.__eq__


class _Same:
  """Equal where it holds the same object."""

  def __init__(self, held: Any) -> None:
    self.held = held

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Same) and self.held is other.held

  def __hash__(self) -> int:
    return id(self.held)


class _OfArray:
  """An array on a device, read only where another could be equal to it."""

  def __init__(self, array: jax.Array) -> None:
    self.array = array
    self._traced = isinstance(array, jax.core.Tracer)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, _OfArray):
      return False
    if self.array is other.array:
      return True
    if not self._readable() or not other._readable():
      return False
    return self._kind() == other._kind() and self._content == other._content

  def __hash__(self) -> int:
    return hash((self.array.shape, self.array.dtype))

  def _readable(self) -> bool:
    return (
      not self._traced
      and not jax.dtypes.issubdtype(self.array.dtype, jax.dtypes.prng_key)
      and not self.array.is_deleted()
      and self.array.is_fully_addressable
    )

  def _kind(self) -> tuple[Any, ...]:
    array = self.array
    return array.shape, array.dtype, array.aval.weak_type, array.sharding

  @functools.cached_property
  def _content(self) -> bytes:
    return _digest(self.array)
