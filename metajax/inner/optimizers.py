r"""Optimisers of an inner loop, to be differentiated at a stationary point too.

Where the gradient is exactly 0 (a parameter that nothing depends on yet, a dead
unit, a start at the minimum) the derivative of its norm, or of the root of its
second moment, is not a number, and neither is the meta-gradient then. The
optimisers here compute what those of optax do, and have a derivative there.
`descend` makes the same of any optimiser, see `with_finite_slopes`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.base import PyTree
from metajax.equality import by_value
from metajax.inner import _finite_slopes

__all__ = [
  'adam',
  'check_optimizer',
  'clip_by_global_norm',
  'with_finite_slopes',
]


def check_optimizer(optimizer: Any) -> None:
  """Refuses what is no optimiser, such as what makes one.

  Raises:
    ValueError: if it has no `init` and `update`.
  """
  if not (hasattr(optimizer, 'init') and hasattr(optimizer, 'update')):
    raise ValueError(
      'optimizer must be an optimiser of optax, such as optax.sgd(0.1); got'
      f' {getattr(optimizer, "__name__", repr(optimizer))}'
    )


@by_value
def with_finite_slopes(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """The same optimiser, of which a derivative that is not finite counts as 0.

  That is meant of each elementary operation of an update: the norm of a
  gradient that is 0 does not change with it, so that nothing is clipped there,
  and what a rule of the optimiser does not choose has no derivative. Everywhere
  else derivatives are what they were.

  Args:
    optimizer: any optax transformation.

  Returns:
    One that computes the same updates.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> clip = with_finite_slopes(optax.clip_by_block_rms(1.0))
    >>> clipped = lambda x: clip.update(x, clip.init(x))[0]
    >>> jax.jacobian(clipped)(jnp.zeros(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def update(
    gradient: PyTree,
    state: PyTree,
    params: PyTree | None = None,
    **extra: PyTree,
  ) -> tuple[PyTree, PyTree]:
    functions = {name: each for name, each in extra.items() if callable(each)}
    values = {name: each for name, each in extra.items() if not callable(each)}

    def step(
      gradient: PyTree, state: PyTree, params: PyTree, values: PyTree
    ) -> tuple[PyTree, PyTree]:
      return optimizer.update(gradient, state, params, **values, **functions)

    finite = _finite_slopes.with_finite_slopes(step)
    result: tuple[PyTree, PyTree] = finite(gradient, state, params, values)
    return result

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


@by_value
def clip_by_global_norm(
  max_norm: float | jax.Array,
) -> optax.GradientTransformationExtraArgs:
  r"""Clips a gradient by the norm of all its leaves together.

  .. math:: g \mapsto g \min(1, c / \lVert g \rVert)

  It is `optax.clip_by_global_norm`, with a derivative where the norm is 0: that
  of not clipping, the identity.

  Args:
    max_norm: c, above 0.

  Returns:
    The optax transformation.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> inner_optimizer = lambda rate: optax.chain(
    ...   clip_by_global_norm(10.0), optax.sgd(rate))
    >>> clip = clip_by_global_norm(1.0)
    >>> clipped, _ = clip.update(jnp.array([3.0, 4.0]), clip.init(jnp.zeros(2)))
    >>> [round(float(each), 4) for each in clipped]
    [0.6, 0.8]
  """
  return with_finite_slopes(optax.clip_by_global_norm(max_norm))


@by_value
def adam(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  eps_root: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""Adam whose updates can be differentiated, also where a gradient is 0.

  .. math::
    m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
    u_t = -\alpha \frac{m_t / (1 - \beta_1^t)}
      {\sqrt{v_t / (1 - \beta_2^t) + \epsilon_r} + \epsilon}

  It is `optax.adam`, but for the derivative of an update where :math:`v_t = 0`,
  that is where all gradients so far were 0. There it is 0: an update of Adam is
  nearly a sign, which does not change but for one jump, and the slope of that,
  :math:`\alpha / \epsilon`, would take a meta-gradient out of all bounds within
  a few steps.

  Args:
    learning_rate: alpha, or a schedule of it.
    b1: decay of the mean of gradients.
    b2: decay of the mean of their squares.
    eps: added to the root.
    eps_root: added inside of the root.

  Returns:
    The optax transformation.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> from metajax.inner.descend import descend
    >>> def last(start):  # it starts at the minimum, and stays there
    ...   loss = lambda x, step: jnp.sum(x**2)
    ...   return jnp.sum(descend(loss, start, adam(0.1), 5)[0])
    >>> jax.grad(last)(jnp.zeros(2)).tolist()
    [1.0, 1.0]
  """
  moments = optax.scale_by_adam(b1, b2, eps, eps_root)

  def update(
    gradient: PyTree, state: PyTree, params: PyTree | None = None
  ) -> tuple[PyTree, PyTree]:
    updates, state = moments.update(gradient, state, params)
    assert isinstance(state, optax.ScaleByAdamState)
    held = jax.tree.map(
      lambda update, square: jnp.where(
        square == 0, jax.lax.stop_gradient(update), update
      ),
      updates,
      state.nu,
    )
    return held, state

  return with_finite_slopes(
    optax.chain(
      optax.GradientTransformation(moments.init, update),
      optax.scale_by_learning_rate(learning_rate),
    )
  )
