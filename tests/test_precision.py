"""Fewer bits inside, the same outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.base import Batch, Task
from metajax.models import conv4, mlp, transformer
from metajax.precision import with_precision


def test_the_network_computes_in_it_and_nothing_else_does():
  plain = mlp([8], 2)
  model = with_precision(plain, jnp.bfloat16)
  inputs = jax.random.normal(jax.random.key(0), (5, 3))
  params = jax.jit(model.init)(jax.random.key(1), inputs)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
  outputs = np.asarray(jax.jit(model.apply)(params, inputs))
  assert outputs.dtype == jnp.float32
  exact = np.asarray(jax.jit(plain.apply)(params, inputs))
  error = np.abs(outputs - exact).max() / np.abs(exact).max()
  assert 1e-5 < error < 0.02  # bfloat16 has 8 bits
  products = [
    line
    for line in str(jax.make_jaxpr(model.apply)(params, inputs)).splitlines()
    if 'dot_general' in line
  ]
  assert len(products) == 2
  assert all('bf16' in line for line in products)


@pytest.mark.in_ci
def test_float64_doubles_the_digits_of_a_meta_gradient(float64):
  model = mlp([8], 1)
  inputs = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
  batch = Batch(inputs, inputs[..., :1] ** 2)
  tasks = Task(batch, batch)
  params = jax.jit(model.init)(jax.random.key(1), inputs[0])
  params = jax.tree.map(
    lambda leaf: leaf.astype(np.float32), jax.device_get(params)
  )

  def gradient(model, dtype):
    learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 2)
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, tasks))
    return jax.jit(learner.grad)(jax.random.key(2), *cast)[0]

  exact = gradient(model, jnp.float64)
  inside = gradient(with_precision(model, jnp.float64), jnp.float32)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    inside,
    exact,
  )
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(inside))


def test_tokens_stay_integers():
  model = with_precision(
    transformer(2, vocabulary=300, width=8, depth=1), jnp.bfloat16
  )
  tokens = np.array([[257, 258, 259]])  # bfloat16 cannot tell these apart
  params = jax.jit(model.init)(jax.random.key(0), tokens)
  apply = jax.jit(model.apply)
  a, b = (np.asarray(apply(params, tokens + i)) for i in (0, 1))
  assert np.abs(a - b).max() > 1e-3


@pytest.mark.long
def test_statistics_can_be_held():
  model = with_precision(conv4(None, width=4), jnp.bfloat16)
  images = jax.random.uniform(jax.random.key(0), (6, 16, 16, 1))
  params = model.init(jax.random.key(1), images)
  statistics = model.measure(params, images)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(statistics))
  frozen = model.freeze(statistics)
  np.testing.assert_allclose(
    frozen.apply(params, images)[:1],
    frozen.apply(params, images[:1]),
    atol=0.05,
  )


def test_an_integer_type_is_refused():
  with pytest.raises(ValueError, match='floating-point type, got'):
    with_precision(mlp([8], 1), jnp.int8)
