"""Kernels of 8 bits: how far off, and of what."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_transformer as plain
import pytest

import metajax
from metajax.base import Batch
from metajax.inner import partition
from metajax.models import lora, quantise
from metajax.models.tuning import LowRank, Quantised
from metajax.models.tuning.kernels import dense

PARAMS = plain.drawn()


def test_no_weight_is_off_by_more_than_half_a_step():
  kernel = jax.random.normal(jax.random.key(0), (3, 50, 7))
  kernel *= jnp.logspace(-3, 3, 7)[None, None]
  eight = quantise({'kernel': kernel})['kernel']
  assert eight.values.dtype == jnp.int8
  assert eight.scale.shape == (3, 7)
  step = jnp.expand_dims(eight.scale, -2)
  assert (jnp.abs(dense(eight) - kernel) <= 0.5001 * step).all()
  np.testing.assert_array_equal(jnp.abs(eight.values).max(1), 127)


def test_a_column_of_zeros_is_zero():
  eight = quantise({'kernel': jnp.zeros((4, 2))})['kernel']
  np.testing.assert_array_equal(jnp.ones((1, 4)) @ eight, [[0.0, 0.0]])


@pytest.mark.in_ci
def test_kernels_alone_are_rounded_and_outputs_are_near():
  eight = quantise(PARAMS)
  kinds = {
    type(leaf)
    for leaf in jax.tree.leaves(
      eight, is_leaf=lambda leaf: isinstance(leaf, Quantised)
    )
  }
  assert Quantised in kinds
  assert isinstance(eight['embeddings']['token'], np.ndarray)
  before, after = (plain.apply(x, plain.TOKENS) for x in (PARAMS, eight))
  np.testing.assert_allclose(before, after, atol=0.05)
  assert not np.array_equal(before, after)


def test_adapters_of_eight_bits_are_floating_point_and_start_at_the_base():
  eight = quantise(PARAMS)
  adapt = lora(2)
  learned = adapt.init(jax.random.key(1), eight)
  assert {x.dtype.name for x in jax.tree.leaves(learned)} == {'float32'}
  combined = adapt.combine(eight, learned)
  kernel = combined['block_0']['attention']['query']['kernel']
  assert isinstance(kernel, LowRank)
  np.testing.assert_array_equal(
    plain.apply(combined, plain.TOKENS), plain.apply(eight, plain.TOKENS)
  )
  combined = adapt.combine(eight, plain.moved(learned))
  np.testing.assert_allclose(
    plain.apply(combined, plain.TOKENS),
    plain.apply(jax.tree.map(
      dense, combined, is_leaf=lambda x: isinstance(x, LowRank | Quantised)
    ), plain.TOKENS),
    atol=1e-5,
  )  # fmt: skip


def test_nothing_of_a_quantised_kernel_is_ever_learned():
  eight = quantise(
    {'layer': {'kernel': jnp.ones((3, 2)), 'bias': jnp.zeros(2)}}
  )
  learned, _ = partition.split(eight, partition.everything)
  assert len(jax.tree.leaves(learned)) == 1
  learner = metajax.maml(
    metajax.Model(
      lambda key, inputs: eight,
      lambda params, inputs: plain.linear(params['layer'], inputs),
    ),
    metajax.mean_squared_error,
    0.1,
    2,
  )
  batch = Batch(jnp.ones((1, 3)), jnp.zeros((1, 2)))
  adapted, _ = learner.adapt(jax.random.key(0), eight, batch)
  for name in ('values', 'scale'):
    np.testing.assert_array_equal(
      getattr(adapted['layer']['kernel'], name),
      getattr(eight['layer']['kernel'], name),
    )
  assert not np.array_equal(adapted['layer']['bias'], eight['layer']['bias'])


def test_kernels_of_layers_named_after_embeddings_are_kernels():
  layer = {'kernel': jnp.ones((3, 4))}
  params = {'output_embedding': layer, 'patch_embed': layer}
  eight = quantise(params)
  assert all(isinstance(each['kernel'], Quantised) for each in eight.values())
  learned = lora(2, 'kernel$').init(jax.random.key(0), params)
  assert {*learned} == {'output_embedding/kernel', 'patch_embed/kernel'}


def test_what_cannot_be_rounded_is_refused():
  with pytest.raises(ValueError, match=r'block_0/.*kernel.*quantised already'):
    quantise(quantise(PARAMS))
  with pytest.raises(ValueError, match='layer/kernel has weights that are not'):
    quantise({'layer': {'kernel': jnp.full((2, 2), jnp.nan)}})
  with pytest.raises(ValueError, match=r'embeddings/token \(an embedding'):
    quantise(PARAMS, 'token')
  with pytest.raises(ValueError, match='selects none'):
    quantise(PARAMS, 'kernels')
