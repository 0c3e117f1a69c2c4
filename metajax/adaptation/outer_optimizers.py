"""Outer optimisers that do not treat all meta-parameters alike.

Some are learned by an optimiser, and some are to stay as they are: buffers, and
layers that were trained before. Others are state: moments of an inner
optimiser, counts of steps and running averages are carried from one outer step
to the next beside the weights. Where the meta-gradient is what they are to
lose, a step of plain descent with the rate 1 leaves what they are to be.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.base import PyTree
from metajax.inner import partition

__all__ = ['freeze', 'freeze_buffers', 'outer_optimizer']


def outer_optimizer(
  optimizer: optax.GradientTransformation, labels: PyTree
) -> optax.GradientTransformationExtraArgs:
  """Applies `optimizer` to the weights, and lets the state beside them persist.

  Methods that keep state export their `LABELS`, as
  `metajax.algorithms.reptile` does.

  Args:
    optimizer: for the weights; buffers among them stay as they are.
    labels: which of the meta-parameters are `'weights'`, and which `'state'`,
      from which their gradient is subtracted as it is.

  Returns:
    An optimiser of the meta-parameters that `labels` is a prefix of.

  Raises:
    ValueError: if there are other labels.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> optimizer = outer_optimizer(optax.sgd(0.5), ('weights', 'state'))
    >>> params, gradient = (jnp.ones(()), jnp.int32(3)), (1.0, -1.0)
    >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    >>> [float(update) for update in updates]
    [-0.5, 1.0]
  """
  others = {str(label) for label in jax.tree.leaves(labels)}
  others -= {'weights', 'state'}
  if others:
    raise ValueError(
      "labels must be 'weights' or 'state', got"
      f' {", ".join(map(repr, sorted(others)))}'
    )
  return freeze_buffers(
    optax.partition(
      {
        'weights': optimizer,
        'state': optax.chain(optax.sgd(1.0), _whole_updates()),
      },
      labels,
    )
  )


def freeze(
  optimizer: optax.GradientTransformation, select: partition.Select
) -> optax.GradientTransformationExtraArgs:
  """Applies `optimizer` to all parameters but those that are to stay.

  The optimiser does not see them: they have no moments, do not decay, and do
  not count where it clips by the norm of the whole gradient.

  Args:
    optimizer: for the others, without buffers (see `freeze_buffers`).
    select: a predicate on slash-separated paths, such as
      `metajax.inner.partition.body`: the parameters that stay.

  Returns:
    An optimiser of all parameters.

  Raises:
    ValueError: if `select` is no function; when it is used, if it selects none
      of them, or all.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> optimizer = freeze(optax.sgd(0.5), lambda path: path == 'body')
    >>> params = {'body': jnp.ones(()), 'head': jnp.ones(())}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> {name: float(update) for name, update in updates.items()}
    {'body': 0.0, 'head': -0.5}
  """
  if not callable(select):
    raise ValueError(
      'select is a function of the path of a parameter; got'
      f' {select!r}: give lambda path: ...'
    )

  def stays(params: PyTree) -> PyTree:
    still = partition.map_with_path(lambda path, leaf: select(path), params)
    if not any(jax.tree.leaves(still)):
      partition.refuse_nothing(select, partition.paths(params))
    if all(jax.tree.leaves(still)):
      name = getattr(select, '__name__', select)
      raise ValueError(
        f'{name} selects all of the parameters, and leaves none to train:'
        f' {partition.list_paths(partition.paths(params))}'
      )
    return still

  return _without(freeze_buffers(optimizer), stays)


def freeze_buffers(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Applies `optimizer` to what is learned, and leaves buffers as they are.

  Training does so with every optimiser. Buffers are what
  `metajax.inner.partition` says, but for integers that the optimiser moves by
  whole numbers, as `outer_optimizer` does with counts of steps.

  Args:
    optimizer: any.

  Returns:
    An optimiser of all parameters.

  Raises:
    ValueError: when it is used, if a parameter is no number, or if one counts
      steps and the optimiser does not.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> optimizer = freeze_buffers(optax.adamw(0.1, weight_decay=0.5))
    >>> params = {'order': jnp.arange(3), 'scale': jnp.ones(())}
    >>> zeros = {'order': jnp.zeros(3), 'scale': jnp.zeros(())}
    >>> updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    >>> updates['order'].tolist(), round(float(updates['scale']), 3)
    ([0, 0, 0], -0.05)
  """

  def stays(params: PyTree) -> PyTree:
    moved = _moved_integers(optimizer, params)

    def is_still(path: str, leaf: jax.Array) -> bool:
      if partition.is_learned(path, leaf) or path in moved:
        return False
      if partition.is_count(path, leaf):
        raise ValueError(
          f'{path} counts steps, which this optimiser does not; train with'
          ' metajax.outer_optimizer(optimizer, labels), or give it another name'
          ' if it is a buffer that is to stay as it is'
        )
      return True

    return partition.map_with_path(is_still, params)

  return _without(optimizer, stays)


def _moved_integers(
  optimizer: optax.GradientTransformation, params: PyTree
) -> set[str]:
  """Paths of the integers for which an optimiser has integers as updates."""

  def shown(path: str, leaf: jax.Array) -> jax.Array | None:
    is_integer = jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    constant = partition.CONSTANTS in path.split('/')
    learned = partition.is_learned(path, leaf)
    return leaf if learned or (is_integer and not constant) else None

  visible = partition.map_with_path(shown, params)
  moved: set[str] = set()

  def look(path: str, update: jax.Array) -> None:
    if jnp.issubdtype(update.dtype, jnp.integer):
      moved.add(path)

  if jax.tree.leaves(partition.split_learned(visible)[1]):
    try:
      updates = jax.eval_shape(
        lambda params: optimizer.update(
          jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf)), params),
          optimizer.init(params),
          params,
        )[0],
        visible,
      )
    except Exception:  # it was not made for integers, and is to see none
      return moved
    partition.map_with_path(look, updates)
  return moved


def _without(
  optimizer: optax.GradientTransformation, stays: Callable[[PyTree], PyTree]
) -> optax.GradientTransformationExtraArgs:
  """Hides the parameters that `stays` picks, and updates the others."""
  optimizer = optax.with_extra_args_support(optimizer)

  def seen(still: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(
      lambda still, leaf: None if still else leaf, still, tree
    )

  def init(params: PyTree) -> optax.OptState:
    return optimizer.init(seen(stays(params), params))

  def update(
    gradient: PyTree,
    state: optax.OptState,
    params: PyTree | None = None,
    **others: Any,
  ) -> tuple[PyTree, optax.OptState]:
    if params is None:
      raise ValueError(
        'this optimiser has to see the parameters: call'
        ' update(gradient, state, params)'
      )
    still = stays(params)
    updates, state = optimizer.update(
      seen(still, gradient), state, seen(still, params), **others
    )
    zeros = jax.tree.map(
      lambda still, leaf: jnp.zeros_like(leaf) if still else None, still, params
    )
    return partition.merge(updates, zeros), state

  return optax.GradientTransformationExtraArgs(init, update)


def _whole_updates() -> optax.GradientTransformation:
  """Rounds the updates of integers, such as Adam's count of steps.

  A mean over tasks is a whole number to rounding only, and what is a little
  less than 1 would be cut off to 0.
  """

  def whole(update: jax.Array, param: jax.Array) -> jax.Array:
    if jnp.issubdtype(jnp.result_type(param), jnp.integer):
      return jnp.round(update).astype(jnp.result_type(param))
    return update

  return optax.stateless(
    lambda updates, params: jax.tree.map(whole, updates, params)
  )
