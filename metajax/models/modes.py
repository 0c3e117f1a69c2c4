"""Networks that behave differently while they train: dropout and its kin.

The `apply` of such a model takes a third argument, `key`, which is None by
default. With a key it trains, and draws from it; without, it is tested. Inner
loops and meta-gradients give a key to whatever takes one, and tests do not.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from metajax.base import Apply, Model, PyTree
from metajax.equality import by_value

__all__ = [
  'at_test',
  'check_model',
  'like',
  'refuse_key',
  'takes_key',
  'training',
  'with_key',
  'without_key',
]


def takes_key(function: Callable[..., Any]) -> bool:
  """Whether a function of parameters and inputs has an argument `key`.

  Example:
    >>> takes_key(lambda params, inputs, key=None: inputs)
    True
    >>> takes_key(lambda params, inputs: inputs)
    False
  """
  try:
    return 'key' in inspect.signature(function).parameters
  except ValueError:  # what is not written in Python may not have one
    return False


def with_key(function: Callable[..., Any], key: jax.Array | None) -> Apply:
  """The function `(params, inputs)` with this key, if it takes one.

  Args:
    function: `(params, inputs)`, and possibly `key`.
    key: with which it trains; None at test.

  Returns:
    A function `(params, inputs)`: the given one where there is no key for it.
  """
  if key is None or not takes_key(function):
    return function

  def trained(params: PyTree, inputs: PyTree) -> PyTree:
    return function(params, inputs, key=key)

  return trained


def training(
  function: Callable[..., Any], key: jax.Array, *numbers: int | jax.Array
) -> Apply:
  """The function as it is in training, if it is any different.

  Args:
    function: `(params, inputs)`, and possibly `key`.
    key: to draw from.
    *numbers: of the inner step, for example; each is folded into the key.

  Returns:
    A function `(params, inputs)`: the given one where it takes no key.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> noisy = lambda params, inputs, key=None: (
    ...   inputs if key is None else jax.random.normal(key, inputs.shape))
    >>> trained = training(noisy, jax.random.key(0), 1)
    >>> bool(jnp.any(trained((), jnp.zeros(3)) == 0))
    False
  """
  if not takes_key(function):
    return function
  for number in numbers:
    key = jax.random.fold_in(key, number)
  return with_key(function, key)


@by_value
def at_test(model: Model) -> Model:
  """The model as it is at test, also while a method trains.

  Example:
    >>> import flax.linen as nn
    >>> from metajax.models import from_linen
    >>> takes_key(at_test(from_linen(nn.Dropout(0.5))).apply)
    False
  """
  freeze = model.freeze
  return model._replace(
    apply=without_key(model.apply),
    freeze=freeze and (lambda statistics: at_test(freeze(statistics))),
  )


def check_model(model: Any) -> None:
  """Refuses what is no model, such as a module that has yet to be wrapped.

  Raises:
    ValueError: if it is no `Model`.
  """
  if not isinstance(model, Model):
    raise ValueError(
      f'a model is a metajax.Model(init, apply); got {type(model).__name__}:'
      ' wrap modules of flax by metajax.models.from_linen or from_nnx'
    )


def refuse_key(model: Model) -> None:
  """Refuses a model that would be in training, for a method that has no way to.

  Raises:
    ValueError: if its `apply` takes a key, or if it is no model.
  """
  check_model(model)
  if takes_key(model.apply):
    raise ValueError(
      'this method calls a model alike in training and at test, but this one'
      ' takes a key to train with, so its dropout would never be on; give'
      ' metajax.models.at_test(model), or take a method that descends'
    )


def without_key(function: Callable[..., Any]) -> Apply:
  """The function at test, which takes no key."""

  def apply(params: PyTree, inputs: PyTree) -> PyTree:
    return function(params, inputs)

  return apply


def like(original: Callable[..., Any], function: Callable[..., Any]) -> Apply:
  """A function around another takes a key where that does.

  Args:
    original: `(params, inputs)`, and possibly `key`.
    function: `(params, inputs, key=None)`, which calls it.

  Returns:
    `function`, without the key if `original` takes none.
  """
  return function if takes_key(original) else without_key(function)
