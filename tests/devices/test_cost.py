"""Costs: of loops, branches, derivatives and convolutions."""

import jax
import jax.numpy as jnp
import pytest

from metajax.devices.cost import Cost, cost

SQUARE = jnp.ones((4, 4))
PRODUCT = 2 * 4**3


def product(left, right):
  return left @ right


def looped(num_steps):
  def body(carry, _):
    return carry @ SQUARE, None

  return lambda start: jax.lax.scan(body, start, length=num_steps)[0]


@pytest.mark.parametrize(
  ('function', 'products'),
  [
    (lambda x: x + 1, 0),
    (lambda x: x @ x, 1),
    (jax.jit(lambda x: x @ x), 1),
    (jax.vmap(lambda row: row @ SQUARE), 1),
    (looped(7), 7),
    (lambda x: jax.lax.cond(True, looped(3), looped(2), x), 3),
    (jax.checkpoint(lambda x: x @ x), 1),
    # forward, and a gradient for either factor
    (jax.grad(lambda x: jnp.sum(jnp.sin(x @ jnp.sin(x)))), 3),
  ],
)
def test_matrix_products_are_counted(function, products):
  assert cost(function, SQUARE).flops == products * PRODUCT


def test_convolution():
  inputs, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 10))
  # Along either side 4 windows of 3 pixels, one of which is padding.
  products = 2 * 10 * (4 * 3 - 1) ** 2 * 3

  def convolve(inputs, kernel):
    return jax.lax.conv_general_dilated(
      inputs,
      kernel,
      (2, 2),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=2,
    )

  assert cost(convolve, inputs, kernel).flops == 2 * products


@pytest.mark.parametrize('stride', [1, 2])
def test_second_order_of_a_convolution_counts_nine_forward_passes(stride):
  """A third of them for the gradient, two thirds for differentiating it."""
  inputs, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))

  def convolve(inputs, kernel):
    return jax.lax.conv_general_dilated(
      inputs,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  def gradients(inputs, kernel):
    def loss(inputs, kernel):
      return jnp.sum(jnp.tanh(convolve(inputs, kernel)))

    return jax.grad(loss, argnums=(0, 1))(inputs, kernel)

  def norm(inputs, kernel):
    return sum(jnp.sum(leaf**2) for leaf in gradients(inputs, kernel))

  one = cost(convolve, inputs, kernel).flops
  both = cost(jax.grad(norm, argnums=(0, 1)), inputs, kernel).flops
  assert cost(gradients, inputs, kernel).flops == 3 * one
  assert both == 9 * one


def test_bytes_are_those_of_all_that_is_written():
  def function(x):
    return jnp.sin(jnp.cos(x))

  assert cost(function, SQUARE) == Cost(0, 2 * 16 * 4)
  assert cost(looped(3), SQUARE).bytes == 3 * 16 * 4


def test_keys_have_a_size():
  assert cost(lambda key: jax.random.fold_in(key, 1), jax.random.key(0)).bytes
