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

Large arrays are no such arguments: what stands on them is `Frozen`, a tree.
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

__all__ = ['EqualPartial', 'Frozen', 'as_frozen', 'by_value']

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
    arguments can, and the factory is found by its name. Where an argument is
    `Frozen`, or one in a list, a tuple or a dictionary, so is what it returns.

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
    result: Any = _on_frozen(make, bound)
    if result is not None:
      return result
    result = factory(*bound.args, **bound.kwargs)
    origin = EqualPartial(make, *bound.args, **bound.kwargs)
    value = _value(origin)
    made: Any = _made(result, origin, value, None)
    if hasattr(result, '_fields'):
      parts = enumerate(result)
      made = type(result)(*(_made(x, origin, value, at) for at, x in parts))
    return made

  return make


@jax.tree_util.register_pytree_with_keys_class
class Frozen:
  """A model or a learner that stands on arrays which nothing changes.

  Such as a network whose pretrained weights no method moves. They are neither
  meta-parameters, which have gradients, moments and checkpoints, nor part of
  the functions, which a compiled program would hold as constants: this is a
  tree whose leaves they are, and so an argument of whatever is compiled.

  Factories of models and learners take it in the place of a model, and return
  another that stands on the same arrays; `make_train_step`, `evaluate` and
  `check` take it in the place of a learner. Its attributes are those of what it
  stands for. In a `jax.jit` of your own, give it as an argument.

  Args:
    make: `(arrays) -> model`, or a learner, or a function; static, so wrap it
      in an `EqualPartial` where it is made anew.
    arrays: any tree of arrays, or of their shapes for programs that are only
      looked at.

  Example:
    >>> import jax, jax.numpy as jnp, metajax
    >>> def on(scale):
    ...   return metajax.Model(
    ...     init=lambda key, inputs: {'head': jnp.zeros((1, 1))},
    ...     apply=lambda params, inputs: inputs * scale * params['head'],
    ...   )
    >>> model = Frozen(on, jnp.full((1, 1), 2.0))
    >>> learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 1)
    >>> apply = jax.jit(lambda model, *arguments: model.apply(*arguments))
    >>> apply(model, {'head': jnp.ones((1, 1))}, jnp.ones((1, 1))).tolist()
    [[2.0]]
  """

  def __init__(self, make: Callable[[Any], Any], arrays: Any) -> None:
    self.make = make
    self.arrays = arrays

  def made(self) -> Any:
    """The model or learner itself, which closes over the arrays."""
    return self.make(self.arrays)

  def then(self, function: Callable[[Any], Any]) -> 'Frozen':
    """What a function makes of it, on the same arrays."""
    return Frozen(EqualPartial(_then, self.make, function), self.arrays)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self.made()(*args, **kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith('_'):
      raise AttributeError(name)
    return getattr(self.made(), name)

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    """Its arrays."""
    return ((jax.tree_util.GetAttrKey('arrays'), self.arrays),), self.make

  @classmethod
  def tree_unflatten(cls, make: Any, children: Any) -> 'Frozen':
    """From its arrays."""
    return cls(make, *children)


def as_frozen(learner: Any) -> Frozen:
  """Whatever has been made, as a tree that can be an argument.

  Example:
    >>> as_frozen(len).made() is len
    True
  """
  if isinstance(learner, Frozen):
    return learner
  return Frozen(EqualPartial(_itself, learner), ())


def _then(
  make: Callable[[Any], Any], function: Callable[[Any], Any], arrays: Any
) -> Any:
  return function(make(arrays))


def _itself(learner: Any, arrays: Any) -> Any:
  del arrays  # it has none
  return learner


def _on_frozen(
  make: Callable[..., Any], bound: inspect.BoundArguments
) -> Frozen | None:
  """What a factory returns for arguments some of which are frozen."""
  leaves, structure = jax.tree.flatten(
    (bound.args, bound.kwargs), is_leaf=lambda leaf: isinstance(leaf, Frozen)
  )
  frozen = {
    at: leaf for at, leaf in enumerate(leaves) if isinstance(leaf, Frozen)
  }
  if not frozen:
    return None
  static = [None if at in frozen else leaf for at, leaf in enumerate(leaves)]
  makes = {at: leaf.make for at, leaf in frozen.items()}
  return Frozen(
    EqualPartial(_make_on, make, structure, static, makes),
    tuple(leaf.arrays for leaf in frozen.values()),
  )


def _make_on(
  make: Callable[..., Any],
  structure: Any,
  static: list[Any],
  makes: dict[int, Callable[[Any], Any]],
  arrays: tuple[Any, ...],
) -> Any:
  leaves = [*static]
  for (at, make_one), own in zip(makes.items(), arrays, strict=True):
    leaves[at] = make_one(own)
  args, kwargs = jax.tree.unflatten(structure, leaves)
  return make(*args, **kwargs)


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
