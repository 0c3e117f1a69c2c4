r"""Meta-gradients of unrolls: of whole ones, and of parts that go on.

=============================  =======  =========  ==========================
estimator                      biased   variance   an outer step costs
=============================  =======  =========  ==========================
`unrolled`                     no       low [1]_   a whole unroll, and back
`evolved`                      no [2]_  high       pairs of whole unrolls
`truncated`                    yes      low        a part of one, and back
`persistent(corrected=False)`  yes      middle     a pair of parts
`persistent`                   no [2]_  high       a pair of parts
=============================  =======  =========  ==========================

.. [1] where the inner process is stable; its derivative may explode otherwise.
.. [2] of the loss that the perturbations smooth.

What goes on keeps unfinished unrolls in the meta-parameters: train it with
`metajax.outer_optimizer(optimizer, LABELS)`. An unroll that is no longer finite
is dropped, counts nothing in the gradient, and is started again; the metric
`diverged` is the share of those. Where all of a step are, its loss is not a
number, and training skips the step.

References:
  Vicol, Metz, Sohl-Dickstein (2021), Unbiased gradient estimation in unrolled
  computation graphs with persistent evolution strategies,
  https://arxiv.org/abs/2112.13835
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from metajax.base import (
  MetaGradient,
  Metrics,
  PyTree,
  Task,
  map_tasks,
  num_tasks,
)
from metajax.equality import by_value
from metajax.estimators import evolution_of, gradient_of
from metajax.learned.unrolls import (
  LearnedParams,
  Unfinished,
  Unroll,
  advance,
  check_length,
  whole_loss,
)

__all__ = ['LARGEST', 'evolved', 'persistent', 'truncated', 'unrolled']

# An unroll with a larger number in its state has diverged. What is kept from
# step to step is a difference, of which a larger one would leave few digits.
LARGEST = 1e4


@by_value
def unrolled(unroll: Unroll) -> MetaGradient:
  r"""Differentiates whole unrolls.

  .. math:: \nabla_\phi \frac{1}{T} \sum_t \ell_t(s_t)

  Args:
    unroll: the process.

  Returns:
    The estimator, of `LearnedParams` without unrolls. States are kept on the
    way, so memory grows with the horizon.
  """
  return gradient_of(partial(whole_loss, unroll))


@by_value
def evolved(
  unroll: Unroll, *, num_pairs: int = 4, scale: float = 0.01
) -> MetaGradient:
  """Tries whole unrolls with weights that are moved at random.

  Args:
    unroll: the process.
    num_pairs: antithetic pairs per task.
    scale: the standard deviation of a move.

  Returns:
    The estimator, `metajax.estimators.evolution_of`, of `LearnedParams` without
    unrolls.

  Raises:
    ValueError: if one of the numbers is not positive.
  """
  return evolution_of(
    partial(whole_loss, unroll),
    num_pairs=num_pairs,
    scale=scale,
    chunk_size=num_pairs,
  )


@by_value
def truncated(unroll: Unroll, length: int) -> MetaGradient:
  r"""Differentiates the next steps of unrolls that go on.

  .. math::
    \nabla_\phi \frac{1}{K} \sum_{t = \tau + 1}^{\tau + K} \ell_t(s_t), \qquad
    s_\tau \text{ held constant}

  What the weights did to the steps before is left out, which biases it towards
  what helps at once.

  Args:
    unroll: the process.
    length: steps of a part, K.

  Returns:
    The estimator, of `LearnedParams` with unrolls that `begin` made without
    pairs.

  Raises:
    ValueError: if `length` does not divide the horizon.
  """
  check_length(unroll, length)

  def part(
    key: jax.Array, weights: PyTree, before: Unfinished, task: Task
  ) -> tuple[PyTree, jax.Array, PyTree, PyTree]:
    def loss(weights: PyTree) -> tuple[jax.Array, PyTree]:
      state = _start(unroll, key, weights, before, before.states, task)
      state, loss = advance(
        unroll, key, weights, state, before.next_step, length, task
      )
      return loss, state

    (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
    return gradient, value, state, ()

  return _of_parts(unroll, length, part)


@by_value
def persistent(
  unroll: Unroll, length: int, *, scale: float = 0.01, corrected: bool = True
) -> MetaGradient:
  r"""Persistent evolution strategies: tries parts of unrolls, without bias.

  .. math::
    \frac{1}{N} \sum_{i=1}^{N} \frac{\xi_i^{(\tau)}}{2 \sigma^2}
      \left(L_\tau(s_i^+, \phi + \epsilon_i) -
            L_\tau(s_i^-, \phi - \epsilon_i)\right), \qquad
    \xi_i^{(\tau)} = \sum_{\tau' \le \tau} \epsilon_i^{(\tau')}, \quad
    \epsilon_i \sim N(0, \sigma^2 I)

  Every task has a pair of unrolls with opposite perturbations, that are drawn
  anew for each part; the sum of all since its start says what the state that it
  is in owes to them.

  Args:
    unroll: the process.
    length: steps of a part.
    scale: sigma.
    corrected: whether the perturbations of earlier parts count; without them it
      is truncated evolution strategies, with the bias of `truncated`.

  Returns:
    The estimator, of `LearnedParams` with unrolls that `begin` made in pairs.
    Averaged over the parts of an unroll it is the gradient of its loss, which
    the perturbations smooth.

  Raises:
    ValueError: if `length` does not divide the horizon, or if `scale` is not
      above 0.

  References:
    Vicol, Metz, Sohl-Dickstein (2021), https://arxiv.org/abs/2112.13835
  """
  check_length(unroll, length)
  if not scale > 0:
    raise ValueError(f'scale must be above 0, got {scale}')

  def part(
    key: jax.Array, weights: PyTree, before: Unfinished, task: Task
  ) -> tuple[PyTree, jax.Array, PyTree, PyTree]:
    moves_key, key = jax.random.split(key)
    move = _normal(moves_key, weights, scale)

    def of_one(sign: jax.Array, state: PyTree) -> tuple[PyTree, jax.Array]:
      moved = jax.tree.map(
        lambda leaf, by: leaf + sign.astype(leaf.dtype) * by, weights, move
      )
      state = _start(unroll, key, moved, before, state, task)
      return advance(unroll, key, moved, state, before.next_step, length, task)

    states, losses = jax.vmap(of_one)(jnp.array([1.0, -1.0]), before.states)
    earlier = jax.tree.map(
      lambda leaf: jnp.where(before.next_step == 0, 0, leaf),
      before.perturbations,
    )
    summed = jax.tree.map(jnp.add, earlier, move)
    slope = (losses[0] - losses[1]) / (2 * scale**2)
    gradient = jax.tree.map(
      lambda leaf: slope.astype(leaf.dtype) * leaf,
      summed if corrected else move,
    )
    return gradient, jnp.mean(losses), states, summed

  return _of_parts(unroll, length, part)


# The gradient, the loss, the state after the part, and the perturbations.
_Part = Callable[
  [jax.Array, PyTree, Unfinished, Task],
  tuple[PyTree, jax.Array, PyTree, PyTree],
]


def _of_parts(unroll: Unroll, length: int, part: _Part) -> MetaGradient:
  """The mean over tasks of what is estimated from a part of each unroll."""

  def of_task(
    key: jax.Array, weights: PyTree, before: Any, offered: Any
  ) -> tuple[PyTree, jax.Array, jax.Array, Unfinished]:
    task = jax.tree.map(
      lambda new, old: jnp.where(before.next_step == 0, new, old),
      offered,
      before.tasks,
    )
    gradient, loss, states, summed = part(key, weights, before, task)
    good = _is_good((gradient, loss, states))
    left = before.left - length
    ends = ~good | (left <= 0)

    def kept(tree: PyTree) -> PyTree:
      # Zeros in the place of what has ended, as it is started again.
      return jax.tree.map(lambda leaf: jnp.where(ends, 0, leaf), tree)

    after = Unfinished(
      kept(states),
      kept(summed),
      jnp.where(ends, 0, before.next_step + length),
      jnp.where(ends, unroll.horizon, left),
      task,
    )
    gradient = jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), gradient)
    return gradient, jnp.where(good, loss, 0), good, after

  def grad(
    key: jax.Array, meta_params: LearnedParams, tasks: Task
  ) -> tuple[LearnedParams, Metrics]:
    weights, before = meta_params
    _check_number(before, tasks)
    gradients, losses, good, after = map_tasks(
      lambda key, both: of_task(key, weights, both[0], both[1]),
      key,
      cast(Task, (before, tasks)),
    )
    number = jnp.sum(good)
    gradient = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), gradients)
    way_back = jax.tree.map(jnp.subtract, before, after)
    return LearnedParams(gradient, way_back), {
      'loss': jnp.sum(losses) / number,  # not a number where there is none
      'diverged': jnp.mean(1.0 - good),
    }

  return grad


def _start(
  unroll: Unroll,
  key: jax.Array,
  weights: PyTree,
  before: Unfinished,
  state: PyTree,
  task: Task,
) -> PyTree:
  """The state of an unroll that goes on, or that of the start of a new one."""
  fresh = unroll.start(key, weights, task)
  return jax.tree.map(
    lambda new, old: jnp.where(before.next_step == 0, new, old), fresh, state
  )


def _normal(key: jax.Array, tree: PyTree, scale: float) -> PyTree:
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(key, len(leaves))
  return jax.tree.unflatten(
    structure,
    [
      scale * jax.random.normal(key, jnp.shape(leaf), jnp.result_type(leaf))
      for key, leaf in zip(keys, leaves, strict=True)
    ],
  )


def _is_good(tree: PyTree) -> jax.Array:
  """Whether all numbers are finite, and those of the state not too large."""
  gradient, loss, states = tree
  finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((gradient, loss))]
  bounded = [jnp.all(jnp.abs(x) <= LARGEST) for x in jax.tree.leaves(states)]
  return jnp.all(jnp.stack(finite + bounded))


def _check_number(before: Any, tasks: Task) -> None:
  if not isinstance(before, Unfinished):
    raise ValueError(
      'this meta-gradient is of unrolls that go on, but there are none among'
      ' the meta-parameters; make them by metajax.learned.begin'
    )
  number = num_tasks(tasks)
  if number != len(before.next_step):
    raise ValueError(
      f'got {number} tasks for {len(before.next_step)} unrolls; give as many'
      ' tasks a step, all at once: tasks_per_step and chunk_size are both the'
      ' number of unrolls, on one device'
    )
