"""A method of one's own: registered, checked, trained by name.

  python examples/own_method.py

The method is MAML that learns the rate of its inner steps: its meta-parameters
are the start and the logarithm of one rate for all weights. `register` adds it
to the table from outside, with a recipe for images, and then it is a method
like any other; `metajax.testing.check_method` makes sure that it is one. The
experiments train it by its name; from a command line, with all their flags,

  python -m experiments.images --plugin=examples.own_method \\
    --algorithm=learned_rate

It prints the accuracy on new classes of strokes, by inner step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metajax
from metajax.algorithms import ALGORITHMS, Recipe, gradient_method, register
from metajax.testing import check_method, small_network

NAME = 'learned_rate'


class LearnedRate(NamedTuple):
  """Meta-parameters, and what is adapted."""

  params: Any
  log_rate: jax.Array  # a scalar, so that the rate stays positive


def learned_rate(model, objective, inner_lr=0.4, num_steps=1):
  """MAML with a rate that is learned."""

  def init(key, inputs):
    log_rate = jnp.log(jnp.asarray(inner_lr, inputs.dtype))
    return LearnedRate(model.init(key, inputs), log_rate)

  def adapt(key, meta_params, support):
    rate = jnp.exp(meta_params.log_rate)

    def loss(params, step):  # of the whole support set, in every step
      outputs = model.apply(params, support.inputs)
      return objective(outputs, support.targets)[0]

    params, descent = metajax.descend(
      loss, meta_params.params, optax.sgd(rate), num_steps
    )
    rates = jnp.broadcast_to(meta_params.log_rate, (num_steps + 1,))
    return meta_params._replace(params=params), metajax.Adaptation(
      descent.losses, LearnedRate(descent.trajectory, rates)
    )

  def predict(adapted, inputs):
    return model.apply(adapted.params, inputs)

  learner = metajax.Learner(init, adapt, predict)
  return metajax.MetaLearner(*learner, metajax.backprop(learner, objective))


def weights(meta_params):
  """The weights of the network among the meta-parameters."""
  return meta_params.params


def recipe(ways: int, shots: int) -> Recipe:
  """Its setting on images, MAML's with more steps."""
  return Recipe(ways=ways, shots=shots, inner_steps=3, eval_inner_steps=3)


register(NAME, gradient_method(learned_rate, weights=weights), images=recipe)


def check() -> None:
  """Raises AssertionError unless it is what a method must be."""
  make = ALGORITHMS[NAME].make
  learner = make(small_network(), metajax.cross_entropy, recipe(3, 2))
  check_method(learner, num_steps=3, weights=weights)


def main(steps: int = 100, **settings) -> dict[str, Any]:
  """Checks and trains it; returns what `result.json` holds."""
  from experiments import images

  check()
  small = {'width': 16, 'eval_tasks': 100, 'validation_tasks': 50}
  settings = small | settings | {'algorithm': NAME, 'steps': steps}
  outcome = images.run(images.Settings(**settings))
  shares = outcome['test']['accuracy_by_step']
  print(f'{NAME}:', ' -> '.join(f'{share:.1%}' for share in shares))
  return outcome


if __name__ == '__main__':
  main()
