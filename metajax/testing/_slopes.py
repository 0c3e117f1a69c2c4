"""Slopes of the reported loss, against central differences."""

from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax.base import (
  MetaLearner,
  PyTree,
  Task,
)
from metajax.testing._comparing import (
  require,
)
from metajax.testing.trials import Trial, in_double, is_number

__all__ = [
  'Slopes',
  'check_differences',
  'slopes',
]

_STEP = 1e-5  # in double precision the error of a slope is of order 1e-10
_TINY = 1e-6  # what is smaller is nothing
_SIDE = 4  # of an image
_FEATURES = 5  # where the head has no size; not the number of classes

_Parameters = ParamSpec('_Parameters')
_Result = TypeVar('_Result')


class Slopes(NamedTuple):
  """Holds those of the mean query loss, along the same random directions."""

  by_gradient: jax.Array
  by_differences: jax.Array


@in_double
def slopes(
  learner: MetaLearner,
  meta_params: PyTree,
  tasks: Task,
  *,
  key: jax.Array | None = None,
  number: int = 4,
) -> Slopes:
  r"""Slopes of the loss that `grad` reports, by its gradient and without it.

  .. math::
    d^T \nabla L(\phi) \qquad \text{and} \qquad
    \frac{L(\phi + h d) - L(\phi - h d)}{2 h}

  Args:
    learner: any.
    meta_params: in double precision; what is no floating-point number in them
      is held fixed.
    tasks: leaves `[tasks, examples, ...]`.
    key: of the meta-gradient.
    number: of directions.

  Returns:
    Both, `[number]`.

  Example:
    >>> import metajax, numpy as np
    >>> from metajax.testing import make_trial, small_network
    >>> learner = metajax.protonet(small_network(), metajax.cross_entropy, 3)
    >>> trial = make_trial(learner)
    >>> along = slopes(learner, trial.meta_params, trial.tasks)
    >>> np.allclose(along.by_gradient, along.by_differences)
    True
  """
  leaves, structure = jax.tree.flatten(meta_params)
  numbers = [is_number(leaf) for leaf in leaves]

  def only_numbers(tree: PyTree) -> list[jax.Array]:
    pairs = zip(jax.tree.leaves(tree), numbers, strict=True)
    return [leaf for leaf, is_number in pairs if is_number]

  flat, unravel = ravel_pytree(only_numbers(meta_params))

  def rebuilt(flat: jax.Array) -> PyTree:
    moved = iter(unravel(flat))
    return jax.tree.unflatten(
      structure,
      [
        next(moved) if is_number else leaf
        for leaf, is_number in zip(leaves, numbers, strict=True)
      ],
    )

  key = jax.random.key(2) if key is None else key
  directions = jax.random.normal(
    jax.random.key(3), (number, len(flat)), flat.dtype
  )

  @jax.jit
  def both(flat: jax.Array) -> Slopes:
    gradient, _ = learner.grad(key, rebuilt(flat), tasks)
    moves = _STEP * jnp.concatenate([directions, -directions])
    losses = jax.lax.map(
      lambda flat: learner.grad(key, rebuilt(flat), tasks)[1]['loss'],
      flat[None] + moves,
    )
    ahead, behind = jnp.split(losses, 2)
    return Slopes(
      directions @ ravel_pytree(only_numbers(gradient))[0],
      (ahead - behind) / (2 * _STEP),
    )

  return both(flat)


@in_double
def check_differences(trial: Trial) -> None:
  """Whether the meta-gradient is the derivative of the loss that is reported.

  Raises:
    AssertionError: has both slopes along a random direction.
  """
  along = slopes(
    trial.learner, trial.meta_params, trial.trained_on, key=trial.key
  )
  for found, expected in zip(*along, strict=True):
    require(
      bool(abs(found - expected) <= 1e-9 + 1e-5 * abs(expected)),
      'the meta-gradient is not the derivative of the loss that is reported:'
      f' along a random direction it says {found:.8g}, and central differences'
      f' say {expected:.8g}. If it is an approximation, or of a loss with more'
      ' terms, exact=False says so',
    )
