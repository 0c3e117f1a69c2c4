"""Modules of other libraries as `metajax.Model`s."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, traverse_util

from metajax.base import Apply, Model, PyTree
from metajax.equality import by_value
from metajax.models.modes import like, with_key, without_key

__all__ = ['check_statistics', 'from_linen', 'from_tree', 'network']

# Collections of flax that hold the statistics of normalisation: of the layers
# of metajax, and of those of flax.
_STATISTICS = ('statistics', 'batch_stats')

Mode = Callable[[bool], dict[str, Any]]
# Arguments of a call that tell whether it trains.
_MODES = ('train', 'training', 'is_training', 'is_train', 'deterministic')


@by_value
def from_linen(module: nn.Module, mode: Mode | None = None) -> Model:
  """Wraps a module of flax linen.

  What its variables become follows from their collection. `params` are the
  parameters. Statistics of batch normalisation are those of the batch at hand,
  in training and at test; `measure` gathers them and `freeze` holds them, so
  that running averages and their momentum are not used. All other collections
  are constants, which stand beside the parameters and are not learned.

  Args:
    module: of flax. It may draw random numbers in training, by dropout for
      example.
    mode: from whether it trains to the keyword arguments of a call, such as
      `lambda training: {'dropout_rate': 0.5 * training}`. By default it is
      told by an argument `train`, `training`, `is_training`, `is_train` or
      `deterministic`, where a call has one.

  Returns:
    A `Model` whose parameters are the contents of `params`; of a module with
    constants, a dictionary of `params` and `constants`.

  Raises:
    ValueError: when it is used, if the module changes its variables, draws
      random numbers at test, or keeps other statistics than means and
      variances.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> model = from_linen(nn.Dense(3))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(params, jnp.zeros((5, 2))).shape
    (5, 3)
  """
  if not isinstance(module, nn.Module):
    raise ValueError(
      'from_linen wants a module of flax linen, such as Dense(3); got'
      f' {getattr(module, "__name__", type(module).__name__)}'
    )
  mode = mode or _mode_of(module)

  def arguments(training: bool) -> dict[str, Any]:
    return mode(training) if mode else {}

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    with _batch_norm(fixed=False):
      variables = dict(module.init({'params': key}, inputs, **arguments(False)))
    params = variables.pop('params', {})
    statistics = [variables.pop(name, {}) for name in _STATISTICS]
    _check_statistics(statistics[1])
    if not variables:
      return params
    return {'params': params, 'constants': variables}

  def run(
    params: PyTree,
    inputs: PyTree,
    key: jax.Array | None = None,
    statistics: PyTree | None = None,
    mutable: tuple[str, ...] = ('batch_stats',),
  ) -> tuple[PyTree, PyTree]:
    variables = {'params': params}
    if set(params) == {'params', 'constants'}:
      variables = {**params['constants'], 'params': params['params']}
    if statistics is not None:
      variables |= dict.fromkeys(_STATISTICS, statistics)
      mutable = ()
    with _batch_norm(fixed=statistics is not None), _own_words(key):
      return module.apply(
        variables,
        inputs,
        rngs=_streams(key),
        mutable=list(mutable),
        **arguments(key is not None),
      )

  def with_statistics(statistics: PyTree | None) -> Apply:
    def apply(
      params: PyTree, inputs: PyTree, key: jax.Array | None = None
    ) -> PyTree:
      return run(params, inputs, key, statistics)[0]

    return apply if mode else without_key(apply)

  def measure(params: PyTree, inputs: PyTree) -> PyTree:
    _, measured = run(params, inputs, mutable=_STATISTICS)
    flat: dict[tuple, jax.Array] = {}
    for name in _STATISTICS:
      flat |= traverse_util.flatten_dict(measured.get(name, {}))
    return traverse_util.unflatten_dict(flat)

  def freeze(statistics: PyTree) -> Model:
    return Model(init, with_statistics(statistics))

  return Model(init, with_statistics(None), measure, freeze)


def _streams(key: jax.Array | None) -> dict[str, jax.Array] | None:
  """Keys to draw from; flax takes `params` for streams without their own."""
  if key is None:
    return None
  return {'dropout': key, 'params': jax.random.fold_in(key, 1)}


def _mode_of(module: nn.Module) -> Mode | None:
  """How a call tells a module that it trains, by the names that are common."""
  arguments = inspect.signature(type(module).__call__).parameters
  usual = {field.name: field.default for field in dataclasses.fields(module)}
  for name, argument in arguments.items():
    if argument.default not in (None, True, False, inspect.Parameter.empty):
      continue  # such as a number of training steps
    # An attribute that is given decides by itself; a default is not given.
    if getattr(module, name, None) not in (None, usual.get(name)):
      continue
    if name in _MODES:
      return partial(_argument, name)
    if any(part in name for part in ('train', 'eval', 'infer', 'determin')):
      raise ValueError(
        f'from_linen: a call of this module has an argument {name}, which may'
        ' tell it that it trains; say so by mode, such as'
        f" mode=lambda training: {{'{name}': training}}"
      )
  return None


def _argument(name: str, training: bool) -> dict[str, bool]:
  return {name: training != (name == 'deterministic')}


@contextmanager
def _batch_norm(fixed: bool) -> Iterator[None]:
  """Batch normalisation of flax, by fixed statistics or by those at hand.

  Whatever a module says itself. Without momentum its averages are exactly the
  statistics of the batch.
  """

  def intercept(
    call: Callable[..., Any], args: tuple, kwargs: dict, context: Any
  ) -> Any:
    layer = context.module
    if not isinstance(layer, nn.BatchNorm) or context.method_name != '__call__':
      return call(*args, **kwargs)
    before = (layer.use_running_average, layer.momentum)
    _set(layer, None, 0.0)
    try:
      return call(args[0], **{**kwargs, 'use_running_average': fixed})
    finally:
      _set(layer, *before)

  with nn.intercept_methods(intercept):
    yield


def _set(layer: nn.BatchNorm, average: bool | None, momentum: float) -> None:
  # A bound module is frozen; this one lives for the length of a call.
  object.__setattr__(layer, 'use_running_average', average)
  object.__setattr__(layer, 'momentum', momentum)


@contextmanager
def _own_words(key: jax.Array | None) -> Iterator[None]:
  """Says what a module must not do."""
  try:
    yield
  except errors.ModifyScopeVariableError as error:
    raise ValueError(
      'from_linen: a model is a function of its parameters and inputs, but this'
      f' module changes its variables when it is called: {_line(error)}'
    ) from error
  except errors.InvalidRngError as error:
    if key is not None:
      raise
    raise ValueError(
      'from_linen: this module draws random numbers at test too; tell it by'
      " mode when it trains, such as mode=lambda training: {'deterministic':"
      f' not training}}: {_line(error)}'
    ) from error


def _line(error: Exception) -> str:
  return str(error).split(' (https://')[0].split('\n')[0]


def _check_statistics(statistics: PyTree) -> None:
  names = [
    '/'.join(map(str, path)) for path in traverse_util.flatten_dict(statistics)
  ]
  check_statistics('from_linen', names)


def check_statistics(what: str, names: list[str]) -> None:
  """Refuses statistics that are not those of batch normalisation."""
  others = [x for x in names if x.split('/')[-1] not in ('mean', 'var')]
  if others:
    raise ValueError(
      f'{what}: of statistics a model has the means and variances of batch'
      f' normalisation; this module also keeps {", ".join(others)}'
    )


@by_value
def network(module: nn.Module) -> Model:
  """A network of this library: `from_linen`, in double precision if inputs are.

  Args:
    module: whose floating-point parameters are learned.

  Returns:
    A `Model` whose parameters are float64 for inputs of that type, and float32
    for all others.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> params = network(nn.Dense(1)).init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> params['kernel'].dtype.name
    'float32'
  """
  model = from_linen(module)

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    params = model.init(key, inputs)
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(inputs)]
    is_double = (
      jax.config.read('jax_enable_x64') and jnp.dtype('float64') in types
    )
    dtype = jnp.float64 if is_double else jnp.float32
    # Flax draws in float32 by default, and its initialisers in what
    # jax_enable_x64 says.
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

  return model._replace(init=init)


def _call(module: Callable[..., Any], inputs: PyTree) -> PyTree:
  return module(inputs)


@by_value
def from_tree(
  make: Callable[[jax.Array], Any], apply: Callable[..., PyTree] = _call
) -> Model:
  """Wraps a module that is a tree of its own parameters, as equinox has them.

  Its arrays are the parameters. All else that is in it, such as activation
  functions, sizes and rates, is a part of the model.

  Args:
    make: builds the module from a key.
    apply: `(module, inputs) -> outputs`, for a batch, such as `lambda module,
      inputs: jax.vmap(module)(inputs)`. It may take a `key` too, with which it
      trains (see `metajax.models.modes`).

  Returns:
    A `Model` whose parameters are the module, with None for what is no array.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = from_tree(
    ...   lambda key: {'scale': jax.random.normal(key), 'after': jnp.tanh},
    ...   lambda module, inputs: module['after'](module['scale'] * inputs))
    >>> params = model.init(jax.random.key(0), jnp.ones(3))
    >>> model.apply(params, jnp.ones(3)).shape
    (3,)
  """
  kept = []  # `eval_shape` itself returns nothing but arrays

  def outline(key: jax.Array) -> PyTree:
    arrays, rest = _split(make(key))
    kept.append(rest)
    return arrays

  jax.eval_shape(outline, jax.random.key(0))
  (rest,) = kept

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    del inputs  # the module knows its shapes
    return _split(make(key))[0]

  def whole(params: PyTree) -> Any:
    return jax.tree.map(
      lambda array, other: other if array is None else array,
      params,
      rest,
      is_leaf=lambda leaf: leaf is None,
    )

  def applied(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    return with_key(apply, key)(whole(params), inputs)

  return Model(init, like(apply, applied))


def _split(module: Any) -> tuple[PyTree, PyTree]:
  """The arrays of a tree, and the rest."""

  def part(arrays: bool) -> PyTree:
    return jax.tree.map(
      lambda leaf: (
        leaf if isinstance(leaf, jax.Array | np.ndarray) == arrays else None
      ),
      module,
    )

  return part(True), part(False)
