"""A gradient that is accumulated is the gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.inner.accumulate import accumulate
from metajax.inner.descend import descend

# The inputs are in single precision, what is learned in double.
INPUTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
META = {
  'params': np.linspace(-1.0, 1.0, 3),
  'decay': np.asarray(0.1),
  'labels': np.linspace(0.0, 1.0, 6),
}


@partial(jax.jit, static_argnums=(1, 2))
@jax.value_and_grad
def outer(meta, num_chunks, second_order):
  """A learned start, loss and labels; the last two, two kinds of argument."""

  def loss(params, batch):
    inputs, labels = batch
    inputs = inputs.astype(params.dtype)
    errors = jnp.tanh(inputs @ params) - labels
    return jnp.mean(errors**2) + meta['decay'] * jnp.sum(params**2)

  whole = loss if num_chunks is None else accumulate(loss, num_chunks)
  last, descent = descend(
    lambda params, step: whole(params, (INPUTS, meta['labels'])),
    meta['params'],
    optax.sgd(0.5),
    3,
    second_order=second_order,
  )
  return jnp.sum(last**2) + jnp.sum(descent.losses)


@pytest.mark.parametrize('second_order', ['mixed', 'reverse'])
@pytest.mark.parametrize('num_chunks', [1, 3])
def test_second_order_gradients_are_those_of_the_whole(
  float64, second_order, num_chunks
):
  expected = outer(META, None, 'reverse')
  found = outer(META, num_chunks, second_order)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
    found,
    expected,
  )


def test_a_batch_that_cannot_be_cut():
  with pytest.raises(ValueError, match='6 examples cannot be cut into 4'):
    accumulate(lambda params, batch: jnp.mean(batch), 4)(0.0, INPUTS)
