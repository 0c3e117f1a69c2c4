"""What a function closes over is an argument, and has its gradient."""

import jax
import jax.numpy as jnp

from metajax.inner._hoisting import hoist


def test_what_is_closed_over_is_differentiated():
  def loss(rate):
    hoisted = hoist(lambda x: {'value': rate * x**2}, 3.0)
    assert hoisted.shapes['value'].shape == ()
    return hoisted.call(hoisted.constants, 3.0)['value']

  assert jax.grad(loss)(2.0) == 9.0
  offset = jnp.arange(2.0)
  hoisted = hoist(lambda x: x + offset, jnp.ones(2))
  assert hoisted.call([jnp.zeros(2)], jnp.ones(2)).tolist() == [1.0, 1.0]
