"""Streams: an example a step, in order; two in a row are one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.adaptation.streams import learn_stream
from metajax.base import Batch


def squares(weights, one):
  return jnp.mean(jnp.square(one.inputs @ weights - one.targets))


def drawn(number):
  keys = jax.random.split(jax.random.key(0))
  return Batch(
    jax.random.normal(keys[0], (number, 3)), jax.random.normal(keys[1], number)
  )


def part(batch, start, stop):
  return jax.tree.map(lambda leaf: leaf[start:stop], batch)


def test_it_is_a_loop_over_the_examples(float64):
  stream, weights = drawn(5), jnp.zeros(3)
  expected = np.zeros(3)
  for x, y in zip(*map(np.asarray, stream), strict=True):
    expected -= 0.1 * 2 * (x @ expected - y) * x
  learned, way = learn_stream(squares, weights, optax.sgd(0.1), stream)
  np.testing.assert_allclose(learned, expected, rtol=1e-12)
  assert way.losses.shape == (1,)
  np.testing.assert_array_equal(way.trajectory[0], weights)
  np.testing.assert_array_equal(way.trajectory[-1], learned)


def test_two_streams_in_a_row_are_one(float64):
  stream, weights = drawn(6), jnp.zeros(3)
  whole, _ = learn_stream(squares, weights, optax.sgd(0.1), stream)
  first, _ = learn_stream(squares, weights, optax.sgd(0.1), part(stream, 0, 4))
  both, _ = learn_stream(squares, first, optax.sgd(0.1), part(stream, 4, 6))
  np.testing.assert_array_equal(whole, both)


def test_the_order_matters():
  stream = drawn(5)
  other = jax.tree.map(lambda leaf: leaf[::-1], stream)
  one, two = (
    learn_stream(squares, jnp.zeros(3), optax.sgd(0.1), each)[0]
    for each in (stream, other)
  )
  assert np.abs(one - two).max() > 1e-3


def test_an_empty_stream_is_refused():
  with pytest.raises(ValueError, match='1 example or more'):
    learn_stream(squares, jnp.zeros(3), optax.sgd(0.1), part(drawn(2), 0, 0))
