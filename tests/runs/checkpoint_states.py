"""States that tests of checkpoints save, and comparing what comes back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class State(NamedTuple):
  params: Any
  optimizer: Any
  key: jax.Array


def make_state(step: int) -> State:
  params = {
    'head': {'kernel': jnp.full((40, 30), step, jnp.float32)},
    'body': jnp.arange(5000, dtype=jnp.float32) + step,
  }
  optimizer = optax.adam(1e-3).init(params)
  return State(params, optimizer, jax.random.key(step))


def assert_equal(found: Any, expected: Any) -> None:
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert getattr(a, 'dtype', type(a)) == getattr(b, 'dtype', type(b))
    assert np.shape(a) == np.shape(b)
    if isinstance(b, jax.Array):
      assert isinstance(a, jax.Array)
      assert getattr(a, 'weak_type', None) == getattr(b, 'weak_type', None)
      if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
        assert jax.random.key_impl(a) == jax.random.key_impl(b)
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
