"""Layers against numpy and flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import with_precision
from metajax.models import (
  BatchNorm,
  Conv,
  Embedding,
  LayerNorm,
  from_linen,
)
from metajax.models.layers import SingleExample


def test_conv_is_that_of_flax(float64):
  options = {'kernel_size': (3, 2), 'padding': ((1, 0), (2, 1))}
  ours = Conv(3, **options, stride=2, dilation=(1, 2))
  theirs = nn.Conv(3, **options, strides=2, kernel_dilation=(1, 2))
  inputs = np.random.default_rng(0).normal(size=(2, 7, 8, 4))

  @jax.jit
  def outputs():
    params = ours.init(jax.random.key(0), inputs)
    params['params']['bias'] = jnp.arange(3.0)
    return ours.apply(params, inputs), theirs.apply(params, inputs)

  np.testing.assert_allclose(*outputs(), rtol=1e-6)


def test_conv_adds_its_bias():
  inputs = np.ones((1, 4, 4, 1))
  params = {'kernel': np.zeros((3, 3, 1, 2)), 'bias': np.array([1.0, -2.0])}
  outputs = jax.jit(Conv(2).apply)({'params': params}, inputs)
  np.testing.assert_array_equal(
    outputs, np.broadcast_to([1.0, -2.0], (1, 4, 4, 2))
  )


def test_conv_refuses_images_without_channels():
  with pytest.raises(ValueError, match=r'^Conv: .* got \(3, 8, 8\)'):
    Conv(2).init(jax.random.key(0), np.zeros((3, 8, 8)))


@pytest.mark.parametrize(
  ('layer', 'message'),
  [
    (Conv(2, 9, padding='VALID'), r'9x9 does not fit .* \(1, 8, 8, 1\)'),
    (Conv(2, 0), r'size must be 1 or more, .* got \(0, 0\)'),
    (Conv(2, (3, 3, 3)), r'size must be .* got \(3, 3, 3\)'),
    (Conv(2, stride=(2, 0)), r'stride must be .* got \(2, 0\)'),
    (BatchNorm(pool=9), r'9x9 does not fit .* \(1, 8, 8, 1\)'),
  ],
)
def test_an_impossible_geometry_is_refused_with_the_name_of_the_layer(
  layer, message
):
  images = np.zeros((1, 8, 8, 1))
  with pytest.raises(ValueError, match=f'^{type(layer).__name__}: .*{message}'):
    jax.eval_shape(layer.init, jax.random.key(0), images)


def test_batch_norm_equals_numpy(float64):
  inputs = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 3, 2))
  scale, bias = np.array([2.0, 0.5]), np.array([1.0, -1.0])
  outputs = jax.jit(BatchNorm().apply)(
    {'params': {'scale': scale, 'bias': bias}}, inputs
  )
  mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
  np.testing.assert_allclose(
    outputs,
    (inputs - mean) / np.sqrt(variance + 1e-3) * scale + bias,
    rtol=1e-12,
  )


def test_batch_norm_of_a_constant_is_finite_to_second_order():
  params = {'scale': np.ones(2), 'bias': np.zeros(2)}

  def loss(inputs):
    return jnp.sum(BatchNorm().apply({'params': params}, inputs) ** 3)

  def norm(inputs):
    return jnp.sum(jax.grad(loss)(inputs) ** 2)

  assert np.isfinite(jax.jit(jax.grad(norm))(np.ones((3, 2)))).all()


def far_from_zero(*shape: int) -> np.ndarray:
  """Draws numbers around 10 in bfloat16, whose steps are 1/16 wide there."""
  values = np.random.default_rng(0).normal(10.0, 1.0, shape)
  return values.astype(jnp.bfloat16)


@pytest.mark.parametrize(
  ('layer', 'inputs'),
  [
    (BatchNorm(), far_from_zero(300, 14, 14, 3)),
    (BatchNorm(pool=2), far_from_zero(300, 14, 14, 3)),
    (LayerNorm(), far_from_zero(20, 2048)),
  ],
)
def test_normalising_in_bfloat16_is_wrong_by_the_last_rounding_alone(
  layer, inputs
):
  model = from_linen(layer)
  params = jax.jit(model.init)(jax.random.key(0), inputs)

  def cast(dtype):
    return jax.tree.map(
      lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype)), (params, inputs)
    )

  # Not compiled, as a compiler may round less.
  low = model.apply(*cast(jnp.bfloat16))
  exact = jax.jit(model.apply)(*cast(jnp.float32))
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(low).astype(np.float32), exact, rtol=2**-8, atol=1e-5
  )


def test_held_statistics_keep_the_digits_that_bfloat16_has_not():
  inputs = far_from_zero(300, 14, 14, 3).astype(np.float32)
  plain = from_linen(BatchNorm())
  params = jax.jit(plain.init)(jax.random.key(0), inputs)

  def normalised(model):
    held = model.measure(params, inputs)
    return model.freeze(held).apply(params, inputs[:1])

  low = normalised(with_precision(plain, jnp.bfloat16))
  exact = jax.jit(lambda: normalised(plain))()
  np.testing.assert_allclose(low, exact, rtol=2**-8, atol=1e-5)


def test_layer_norm_is_that_of_flax(float64):
  inputs = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 4))
  scale = {'scale': np.arange(1.0, 5.0), 'bias': np.ones(4)}
  ours, theirs = (
    jax.jit(layer.apply)({'params': scale}, inputs)
    for layer in (LayerNorm(), nn.LayerNorm(use_fast_variance=False))
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_embedding_looks_up_rows_to_second_order(float64):
  tokens = np.array([[0, 3], [3, 1]])

  def norm(table, lowering):
    def loss(table):
      embedding = Embedding(4, 2, lowering)
      return jnp.sum(
        embedding.apply({'params': {'embedding': table}}, tokens) ** 3
      )

    return jnp.sum(jax.grad(loss)(table) ** 2)

  table = np.arange(8.0).reshape(4, 2)
  rows = [table[i] for i in (0, 3, 3, 1)]
  embedded = jax.jit(Embedding(4, 2).apply)(
    {'params': {'embedding': table}}, tokens
  )
  np.testing.assert_array_equal(np.reshape(embedded, (4, 2)), rows)
  slope = jax.jit(jax.grad(norm), static_argnums=1)
  slopes = [slope(table, lowering) for lowering in ('matmul', 'native')]
  np.testing.assert_allclose(*slopes, rtol=1e-12)
  # d/dx of (count * 3 x ** 2) ** 2
  counts = np.array([1, 1, 0, 2])[:, None]
  np.testing.assert_allclose(slopes[0], 36 * counts**2 * table**3, rtol=1e-12)


def test_embedding_refuses_what_is_no_token():
  with pytest.raises(
    ValueError, match=r'^Embedding: .* integers, got float32 .* \(2, 3\)'
  ):
    Embedding(4, 2).init(jax.random.key(0), np.zeros((2, 3), np.float32))


def test_one_example_has_no_distribution():
  layer, image = BatchNorm(), np.ones((1, 4, 4, 2), np.float32)
  params = layer.init(jax.random.key(0), image)  # shapes alone matter here
  params = {'params': params['params']}
  with pytest.warns(SingleExample, match='over a single example'):
    layer.apply(params, image)
  layer.apply(params, np.concatenate([image, image]))
  held = {'mean': np.zeros(2, np.float32), 'variance': np.ones(2, np.float32)}
  layer.apply({**params, 'statistics': held}, image)
