"""Gradients by hyper-parameters, through an inner loop and its solution.

  python examples/hyper_gradients.py

A linear regression has a weight decay for every feature, and half of them are
of no use. How its validation loss changes with the decays and with the learning
rate is the derivative of what training returns:

- through the loop: `descend` is differentiable by all that its loss and its
  optimiser close over, and exact for any number of steps;
- through the solution: `implicit_minimum` asks only what the minimum is. It
  keeps none of the steps, and to a minimum the rate makes no difference.

It prints the slopes, and the decays that descending the validation loss finds.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

import metajax

FEATURES, USEFUL = 6, 3


def draw(key, examples):
  """Noisy sums of the useful features."""
  numbers = jax.random.normal(key, (examples, FEATURES + 1))
  inputs, noise = numbers[:, :-1], numbers[:, -1]
  return metajax.Batch(inputs, jnp.sum(inputs[:, :USEFUL], axis=1) + noise)


def error(weights, batch):
  """The mean squared error of a linear model."""
  return jnp.mean(jnp.square(batch.inputs @ weights - batch.targets))


def training(weights, hyper, task):
  """What training descends; `hyper` holds logarithms."""
  return error(weights, task.support) + jnp.exp(hyper['decays']) @ weights**2


def by_loop(task, hyper, num_steps):
  """The validation loss after some steps of training."""
  weights, _ = metajax.descend(
    lambda weights, step: training(weights, hyper, task),
    jnp.zeros(FEATURES), optax.sgd(jnp.exp(hyper['rate'])), num_steps,
  )  # fmt: skip
  return error(weights, task.query)


def by_solution(task, hyper):
  """The validation loss at the minimum of the training loss."""

  def newton(loss, start):
    # Anything that finds the minimum will do, since it is not differentiated.
    hessian, slope = jax.hessian(loss)(start), jax.grad(loss)(start)
    return start - jnp.linalg.solve(hessian, slope), None

  weights, _ = metajax.implicit_minimum(
    lambda weights: training(weights, hyper, task),
    newton, jnp.zeros(FEATURES), tolerance=1e-12,
  )  # fmt: skip
  return error(weights, task.query)


def setting():
  """A task, and logarithms of a rate and of decays."""
  keys = jax.random.split(jax.random.key(0))
  log = jnp.log(0.05)
  hyper = {'rate': log, 'decays': jnp.full(FEATURES, log)}
  return metajax.Task(draw(keys[0], 12), draw(keys[1], 200)), hyper


def main(steps: int = 200):
  """Compares gradients and descends; returns both."""
  with jax.enable_x64(True):  # so that the minimum is one to the last digit
    task, hyper = setting()
    losses = {
      f'loop of {steps} steps': partial(by_loop, task, num_steps=steps)
      for steps in (10, 2000)
    } | {'solution': partial(by_solution, task)}
    print(f'{"by the logarithm of":>20}   rate, decays')
    found = {name: jax.jit(jax.grad(f))(hyper) for name, f in losses.items()}
    for name, by in found.items():
      print(f'{name:>20}', *(f'{x:7.4f}' for x in (by['rate'], *by['decays'])))
    # An outer loop is a descent as well, one that nobody differentiates.
    last, descent = metajax.descend(
      lambda hyper, step: by_solution(task, hyper),
      hyper, optax.adam(0.1), steps, second_order='none',
    )  # fmt: skip
    before, after = descent.losses[0], by_solution(task, last)
    print(f'loss {before:.3f} -> {after:.3f} by', jnp.exp(last['decays']))
    return jax.device_get((found, jnp.stack([before, after])))


if __name__ == '__main__':
  main()
