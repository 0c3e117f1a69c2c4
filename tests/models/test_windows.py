"""Convolution and pooling as slices, against XLA's own, to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models import average_pool, convolve, max_pool
from metajax.models.windows import resolve

# height, width, channels, features, kernel, and the rest of the geometry.
CONVOLUTIONS = [
  ((6, 5, 2, 3), (3, 3), {}),
  ((8, 4, 2, 3), (3, 3), {'stride': 2}),
  ((5, 7, 2, 3), (3, 3), {'stride': (1, 2), 'padding': 'VALID'}),
  ((7, 6, 1, 12), (3, 3), {'stride': 2}),  # narrower than its features
  ((7, 6, 4, 3), (1, 1), {}),
  ((7, 6, 3, 4), (1, 1), {'stride': 2}),
  ((8, 9, 2, 3), (2, 5), {'padding': ((0, 3), (2, 0)), 'stride': (2, 1)}),
  ((9, 9, 2, 3), (3, 3), {'dilation': (2, 3)}),
  ((9, 9, 2, 3), (3, 2), {'dilation': 2, 'stride': 2, 'padding': 'VALID'}),
  ((4, 4, 2, 3), (4, 4), {'padding': 'VALID'}),  # the whole image
]


def with_xla(inputs, kernel, stride=1, dilation=1, padding='SAME'):
  """XLA's convolution, which works its geometry out by itself."""
  stride, dilation = (
    (n, n) if isinstance(n, int) else n for n in (stride, dilation)
  )
  return jax.lax.conv_general_dilated(
    inputs,
    kernel,
    stride,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def orders(function):
  """Output, gradient, and the gradient of the norm of the gradient."""

  def loss(arguments):
    return jnp.mean(jnp.tanh(function(*arguments)))

  def norm(arguments):
    gradient = jax.grad(loss)(arguments)
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

  def all_of_them(*arguments):
    return (
      function(*arguments),
      jax.grad(loss)(arguments),
      jax.grad(norm)(arguments),
    )

  return jax.jit(all_of_them)


def assert_the_same(ours, theirs, *arguments):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
    orders(ours)(*arguments),
    orders(theirs)(*arguments),
  )


