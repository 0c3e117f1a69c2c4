"""Layers against those of XLA and numpy, to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models import BatchNorm, Conv, max_pool

SIDES = [(1, 6, 5), (2, 8, 4), (2, 5, 7)]  # stride, height, width


def conv_and_xla(stride: int, kernel_size: int = 3):
  """Our convolution and XLA's, as functions of (kernel, inputs)."""

  def ours(kernel, inputs):
    layer = Conv(kernel.shape[-1], kernel_size, stride, use_bias=False)
    return layer.apply({'params': {'kernel': kernel}}, inputs)

  def xla(kernel, inputs):
    return jax.lax.conv_general_dilated(
      inputs,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  return ours, xla


def random_arguments(height: int, width: int, kernel_size: int = 3):
  generator = np.random.default_rng(0)
  return (
    jnp.asarray(generator.normal(size=(kernel_size, kernel_size, 2, 3))),
    jnp.asarray(generator.normal(size=(2, height, width, 2))),
  )


def orders(convolution):
  """Output, gradient, and the gradient of the norm of the gradient."""

  def loss(arguments):
    return jnp.mean(jnp.tanh(convolution(*arguments)))

  def norm(arguments):
    gradient = jax.grad(loss)(arguments)
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

  def all_of_them(*arguments):
    return (
      convolution(*arguments),
      jax.grad(loss)(arguments),
      jax.grad(norm)(arguments),
    )

  return all_of_them


@pytest.mark.parametrize(('stride', 'height', 'width'), SIDES)
def test_conv_equals_xla_to_second_order(float64, stride, height, width):
  arguments = random_arguments(height, width)
  ours, xla = (
    jax.jit(orders(convolution))(*arguments)
    for convolution in conv_and_xla(stride)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
    ours,
    xla,
  )


@pytest.mark.parametrize('kernel_size', [1, 2, 5])
def test_conv_equals_xla_for_other_kernels(float64, kernel_size):
  arguments = random_arguments(7, 6, kernel_size)
  ours, xla = (
    convolution(*arguments) for convolution in conv_and_xla(2, kernel_size)
  )
  np.testing.assert_allclose(ours, xla, rtol=1e-12, atol=1e-12)


def test_conv_adds_its_bias():
  inputs = jnp.ones((1, 4, 4, 1))
  params = {'kernel': jnp.zeros((3, 3, 1, 2)), 'bias': jnp.array([1.0, -2.0])}
  outputs = Conv(2).apply({'params': params}, inputs)
  np.testing.assert_array_equal(
    outputs, np.broadcast_to([1.0, -2.0], (1, 4, 4, 2))
  )


def test_conv_under_vmap_over_kernels_makes_no_grouped_convolution():
  kernels, inputs = jnp.ones((4, 3, 3, 2, 3)), jnp.ones((4, 2, 6, 6, 2))
  ours, xla = conv_and_xla(1)
  assert 'conv_general' not in str(jax.make_jaxpr(jax.vmap(ours))(
    kernels, inputs
  ))  # fmt: skip
  # The check can fail.
  assert 'conv_general' in str(jax.make_jaxpr(jax.vmap(xla))(kernels, inputs))


def test_conv_refuses_images_without_channels():
  with pytest.raises(ValueError, match=r'got \(3, 8, 8\)'):
    Conv(2).init(jax.random.key(0), jnp.zeros((3, 8, 8)))


def test_batch_norm_equals_numpy(float64):
  inputs = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 3, 2))
  scale, bias = np.array([2.0, 0.5]), np.array([1.0, -1.0])
  outputs = BatchNorm().apply(
    {'params': {'scale': jnp.asarray(scale), 'bias': jnp.asarray(bias)}},
    jnp.asarray(inputs),
  )
  mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
  np.testing.assert_allclose(
    outputs,
    (inputs - mean) / np.sqrt(variance + 1e-3) * scale + bias,
    rtol=1e-12,
  )


def test_batch_norm_of_a_constant_is_finite_to_second_order():
  params = {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}

  def loss(inputs):
    return jnp.sum(BatchNorm().apply({'params': params}, inputs) ** 3)

  def norm(inputs):
    return jnp.sum(jax.grad(loss)(inputs) ** 2)

  assert jnp.isfinite(jax.jit(jax.grad(norm))(jnp.ones((3, 2)))).all()


@pytest.mark.parametrize(('height', 'width'), [(4, 6), (5, 7), (2, 3)])
def test_max_pool_equals_a_windowed_reduction(height, width):
  inputs = jax.random.normal(jax.random.key(0), (2, height, width, 3))
  expected = jax.lax.reduce_window(
    inputs, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
  )
  np.testing.assert_array_equal(max_pool(inputs), expected)


@pytest.mark.parametrize('shape', [(2, 1, 1, 3), (2, 4, 1, 3)])
def test_max_pool_refuses_what_would_leave_nothing(shape):
  with pytest.raises(ValueError, match='2 pixels') as error:
    max_pool(jnp.zeros(shape))
  assert str(shape) in str(error.value)
