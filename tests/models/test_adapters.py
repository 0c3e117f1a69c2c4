"""Modules of flax as models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import metajax
from metajax.base import Batch, Task
from metajax.models import from_linen, from_nnx


def test_linen_and_nnx_compute_the_same():
  linen = from_linen(nn.Dense(3))
  other = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
  inputs = jax.random.normal(jax.random.key(0), (5, 2))
  params = other.init(jax.random.key(1), inputs)
  np.testing.assert_allclose(
    linen.apply(params, inputs), other.apply(params, inputs), rtol=1e-6
  )
  # Another key, other parameters; the same key, the same ones.
  for seed, same in ((1, True), (2, False)):
    again = other.init(jax.random.key(seed), inputs)
    assert np.array_equal(again['kernel'], params['kernel']) == same


def test_an_nnx_module_learns_by_maml():
  class Network(nnx.Module):
    def __init__(self, rngs):
      self.body = nnx.Linear(1, 8, rngs=rngs)
      self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, inputs):
      return self.head(jnp.tanh(self.body(inputs)))

  learner = metajax.anil(
    from_nnx(Network), metajax.mean_squared_error, 0.1, num_steps=2
  )
  inputs = jnp.linspace(-1, 1, 12).reshape(3, 4, 1)
  batch = Batch(inputs, inputs**2)
  params = learner.init(jax.random.key(0), inputs[0])
  gradient, _ = jax.jit(learner.grad)(
    jax.random.key(1), params, Task(batch, batch)
  )
  assert jax.tree.structure(gradient) == jax.tree.structure(params)
  assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_an_nnx_module_with_hidden_state_is_refused():
  def make(rngs):
    return nnx.Sequential(
      nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
    )

  with pytest.raises(ValueError, match=r'layers/0/mean.*layers/1/rngs'):
    from_nnx(make)
