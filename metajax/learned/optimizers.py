r"""Optimisers whose rule is learned, as optax transformations.

Both begin as Adam, and know how far training has come, :math:`t / T`:

- `mlp_optimizer`: a small network, shared by all parameters, that reads a
  parameter's gradient, its momenta at several decays, its second moment, its
  value and the time, and says how to move it;
- `learned_adam`: Adam whose rate, decays, epsilon and schedule are learned, for
  matrices (and larger arrays) and for vectors apart.

Their weights are a tree of a fixed form that fits networks of any shape: what
is learned on small networks can be tried on any other, as it can go wrong
there.

References:
  Metz et al. (2019), Understanding and correcting pathologies in the training
  of learned optimizers, https://arxiv.org/abs/1810.10180.
  Metz et al. (2020), Tasks, stability, architecture, and compute,
  https://arxiv.org/abs/2009.11243.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.base import PyTree
from metajax.equality import by_value
from metajax.inner import partition
from metajax.learned._optimizer_checks import (
  as_wide,
  check_alike,
  check_params,
  check_whole,
  moments_of,
)

__all__ = [
  'OPTIMIZERS',
  'LearnedOptimizer',
  'MlpState',
  'check_weights',
  'init_learned_adam',
  'init_mlp_optimizer',
  'learned_adam',
  'mlp_optimizer',
]

_DECAYS = (0.5, 0.9, 0.99)  # of momenta
_SECOND = 0.99  # of the second moment
_FLOOR = 1e-8  # below the root of a second moment, at which slopes are finite
_TIMES = (1.0, 10.0, 100.0, 1000.0)
_FEATURES = 1 + len(_DECAYS) + 7 + len(_TIMES)
_KNOTS = 8  # of a schedule
_KINDS = ('matrix', 'vector')


class LearnedOptimizer(NamedTuple):
  """A kind of learned optimiser."""

  init: Callable[[jax.Array], PyTree]  # weights, from a key
  # An optax transformation, from weights and the number of steps.
  make: Callable[[PyTree, int], optax.GradientTransformation]


class MlpState(NamedTuple):
  """State of `mlp_optimizer`."""

  steps: jax.Array  # int32, how many were taken
  momenta: tuple[PyTree, ...]  # as the parameters, one for each decay
  second: PyTree  # as the parameters; both of float32 where those are shorter


def init_mlp_optimizer(
  key: jax.Array, hidden: int = 16, rate: float = 1e-3
) -> dict[str, jax.Array]:
  """Weights of `mlp_optimizer`, with which it is Adam but for its decays.

  Args:
    key: of the hidden layer.
    hidden: units of it.
    rate: of Adam.

  Raises:
    ValueError: if `hidden` is no positive integer, or `rate` not above 0.

  Example:
    >>> sorted(init_mlp_optimizer(jax.random.key(0)))
    ['hidden', 'hidden_bias', 'log_rate', 'output', 'output_bias']
  """
  check_whole('hidden', hidden)
  first = jax.random.normal(key, (_FEATURES, hidden)) / math.sqrt(_FEATURES)
  return {
    'log_rate': _log_rate(rate),
    'hidden': first,
    'hidden_bias': jnp.zeros(hidden),
    'output': jnp.zeros((hidden, 2)),
    'output_bias': jnp.zeros(2),
  }


def mlp_optimizer(
  weights: PyTree, num_steps: int
) -> optax.GradientTransformation:
  r"""An optimiser that is a small network, the same for every parameter.

  .. math::
    u = -e^{\lambda + a} \left(\frac{\hat m}{\sqrt{\hat v}} + b\right), \qquad
    (a, b) = W_2 \tanh(W_1 x + c_1) + c_2

  where m and v are moments of the gradient, and x has the gradient and its
  momenta over the root of v, the logarithm of that root, the parameter over the
  size of its array and the logarithm of that size, the width of its layer on
  either side, and the time, as a share of all steps and in steps.

  Args:
    weights: of `init_mlp_optimizer`, learned (`metajax.learned`).
    num_steps: how many steps training will take, T; further ones are taken as
      the last.

  Returns:
    An optax transformation, whose `update` has to be given the parameters. It
    is differentiable by weights, gradients and parameters.

  Raises:
    ValueError: if weights are not those of such an optimiser, or `num_steps` is
      not positive; when it is used, if it is not given the parameters, or
      gradients or state of others.

  Example:
    >>> weights = init_mlp_optimizer(jax.random.key(0), rate=0.1)
    >>> optimizer = mlp_optimizer(weights, num_steps=10)
    >>> params = {'x': jnp.float32(1.0)}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> round(float(updates['x']), 4)
    -0.1
  """
  check_weights(weights, 'mlp')
  check_whole('num_steps', num_steps)

  def init(params: PyTree) -> MlpState:
    check_params(params)
    zeros = moments_of(params)
    return MlpState(jnp.int32(0), tuple(zeros for _ in _DECAYS), zeros)

  def update(
    gradient: PyTree, state: MlpState, params: PyTree | None = None
  ) -> tuple[PyTree, MlpState]:
    check_alike(gradient, state, 'second', params)
    gradient = jax.tree.map(as_wide, gradient)
    momenta = tuple(
      _averaged(decay, gradient, before)
      for decay, before in zip(_DECAYS, state.momenta, strict=True)
    )
    second = _averaged(
      _SECOND, jax.tree.map(jnp.square, gradient), state.second
    )
    steps = state.steps + 1
    move = _mlp_move(weights, state.steps, num_steps)
    updates = jax.tree.map(move, params, gradient, second, *momenta)
    return updates, MlpState(steps, momenta, second)

  return optax.GradientTransformation(init, update)


def _mlp_move(
  weights: PyTree, count: jax.Array, num_steps: int
) -> Callable[..., jax.Array]:
  """What moves an array, at a time."""
  share = jnp.minimum(count / num_steps, 1.0)
  taken = count + 1
  times = [jnp.tanh(taken / time - 1) for time in _TIMES]

  def move(
    param: jax.Array, gradient: jax.Array, second: jax.Array, *momenta: Any
  ) -> jax.Array:
    dtype, param = jnp.result_type(param), as_wide(param)
    root = jnp.sqrt(second / (1 - _SECOND**taken) + _FLOOR**2)
    kept = [
      momentum / (1 - decay**taken) / root
      for decay, momentum in zip(_DECAYS, momenta, strict=True)
    ]
    size = jnp.sqrt(jnp.mean(jnp.square(param)) + 1e-6)
    features = [
      gradient / root,
      *kept,
      jnp.log(root) / 8 + 0.5,
      param / size,
      jnp.broadcast_to(jnp.log(size), param.shape),
      jnp.full(param.shape, float(jnp.ndim(param) < 2)),
      *(jnp.full(param.shape, each) for each in _log_fans(param)),
      jnp.broadcast_to(2 * share - 1, param.shape),
      *(jnp.broadcast_to(time, param.shape) for time in times),
    ]
    stacked = jnp.stack(
      [jnp.asarray(each, param.dtype) for each in features], -1
    )
    hidden = jnp.tanh(_affine(weights, 'hidden', stacked))
    out = _affine(weights, 'output', hidden)
    # Bounded, so that no weights move a parameter by more than e^4 times more.
    rate = jnp.exp(weights['log_rate'] + 4 * jnp.tanh(out[..., 0] / 4))
    direction = kept[1] + out[..., 1]
    return (-rate * direction).astype(dtype)

  return move


def init_learned_adam(
  key: jax.Array | None = None, rate: float = 1e-3
) -> dict[str, dict[str, jax.Array]]:
  """Weights of `learned_adam`, with which it is Adam.

  Args:
    key: nothing is drawn; there is one as other learned optimisers have it.
    rate: of Adam.

  Raises:
    ValueError: if `rate` is not above 0.

  Example:
    >>> sorted(init_learned_adam())
    ['matrix', 'vector']
  """
  del key
  return {
    kind: {
      'log_rate': _log_rate(rate),
      'schedule': jnp.zeros(_KNOTS),
      'fans': jnp.zeros(2),
      'decays': jnp.log(jnp.array([9.0, 99.0])),  # as logits: 0.9 and 0.99
      'log_epsilon': jnp.log(jnp.float32(1e-6)),
      'log_decay': jnp.log(jnp.float32(1e-4)),
    }
    for kind in _KINDS
  }


def learned_adam(
  weights: PyTree, num_steps: int
) -> optax.GradientTransformation:
  r"""Adam with decays, epsilon, weight decay, rate and schedule learned.

  .. math::
    u = -e^{\lambda + s(t / T)} \, p^a q^b \left(
      \frac{\hat m}{\sqrt{\hat v} + \epsilon} + w \, \theta \right)

  The schedule s is piecewise linear, and p and q are the numbers of inputs and
  of outputs of a layer over 32, so that rates can follow its width. Matrices
  (and larger arrays) have numbers of their own, and so have vectors.

  Args:
    weights: of `init_learned_adam`, learned (`metajax.learned`).
    num_steps: how many steps training will take, T; further ones are taken as
      the last.

  Returns:
    An optax transformation, whose `update` has to be given the parameters. It
    is differentiable by weights, gradients and parameters.

  Raises:
    ValueError: as `mlp_optimizer` does.

  Example:
    >>> optimizer = learned_adam(init_learned_adam(rate=0.1), num_steps=10)
    >>> params = {'x': jnp.float32(1.0)}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> round(float(updates['x']), 4)
    -0.1
  """
  check_weights(weights, 'adam')
  check_whole('num_steps', num_steps)

  def init(params: PyTree) -> optax.ScaleByAdamState:
    check_params(params)
    zeros = moments_of(params)
    return optax.ScaleByAdamState(jnp.int32(0), zeros, zeros)

  def update(
    gradient: PyTree,
    state: optax.ScaleByAdamState,
    params: PyTree | None = None,
  ) -> tuple[PyTree, optax.ScaleByAdamState]:
    check_alike(gradient, state, 'nu', params)
    place = jnp.minimum(state.count / num_steps, 1.0) * (_KNOTS - 1)
    knots = jnp.arange(_KNOTS)
    taken = state.count + 1

    def move(
      param: jax.Array, gradient: jax.Array, first: jax.Array, second: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
      dtype = jnp.result_type(param)
      param, gradient = as_wide(param), as_wide(gradient)
      own = weights[_KINDS[jnp.ndim(param) < 2]]
      first_decay, second_decay = jax.nn.sigmoid(own['decays'])
      first = first_decay * first + (1 - first_decay) * gradient
      second = second_decay * second + (1 - second_decay) * gradient**2
      root = jnp.sqrt(second / (1 - second_decay**taken) + _FLOOR**2)
      direction = first / (1 - first_decay**taken)
      direction /= root + jnp.exp(own['log_epsilon'])
      direction += jnp.exp(own['log_decay']) * param
      shift = jnp.interp(place, knots, own['schedule'])
      shift += jnp.vdot(own['fans'], jnp.array(_log_fans(param), shift.dtype))
      rate = jnp.exp(own['log_rate'] + shift)
      kept = (each.astype(param.dtype) for each in (first, second))
      return (-rate * direction).astype(dtype), *kept

    structure: Any = jax.tree.structure(params)
    trees = params, gradient, state.mu, state.nu
    moved = [*map(move, *map(jax.tree.leaves, trees))]
    updates, first, second = (
      structure.unflatten([each[i] for each in moved]) for i in range(3)
    )
    return updates, optax.ScaleByAdamState(taken, first, second)

  return optax.GradientTransformation(init, update)


OPTIMIZERS = {
  'mlp': LearnedOptimizer(by_value(init_mlp_optimizer), mlp_optimizer),
  'adam': LearnedOptimizer(by_value(init_learned_adam), learned_adam),
}


def check_weights(weights: Any, kind: str) -> None:
  """Refuses weights that are not those of a kind of learned optimiser.

  Args:
    weights: any tree.
    kind: of `OPTIMIZERS`.

  Raises:
    ValueError: if there is no such kind, or if leaves are missing, too many, of
      other shapes or of another type.

  Example:
    >>> check_weights(init_learned_adam(), 'mlp')
    Traceback (most recent call last):
    ValueError: weights of a learned optimiser 'mlp' have hidden, hidden_bias, log_rate, output and output_bias; got matrix/decays, matrix/fans, matrix/log_decay, matrix/log_epsilon, matrix/log_rate, matrix/schedule, vector/decays, vector/fans and 4 more; they are those of another kind
  """  # noqa: E501
  if kind not in OPTIMIZERS:
    raise ValueError(
      f'kind must be one of {", ".join(OPTIMIZERS)}, got {kind!r}'
    )
  wanted = jax.eval_shape(OPTIMIZERS[kind].init, jax.random.key(0))
  found = partition.paths(weights)
  if (names := partition.paths(wanted)) != found:
    raise ValueError(
      f'weights of a learned optimiser {kind!r} have'
      f' {", ".join(names[:-1])} and {names[-1]}; got'
      f' {partition.list_paths(found) or "none"}; they are those of another'
      ' kind'
    )
  if kind == 'mlp' and np.ndim(weights['hidden']) == 2:
    hidden = np.shape(weights['hidden'])[1] or 1  # any number is allowed
    wanted = jax.eval_shape(
      lambda key: init_mlp_optimizer(key, hidden), jax.random.key(0)
    )

  def look(path: str, leaf: Any, given: Any) -> None:
    dtype = jnp.result_type(given)
    if jnp.shape(given) != leaf.shape:
      raise ValueError(
        f'{path} of a learned optimiser {kind!r} has shape {leaf.shape}, got'
        f' {jnp.shape(given)}; these weights were made for another one'
      )
    if not jnp.issubdtype(dtype, jnp.floating):
      raise ValueError(
        f'{path} of a learned optimiser {kind!r} must be floating-point'
        f' numbers, got {dtype}'
      )

  partition.map_with_path(look, wanted, weights)


def _log_fans(param: jax.Array) -> list[float]:
  """How wide the layer of an array is, on either side; 0 where that is 32."""
  *others, outputs = jnp.shape(param) or (1,)
  inputs = math.prod(others) if others else outputs
  return [math.log(max(number, 1) / 32) for number in (inputs, outputs)]


def _affine(weights: PyTree, name: str, inputs: jax.Array) -> jax.Array:
  bias = jnp.expand_dims(weights[f'{name}_bias'], range(inputs.ndim - 1))
  return inputs @ weights[name] + bias


def _averaged(decay: float, new: PyTree, before: PyTree) -> PyTree:
  return jax.tree.map(
    lambda new, old: decay * old + (1 - decay) * new, new, before
  )


def _log_rate(rate: float) -> jax.Array:
  if not (rate > 0 and math.isfinite(rate)):
    raise ValueError(f'rate must be above 0, got {rate}')
  return jnp.log(jnp.float32(rate))
