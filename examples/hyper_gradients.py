"""Gradients by hyper-parameters, through an inner loop and its solution.

  python examples/hyper_gradients.py

A linear regression has one weight decay for every feature, and only half of
its features are of any use. How its validation loss changes with the decays and
with the learning rate is the derivative of what training returns:

- through the loop: `descend` is differentiable by all that its loss and its
  optimiser close over, and exact for any number of steps;
- through the solution: `implicit_minimum` asks only what the minimum is. It
  keeps none of the steps, and to a minimum the rate makes no difference.

It prints both beside central differences, of a loop that has not come to its
minimum and of one that has; and then the decays that descending the validation
loss finds. It takes about 25 s on two CPU cores.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import metajax

FEATURES, USEFUL = 6, 3


class Hyper(NamedTuple):
  """Logarithms of what training takes."""

  rate: jax.Array  # []
  decays: jax.Array  # [FEATURES]


def draw(key: jax.Array, examples: int) -> metajax.Batch:
  """Noisy sums of the useful features."""
  inputs_key, noise_key = jax.random.split(key)
  inputs = jax.random.normal(inputs_key, (examples, FEATURES))
  noise = jax.random.normal(noise_key, (examples,))
  return metajax.Batch(inputs, jnp.sum(inputs[:, :USEFUL], axis=1) + noise)


def error(weights: jax.Array, batch: metajax.Batch) -> jax.Array:
  """The mean squared error of a linear model."""
  return jnp.mean(jnp.square(batch.inputs @ weights - batch.targets))


def by_loop(task: metajax.Task, hyper: Hyper, num_steps: int) -> jax.Array:
  """The validation loss after some steps of training."""
  decays = jnp.exp(hyper.decays)
  weights, _ = metajax.descend(
    lambda weights, step: error(weights, task.support) + decays @ weights**2,
    jnp.zeros(FEATURES),
    optax.sgd(jnp.exp(hyper.rate)),
    num_steps,
  )
  return error(weights, task.query)


def by_solution(task: metajax.Task, hyper: Hyper) -> jax.Array:
  """The validation loss at the minimum of the training loss."""
  decays = jnp.exp(hyper.decays)

  def newton(loss: Callable, start: jax.Array) -> tuple[jax.Array, None]:
    # Anything that finds the minimum will do, since it is not differentiated;
    # the loss is quadratic, so one step of Newton's is enough.
    step = jnp.linalg.solve(jax.hessian(loss)(start), jax.grad(loss)(start))
    return start - step, None

  weights, _ = metajax.implicit_minimum(
    lambda weights: error(weights, task.support) + decays @ weights**2,
    newton,
    jnp.zeros(FEATURES),
    tolerance=1e-12,
  )
  return error(weights, task.query)


def differences(loss: Callable, hyper: Hyper, size: float = 1e-5) -> Hyper:
  """The gradient from values alone."""
  flat, unravel = ravel_pytree(hyper)

  def slope(move: jax.Array) -> jax.Array:
    ahead, behind = loss(unravel(flat + move)), loss(unravel(flat - move))
    return (ahead - behind) / (2 * size)

  return unravel(jax.lax.map(slope, size * jnp.eye(len(flat))))


def main(steps: int = 200) -> tuple[dict[str, Hyper], jax.Array]:
  """Compares gradients and descends; returns both."""
  with jax.enable_x64(True):  # for the sake of the differences
    keys = jax.random.split(jax.random.key(0))
    task = metajax.Task(draw(keys[0], 12), draw(keys[1], 200))
    hyper = Hyper(jnp.log(0.05), jnp.full(FEATURES, jnp.log(0.05)))
    ways = {
      'loop of 10 steps': lambda hyper: by_loop(task, hyper, 10),
      'loop of 2000 steps': lambda hyper: by_loop(task, hyper, 2000),
      'solution': lambda hyper: by_solution(task, hyper),
    }
    print(f'{"slopes by the logarithm of":>30}   rate, decays')
    gradients = {}
    for name, loss in ways.items():
      both = jax.jit(
        lambda hyper, loss=loss: (
          jax.grad(loss)(hyper),
          differences(loss, hyper),
        )
      )
      gradients[name], gradients[f'{name}, differences'] = both(hyper)
    for name, (rate, decays) in gradients.items():
      print(f'{name:>31}', *(f'{value:7.4f}' for value in (rate, *decays)))

    # An outer loop is a descent as well, one that nobody differentiates.
    last, descent = metajax.descend(
      lambda hyper, step: by_solution(task, hyper),
      hyper,
      optax.adam(0.1),
      steps,
      second_order='none',
    )
    before, after = descent.losses[0], by_solution(task, last)
    print(f'validation loss {before:.3f} -> {after:.3f}, with the decays')
    print(*(f'{decay:.3f}' for decay in jnp.exp(last.decays)))
    return jax.device_get((gradients, jnp.stack([before, after])))


if __name__ == '__main__':
  main()
