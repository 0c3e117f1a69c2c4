"""Opponents of learned optimisers are those of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.runner.opponents import Opponent, stepping


@pytest.mark.parametrize(
  ('opponent', 'wanted'),
  [
    (Opponent(0.1), optax.adam(0.1)),
    (
      Opponent(0.1, falls=1.0),
      optax.adam(optax.cosine_decay_schedule(0.1, 6)),
    ),
    (Opponent(0.1, momentum=1.0), optax.sgd(0.1, momentum=0.9)),
  ],
)
def test_an_opponent_is_the_optimiser_of_optax(opponent, wanted):
  def way(optimizer):
    params = {'weights': jnp.array([1.0, -2.0]), 'bias': jnp.array(0.5)}
    state, points = optimizer.init(params), []
    for _ in range(6):
      slope = jax.grad(lambda p: jnp.sum(p['weights'] ** 4) + p['bias'] ** 2)
      updates, state = optimizer.update(slope(params), state, params)
      params = optax.apply_updates(params, updates)
      points.append(np.append(params['weights'], params['bias']))
    return np.array(points)

  found = way(stepping(opponent, 6))
  np.testing.assert_allclose(found, way(wanted), rtol=1e-5, atol=1e-6)
