"""Networks on weights that stay as they are.

Pretrained weights, or some of them, become arrays that a model stands on: no
meta-parameters, and no constants of a program (`metajax.equality.Frozen`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import Model, PyTree
from metajax.equality import EqualPartial, Frozen, as_frozen, by_value
from metajax.models.modes import like, with_key
from metajax.models.tuning.kernels import kernel_dtype
from metajax.models.tuning.tunings import Tuning, tuned

__all__ = ['hold', 'on_weights', 'starting_from']


def hold(model: Model | Frozen, weights: PyTree) -> Frozen:
  """The model without some of its parameters, which nothing changes.

  Args:
    model: its parameters are dictionaries, as those of the library are.
    weights: the parameters to hold, where they stand: a part of the
      dictionaries, of any precision, or of such objects as `Quantised`.

  Returns:
    The same network; its parameters are the others, and the weights its
    arrays. It takes the place of a model in every method.

  Raises:
    ValueError: when it initialises, if there is something among the weights
      that the model does not have, has of another shape, or has as numbers of
      another kind, such as integers for a kernel (`quantise` makes those).

  Example:
    >>> import jax, jax.numpy as jnp, metajax
    >>> from metajax.models import mlp
    >>> network, inputs = mlp([8], 2), jnp.zeros((1, 3))
    >>> params = network.init(jax.random.key(0), inputs)
    >>> probe = hold(network, {'Dense_0': params['Dense_0']})
    >>> list(probe.init(jax.random.key(1), inputs))
    ['head']
    >>> learner = metajax.maml(probe, metajax.cross_entropy, 0.1, 1)
  """
  base = as_frozen(model)
  return Frozen(EqualPartial(_held, base.make), (base.arrays, weights))


def _held(make: Any, arrays: tuple[PyTree, PyTree]) -> Model:
  below, weights = arrays
  return _without_held(make(below), weights)


def _without_held(model: Model, weights: PyTree) -> Model:
  measure, freeze = model.measure, model.freeze

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    params = model.init(key, inputs)
    _check_weights(weights, params)
    return _without(params, weights)

  def apply(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    return with_key(model.apply, key)(_with(params, weights), inputs)

  def measured(params: PyTree, inputs: PyTree) -> PyTree:
    assert measure is not None
    return measure(_with(params, weights), inputs)

  def frozen(statistics: PyTree) -> Model:
    assert freeze is not None
    return _without_held(freeze(statistics), weights)

  return Model(
    init,
    like(model.apply, apply),
    None if measure is None else measured,
    None if freeze is None else frozen,
  )


@by_value
def starting_from(model: Model, weights: PyTree) -> Model:
  """The model, initialised with these weights where they are.

  Args:
    model: its parameters are dictionaries.
    weights: in the place of random ones; the rest, such as a new head, is drawn
      as ever. Inside of a compiled program they should be arguments, see
      `hold`.

  Returns:
    The same network; nothing of it is held.

  Raises:
    ValueError: when it initialises, as `hold` does.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.models import mlp
    >>> head = {'kernel': jnp.ones((8, 2)), 'bias': jnp.zeros(2)}
    >>> network = starting_from(mlp([8], 2), {'head': head})
    >>> params = network.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> float(params['head']['kernel'].sum())
    16.0
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    params = model.init(key, inputs)
    _check_weights(weights, params)
    return _with(params, weights)

  return model._replace(init=init)


def on_weights(
  model: Model | Frozen, weights: PyTree, tuning: Tuning
) -> Frozen:
  """A model on pretrained weights, which stay but for what a tuning adds.

  It is `hold(tuned(starting_from(model, weights), tuning), {'base': weights})`,
  whose weights are an argument throughout.

  Args:
    model: whose parameters the weights are, or some of them; it may stand on
      others already.
    weights: arrays of any precision.
    tuning: what adapts, such as `metajax.models.lora()`; it starts from the
      weights, so `only(partition.everything)` learns all of them.

  Returns:
    The network; its parameters are `{'tuning': ...}`, and under `'base'` what
    the weights do not have, such as a new head.

  Raises:
    ValueError: when it initialises, as `hold` and the tuning do.

  Example:
    >>> import jax, jax.numpy as jnp, metajax
    >>> from metajax.inner import partition
    >>> from metajax.models import mlp, only
    >>> inputs = jnp.zeros((1, 3))
    >>> before = mlp([8], 5).init(jax.random.key(0), inputs)
    >>> weights = {'Dense_0': before['Dense_0']}
    >>> model = on_weights(mlp([8], 2), weights, only(partition.biases))
    >>> params = model.init(jax.random.key(1), inputs)
    >>> sorted(params['base']), sorted(params['tuning'])
    (['head'], ['Dense_0/bias', 'head/bias'])
  """
  base = as_frozen(model)
  return Frozen(
    EqualPartial(_on_weights, base.make, tuning), (base.arrays, weights)
  )


def _on_weights(
  make: Any, tuning: Tuning, arrays: tuple[PyTree, PyTree]
) -> Model:
  below, weights = arrays
  started = tuned(starting_from(make(below), weights), tuning)
  return _without_held(started, {'base': weights})


def _with(params: PyTree, weights: PyTree) -> PyTree:
  """Parameters and weights in one tree; where both are, the weights."""
  if not isinstance(weights, dict) or not isinstance(params, dict):
    return weights
  return {
    **params,
    **{
      name: _with(params[name], own) if name in params else own
      for name, own in weights.items()
    },
  }


def _without(params: PyTree, weights: PyTree) -> PyTree:
  """The parameters that are no weights; no branch that is empty without."""
  left = {}
  for name, own in params.items():
    if name not in weights:
      left[name] = own
    elif isinstance(own, dict):
      left[name] = _without(own, weights[name])
      if not left[name]:
        del left[name]
  return left


def _check_weights(weights: PyTree, params: PyTree, path: str = '') -> None:
  """Refuses weights that a model does not have."""
  place = path.rstrip('/') or 'the root'
  if isinstance(weights, dict) != isinstance(params, dict):
    kinds = [
      'a dictionary' if isinstance(each, dict) else 'an array'
      for each in (weights, params)
    ]
    raise ValueError(
      f'the weights have {kinds[0]} at {place}, where the model has {kinds[1]}'
    )
  if not isinstance(weights, dict):
    # Arrays, or what stands for one, such as `Quantised`.
    found, wanted = (getattr(each, 'shape', ()) for each in (weights, params))
    if found != wanted:
      raise ValueError(
        f'{place} of the weights has shape {found}; the model has {wanted}'
        ' there'
      )
    found, wanted = (kernel_dtype(each) for each in (weights, params))
    if jnp.issubdtype(found, jnp.inexact) != jnp.issubdtype(
      wanted, jnp.inexact
    ):
      raise ValueError(
        f'{place} of the weights is {found}; the model has {wanted} there, so'
        ' give numbers of that kind (metajax.models.quantise makes kernels of 8'
        ' bits)'
      )
    return
  for name, own in weights.items():
    if name not in params:
      raise ValueError(
        f'the weights have {path}{name}, but the model has'
        f' {", ".join(params) or "nothing"} there'
      )
    _check_weights(own, params[name], f'{path}{name}/')
