r"""Policies: a network whose outputs are a distribution of actions.

.. math:: a \sim N(\mu_\theta(o), \mathrm{diag}(e^{2 s})) \quad \text{or} \quad
  a \sim \mathrm{softmax}(z_\theta(o))

Actions are drawn from noise that is given, so that what is drawn and what is
differentiated stay apart.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Model, PyTree
from metajax.control.environments import Actions
from metajax.equality import by_value

__all__ = ['Gaussian', 'Policy', 'categorical', 'gaussian', 'policy_for']

_LEAST_DEVIATION = 1e-6
_TWO_PI = 2 * jnp.pi


class Policy(NamedTuple):
  """How observations become actions; leading axes are free throughout."""

  kind: str  # of actions: 'discrete' or 'continuous'
  size: int  # how many choices there are, or numbers of an action
  init: Callable[[jax.Array, jax.Array], PyTree]  # (key, observations)
  # (params, observations [n, ...]) -> a distribution, leaves [n, ...]
  distribution: Callable[[PyTree, jax.Array], PyTree]
  noise: Callable[[jax.Array, int], jax.Array]  # (key, steps) -> [steps, ...]
  draw: Callable[[PyTree, jax.Array], jax.Array]  # (distribution, noise)
  log_probability: Callable[[PyTree, jax.Array], jax.Array]  # of actions
  divergence: Callable[[PyTree, PyTree], jax.Array]  # KL(first, second)


class Gaussian(NamedTuple):
  """A normal distribution of numbers that do not depend on each other."""

  mean: jax.Array  # [..., size]
  log_deviation: jax.Array  # [..., size]


@by_value
def gaussian(network: Model, size: int, log_deviation: float = 0.0) -> Policy:
  """A Gaussian policy, whose deviation is learned and depends on nothing.

  Args:
    network: of observations, with `size` outputs, the mean.
    size: numbers of an action.
    log_deviation: the logarithm of the first deviation.

  Returns:
    A policy whose parameters are `{'network', 'log_deviation'}`.

  Raises:
    ValueError: if `size` is not positive, or the network has other outputs.
  """
  _check(size)

  def init(key: jax.Array, observations: jax.Array) -> PyTree:
    return {
      'network': network.init(key, observations),
      'log_deviation': jnp.full((size,), log_deviation),
    }

  def distribution(params: PyTree, observations: jax.Array) -> Gaussian:
    mean = _outputs(network, params['network'], observations, size)
    least = jnp.log(_LEAST_DEVIATION)
    deviation = jnp.maximum(params['log_deviation'], least)
    return Gaussian(mean, jnp.broadcast_to(deviation, mean.shape))

  def draw(of: Gaussian, noise: jax.Array) -> jax.Array:
    return of.mean + jnp.exp(of.log_deviation) * noise

  def log_probability(of: Gaussian, actions: jax.Array) -> jax.Array:
    apart = (actions - of.mean) * jnp.exp(-of.log_deviation)
    each = -0.5 * (apart**2 + jnp.log(_TWO_PI)) - of.log_deviation
    return jnp.sum(each, axis=-1)

  def divergence(first: Gaussian, second: Gaussian) -> jax.Array:
    ratio = jnp.exp(2 * (first.log_deviation - second.log_deviation))
    apart = (first.mean - second.mean) * jnp.exp(-second.log_deviation)
    each = (
      second.log_deviation - first.log_deviation + (ratio + apart**2 - 1) / 2
    )
    return jnp.sum(each, axis=-1)

  def noise(key: jax.Array, steps: int) -> jax.Array:
    return jax.random.normal(key, (steps, size))

  return Policy(
    'continuous', size, init, distribution, noise, draw, log_probability,
    divergence,
  )  # fmt: skip


@by_value
def categorical(network: Model, size: int) -> Policy:
  """A policy of `size` choices, whose logits are the outputs of a network.

  Raises:
    ValueError: if `size` is not positive, or the network has other outputs.
  """
  _check(size)

  def distribution(params: PyTree, observations: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(_outputs(network, params, observations, size))

  def draw(of: jax.Array, noise: jax.Array) -> jax.Array:
    return jnp.argmax(of + noise, axis=-1)

  def log_probability(of: jax.Array, actions: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(of, actions[..., None], axis=-1)
    return chosen[..., 0]

  def divergence(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(first) * (first - second), axis=-1)

  def noise(key: jax.Array, steps: int) -> jax.Array:
    return jax.random.gumbel(key, (steps, size))

  return Policy(
    'discrete', size, network.init, distribution, noise, draw,
    log_probability, divergence,
  )  # fmt: skip


def policy_for(
  actions: Actions, network: Model, log_deviation: float = 0.0
) -> Policy:
  """The policy that fits the actions of an environment."""
  if actions.kind == 'discrete':
    return categorical(network, actions.size)
  return gaussian(network, actions.size, log_deviation)


def _check(size: int) -> None:
  if size < 1:
    raise ValueError(f'the size of a policy must be 1 or more, got {size}')


def _outputs(
  network: Model, params: PyTree, observations: jax.Array, size: int
) -> jax.Array:
  outputs = network.apply(params, observations)
  # One output alone would stand for all, without a word.
  if jnp.shape(outputs)[-1:] != (size,):
    raise ValueError(
      f'a policy of size {size} needs a network of as many outputs, but this'
      f' one makes {jnp.shape(outputs)} of observations'
      f' {observations.shape}'
    )
  return outputs
