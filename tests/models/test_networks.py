"""Networks: shapes, names of layers, statistics that can be held."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models import conv4, from_linen, mlp


def output_shape(model, images) -> tuple[int, ...]:
  def run(images):
    return model.apply(model.init(jax.random.key(0), images), images)

  return jax.eval_shape(run, images).shape


@pytest.mark.parametrize(
  ('options', 'side', 'features'),
  [
    ({}, 28, 64),
    ({'pool': 'flatten'}, 28, 2 * 2 * 64),
    ({'downsample': 'max_pool', 'pool': 'flatten'}, 28, 64),
    ({'downsample': 'max_pool', 'pool': 'flatten'}, 84, 5 * 5 * 64),
    ({'width': 8}, 8, 8),
  ],
)
def test_conv4_embeds_images_in_the_sizes_of_the_papers(
  options, side, features
):
  images = jax.ShapeDtypeStruct((3, side, side, 1), jnp.float32)
  assert output_shape(conv4(None, **options), images) == (3, features)
  assert output_shape(conv4(5, **options), images) == (3, 5)


def test_conv4_has_the_parameters_of_the_paper():
  params = jax.eval_shape(
    conv4(5).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1))
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  convolutions = 9 * 64 + 3 * 9 * 64 * 64
  assert sum(sizes) == convolutions + 4 * 2 * 64 + 64 * 5 + 5


@pytest.mark.parametrize('model', [conv4(5, width=4), mlp([3], 5)])
def test_the_last_layer_is_called_head(model):
  params = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  assert params['head']['kernel'].shape[-1] == 5


def test_an_embedding_has_no_head():
  params = jax.eval_shape(
    conv4(None, width=4).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  assert 'head' not in params


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'downsample': 'average'}, "'stride' or 'max_pool', got 'average'"),
    ({'pool': 'max'}, "'mean' or 'flatten', got 'max'"),
  ],
)
def test_conv4_refuses_what_it_does_not_know(options, message):
  with pytest.raises(ValueError, match=message):
    conv4(5, **options)


def test_conv4_with_pooling_refuses_images_that_it_would_pool_away():
  with pytest.raises(ValueError, match='2 pixels'):
    jax.eval_shape(
      conv4(None, downsample='max_pool').init,
      jax.random.key(0),
      jnp.zeros((1, 8, 8, 1)),
    )


def test_mlp_equals_matrix_products():
  model = mlp([3], 2)
  inputs = jax.random.normal(jax.random.key(0), (5, 2, 2))
  params = jax.jit(model.init)(jax.random.key(1), inputs)
  hidden = inputs.reshape(5, 4) @ params['Dense_0']['kernel']
  expected = np.maximum(hidden, 0) @ params['head']['kernel']
  np.testing.assert_allclose(
    model.apply(params, inputs), expected, rtol=1e-5, atol=1e-6
  )


def test_a_model_without_normalisation_has_no_statistics():
  model = from_linen(nn.Dense(2))
  inputs = jnp.ones((3, 4))
  params = model.init(jax.random.key(0), inputs)
  statistics = model.measure(params, inputs)
  assert jax.tree.leaves(statistics) == []
  np.testing.assert_array_equal(
    model.freeze(statistics).apply(params, inputs), model.apply(params, inputs)
  )