def random(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize(('shape', 'size', 'options'), CONVOLUTIONS)
@pytest.mark.parametrize('lowering', ['matmul', 'native'])
def test_convolution_to_second_order(float64, shape, size, options, lowering):
  *image, channels, features = shape

  def ours(inputs, kernel):
    return convolve(inputs, kernel, **options, lowering=lowering)

  def theirs(inputs, kernel):
    return with_xla(inputs, kernel, **options)

  inputs = random(2, *image, channels)
  kernel = random(*size, channels, features)
  if lowering == 'matmul':
    assert_the_same(ours, theirs, inputs, kernel)
  else:  # XLA's own, so its geometry is all there is to test
    both = jax.jit(lambda *given: (ours(*given), theirs(*given)))
    np.testing.assert_array_equal(*both(inputs, kernel))


def test_no_grouped_convolution_under_vmap_over_kernels():
  kernels, inputs = np.ones((4, 3, 3, 2, 3)), np.ones((4, 2, 6, 6, 2))

  def program(lowering):
    def loss(kernel, inputs):
      return jnp.sum(convolve(inputs, kernel, lowering=lowering) ** 2)

    second = jax.grad(lambda *arguments: jnp.sum(jax.grad(loss)(*arguments)))
    return str(jax.make_jaxpr(jax.vmap(second))(kernels, inputs))

  assert 'conv_general' not in program('matmul')
  assert 'feature_group_count=4' in program('native')  # the check can fail


POOLS = [
  ((4, 6), {}),
  ((5, 7), {}),
  ((7, 6), {'size': 3, 'stride': 2, 'padding': 'SAME'}),
  ((6, 6), {'size': (2, 3), 'stride': 1, 'padding': ((1, 0), (1, 1))}),
]


@pytest.mark.in_ci
@pytest.mark.parametrize(('image', 'options'), POOLS)
@pytest.mark.parametrize('pool', [max_pool, average_pool])
def test_pooling_to_second_order(float64, image, options, pool):
  inputs = random(2, *image, 3)

  def by(lowering):
    return lambda inputs: pool(inputs, **options, lowering=lowering)

  assert_the_same(by('matmul'), by('native'), inputs)


def test_pooling_equals_numpy():
  inputs = random(2, 5, 6, 3).astype(np.float32)
  blocks = inputs[:, :4].reshape(2, 2, 2, 3, 2, 3)
  np.testing.assert_array_equal(max_pool(inputs), blocks.max((2, 4)))
  np.testing.assert_allclose(
    average_pool(inputs), blocks.mean((2, 4)), rtol=1e-6, atol=1e-6
  )


def test_only_the_first_of_several_maxima_has_a_derivative():
  inputs = np.array([[1.0, 3.0], [3.0, 2.0]])[None, :, :, None]
  for lowering in ('matmul', 'native'):
    slope = jax.grad(lambda x, by=lowering: max_pool(x, lowering=by).sum())
    slopes = np.asarray(jax.jit(slope)(inputs))
    np.testing.assert_array_equal(slopes[0, :, :, 0], [[0, 1], [0, 0]])


@pytest.mark.parametrize(
  ('dtype', 'side'),
  [
    ('bfloat16', 17),  # has numbers for 256 places, float16 for 2048
    pytest.param('bfloat16', 51, marks=pytest.mark.in_ci),
    pytest.param('float16', 51, marks=pytest.mark.in_ci),
    pytest.param('float32', 51, marks=pytest.mark.in_ci),
  ],
)
def test_a_window_may_have_more_places_than_its_type_has_numbers(dtype, side):
  inputs = np.zeros((1, side, side, 1), dtype)
  inputs[0, -1, -6, 0] = 1
  slopes = jax.grad(lambda x: max_pool(x, side, lowering='matmul').sum())
  np.testing.assert_array_equal(slopes(inputs), inputs)


def test_a_pool_with_a_negative_sign_is_a_minimum(float64):
  inputs, sign = random(2, 4, 6, 3), np.array([1.0, -1.0, 1.0])
  blocks = inputs.reshape(2, 2, 2, 3, 2, 3)
  expected = np.where(sign < 0, blocks.min((2, 4)), blocks.max((2, 4)))

  def by(lowering):
    return lambda inputs: max_pool(inputs, lowering=lowering, sign=sign)

  np.testing.assert_array_equal(jax.jit(by('matmul'))(inputs), expected)
  assert_the_same(by('matmul'), by('native'), inputs)


def test_a_pool_of_what_is_not_a_number_is_not_a_number():
  inputs = np.array([[1.0, np.nan], [3.0, 2.0]])[None, :, :, None]
  assert np.isnan(jax.jit(max_pool)(inputs)).all()


def test_padding_is_never_a_maximum():
  inputs = -1 - np.abs(random(1, 3, 3, 1))
  pooled = jax.jit(lambda inputs: max_pool(inputs, 3, 1, 'SAME'))(inputs)
  assert np.max(pooled) < -1


IMPOSSIBLE = [
  ({}, (3, 8, 8), (3, 3, 1, 2), r'kernel of shape \(3, 3, 1, 2\).*\(3, 8, 8\)'),
  ({}, (3, 8, 8, 2), (3, 3, 1, 2), r'\(3, 3, 1, 2\) .*\(3, 8, 8, 2\)'),
  (
    {'padding': 'VALID'},
    (3, 2, 8, 1),
    (3, 3, 1, 2),
    r'layer 7: a window of 3x3 .*\(3, 2, 8, 1\) with padding VALID',
  ),
  (
    {'padding': 'VALID', 'dilation': 4},
    (3, 8, 8, 1),
    (3, 3, 1, 2),
    'a window of 9x9',
  ),
  ({'stride': 0}, (3, 8, 8, 1), (3, 3, 1, 2), r'stride must be 1 .*\(0, 0\)'),
  ({'padding': 'FULL'}, (3, 8, 8, 1), (3, 3, 1, 2), 'SAME, VALID or .*FULL'),
  ({'padding': ((0, -1), (0, 0))}, (3, 8, 8, 1), (3, 3, 1, 2), 'from 0; got'),
  ({'lowering': 'fast'}, (3, 8, 8, 1), (3, 3, 1, 2), "auto, .* got 'fast'"),
]


@pytest.mark.parametrize(('options', 'inputs', 'kernel', 'message'), IMPOSSIBLE)
def test_impossible_geometry_is_refused(options, inputs, kernel, message):
  with pytest.raises(ValueError, match=message):
    convolve(np.ones(inputs), np.ones(kernel), **options, name='layer 7')


@pytest.mark.parametrize('shape', [(2, 1, 1, 3), (2, 4, 1, 3), (4, 4, 3)])
@pytest.mark.parametrize('pool', [max_pool, average_pool])
def test_pooling_refuses_what_would_leave_nothing(pool, shape):
  with pytest.raises(ValueError, match=f'^{pool.__name__}: ') as error:
    pool(np.zeros(shape))
  assert str(shape) in str(error.value)
  with pytest.raises(ValueError, match=r'^layer 7: '):
    pool(np.zeros(shape), name='layer 7')


@pytest.mark.parametrize('pool', [max_pool, average_pool])
@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'size': 3}, r'of 3x3 does not fit into inputs of shape \(1, 2, 2, 1\)'),
    ({'size': 0}, r'size must be 1 or more, .* got \(0, 0\)'),
    ({'size': (1, 1, 1)}, r'size must be .* two .* got \(1, 1, 1\)'),
    ({'stride': (1, -1)}, r'stride must be 1 or more, .* got \(1, -1\)'),
  ],
)
def test_impossible_windows_of_a_pool_are_refused(pool, options, message):
  with pytest.raises(ValueError, match=f'^{pool.__name__}: .*{message}'):
    pool(np.zeros((1, 2, 2, 1)), **options)


def test_auto_is_one_of_the_others():
  assert resolve('auto') in ('matmul', 'native')
  assert resolve('native') == 'native'
