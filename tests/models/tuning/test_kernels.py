"""Kernels that are no plain arrays, against the matrices that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.tuning import LowRank, Quantised, quantise
from metajax.models.tuning.kernels import dense


def draw(key, *shape):
  return jax.random.normal(jax.random.key(key), shape)


def low_rank(magnitude=False, leading=(), scale=0.7):
  return LowRank(
    draw(0, *leading, 6, 5),
    draw(1, *leading, 6, 2),
    draw(2, *leading, 2, 5),
    draw(3, *leading, 5) if magnitude else None,
    scale=scale,
  )


def paper(kernel, a, b, magnitude, scale):
  """The equations of the papers, with a magnitude m that is no change."""
  whole = kernel + scale * a @ b
  if magnitude is None:
    return whole
  before, after = (
    np.sqrt((x**2).sum(0, keepdims=True)) for x in (kernel, whole)
  )
  return (before + magnitude) * whole / after


@pytest.mark.parametrize('magnitude', [False, True], ids=['lora', 'dora'])
def test_the_product_is_that_of_the_papers(float64, magnitude):
  kernel, inputs = low_rank(magnitude), draw(4, 3, 4, 6)
  matrix = paper(
    *(x if x is None else np.asarray(x) for x in
      (kernel.kernel, kernel.a, kernel.b, kernel.magnitude)), 0.7
  )  # fmt: skip
  np.testing.assert_allclose(inputs @ kernel, inputs @ matrix, atol=1e-12)
  np.testing.assert_allclose(dense(kernel), matrix, atol=1e-12)


@pytest.mark.in_ci
@pytest.mark.parametrize('magnitude', [False, True], ids=['lora', 'dora'])
def test_single_precision_is_near_it(magnitude):
  kernel, inputs = low_rank(magnitude), draw(4, 3, 6)
  np.testing.assert_allclose(inputs @ kernel, inputs @ dense(kernel), atol=1e-5)


@pytest.mark.in_ci
def test_every_derivative_of_dora_is_that_of_the_paper(float64):
  kernel, inputs = low_rank(True), draw(4, 3, 6)
  parts = (kernel.kernel, kernel.a, kernel.b, kernel.magnitude)

  def ours(parts):
    return jnp.sin(inputs @ LowRank(*parts, scale=0.7)).sum()

  def theirs(parts):
    kernel, a, b, magnitude = parts
    whole = kernel + 0.7 * a @ b
    length = jnp.linalg.norm(kernel, axis=0) + magnitude
    columns = whole / jnp.linalg.norm(whole, axis=0)[None]
    return jnp.sin(inputs @ (length[None] * columns)).sum()

  directions = jax.tree.map(lambda x: jnp.cos(x), parts)

  def second(loss):
    return jax.jvp(jax.grad(loss), (parts,), (directions,))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11),
    second(ours),
    second(theirs),
  )


@pytest.mark.in_ci
def test_a_column_of_zeros_stays_and_has_a_gradient():
  kernel = jnp.zeros((3, 2)).at[:, 0].set(1.0)

  def outputs(b):
    return jnp.ones((1, 3)) @ LowRank(kernel, jnp.ones((3, 1)), b, jnp.zeros(2))

  np.testing.assert_array_equal(outputs(jnp.zeros((1, 2))), [[3.0, 0.0]])
  slopes = jax.jacobian(outputs)(jnp.zeros((1, 2)))
  assert np.isfinite(slopes).all()


@pytest.mark.in_ci
@pytest.mark.parametrize('magnitude', [False, True], ids=['lora', 'dora'])
@pytest.mark.parametrize('quantised', [False, True], ids=['array', 'int8'])
def test_leading_axes_are_those_of_scans_maps_and_batched_products(
  magnitude, quantised
):
  kernel, inputs = low_rank(magnitude, (3,)), draw(4, 3, 4, 6)
  if quantised:
    eight = quantise({'kernel': kernel.kernel})['kernel']
    kernel = LowRank(eight, kernel.a, kernel.b, kernel.magnitude, scale=0.7)
  expected = jnp.einsum('lni,lio->lno', inputs, dense(kernel))
  _, scanned = jax.lax.scan(
    lambda _, x: (None, x[0] @ x[1]), None, (inputs, kernel)
  )
  mapped = jax.vmap(lambda inputs, kernel: inputs @ kernel)(inputs, kernel)
  for outputs in (inputs @ kernel, scanned, mapped):
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.in_ci
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_outputs_have_the_type_of_the_inputs(dtype):
  plain = low_rank()
  for kernel in (
    plain,
    low_rank(True),
    quantise({'kernel': plain.kernel})['kernel'],
    LowRank(plain.kernel.astype(jnp.bfloat16), plain.a, plain.b),
  ):
    inputs = draw(4, 3, 6).astype(dtype)
    outputs = inputs @ kernel
    assert outputs.dtype == dtype
    np.testing.assert_allclose(
      outputs.astype(jnp.float32),
      draw(4, 3, 6) @ dense(kernel).astype(jnp.float32),
      atol=0.15 if dtype == 'bfloat16' else 1e-5,
    )


def test_arrays_of_numpy_and_integers_are_inputs_too():
  kernel = low_rank()
  ones = np.ones((2, 6))
  expected = ones @ np.asarray(dense(kernel))
  for inputs in (ones.astype(np.float32), ones.astype(np.int32)):
    for kernels in (kernel, quantise({'kernel': kernel.kernel})['kernel']):
      outputs = inputs @ kernels
      assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(inputs @ kernel, expected, atol=1e-5)
  one = draw(4, 6)
  np.testing.assert_allclose(one @ kernel, one @ dense(kernel), atol=1e-5)


def test_inputs_of_the_adapter_alone_are_dropped(float64):
  plain = low_rank()
  key = jax.random.key_data(jax.random.key(7))
  kernel = LowRank(
    plain.kernel, plain.a, plain.b, None, key, scale=0.7, dropout=0.4
  )
  inputs = jnp.ones((2000, 6))
  low = inputs @ kernel - inputs @ plain.kernel
  expected = 0.7 * inputs[:1] @ plain.a @ plain.b
  assert np.std(low, 0).min() > 0.1
  np.testing.assert_allclose(low.mean(0, keepdims=True), expected, atol=0.25)


def test_a_kernel_that_drops_has_no_sum():
  plain = low_rank()
  key = jax.random.key_data(jax.random.key(7))
  with pytest.raises(ValueError, match=r'give lora\(dropout=0.0\)'):
    dense(LowRank(plain.kernel, plain.a, plain.b, None, key, dropout=0.4))


def test_kernels_say_what_they_are_in_a_line():
  kernel = low_rank()
  eight = quantise({'kernel': kernel.kernel})['kernel']
  assert repr(kernel).startswith('LowRank([6, 5], rank 2')
  assert repr(eight).startswith('Quantised([6, 5]')
  assert '\n' not in repr(LowRank(eight, kernel.a, kernel.b))
  assert isinstance(jax.tree.map(lambda x: x, eight), Quantised)
