"""Networks: shapes, names of layers, statistics that can be held."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.errors import ScopeParamShapeError
from numpy_draws import parameters

from metajax import cross_entropy, descend
from metajax.models import conv4, from_linen, mlp, resnet12, transformer


def normal(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).normal(size=shape)


def output_shape(model, images) -> tuple[int, ...]:
  def start(images):
    return model.apply(model.init(jax.random.key(0), images), images)

  return jax.eval_shape(start, images).shape


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
    conv4(5).init, jax.random.key(0), np.zeros((1, 28, 28, 1))
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  convolutions = 9 * 64 + 3 * 9 * 64 * 64
  assert sum(sizes) == convolutions + 4 * 2 * 64 + 64 * 5 + 5


@pytest.mark.parametrize('model', [conv4(5, width=4), mlp([3], 5)])
def test_the_last_layer_is_called_head(model):
  params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1)))
  assert params['head']['kernel'].shape[-1] == 5


def test_an_embedding_has_no_head():
  params = jax.eval_shape(
    conv4(None, width=4).init, jax.random.key(0), np.zeros((1, 8, 8, 1))
  )
  assert 'head' not in params


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'downsample': 'average'}, "'stride' or 'max_pool', got 'average'"),
    ({'pool': 'max'}, "'mean', 'flatten' or 'none', got 'max'"),
    ({'halvings': 5}, 'halvings must be from 0 to 4, got 5'),
  ],
)
def test_conv4_refuses_what_it_does_not_know(options, message):
  with pytest.raises(ValueError, match=message):
    conv4(5, **options)


# A network, the shape of its inputs, others, and what is said of these.
MISFITS = {
  'pooled away': (
    conv4(None, downsample='max_pool'), (1, 8, 8, 1), (),
    r'BatchNorm_3: max_pool: a window of 2x2 .* shape \(1, 1, 1, 64\)',
  ),
  'pooled away in a block': (
    resnet12(None, widths=(4, 4, 4, 4)), (1, 8, 8, 1), (),
    r'_ResidualBlock_3: max_pool: a window of 2x2 .* shape \(1, 1, 1, 4\)',
  ),
  'no channels': (
    resnet12(5, widths=(4,)), (8, 8, 1), (),
    r'_ResidualBlock_0/Conv_0: wants .* got \(8, 8, 1\)',
  ),
  'other channels': (
    conv4(5), (1, 8, 8, 1), (1, 8, 8, 3),
    r'/Conv_0.* \(3, 3, 3, 64\).* \(3, 3, 1, 64\)',
  ),
  'other channels in a block': (
    resnet12(5, widths=(4,)), (1, 8, 8, 1), (1, 8, 8, 3),
    r'/_ResidualBlock_0/Conv_0.* \(3, 3, 3, 4\).* \(3, 3, 1, 4\)',
  ),
  'other size': (
    conv4(5, pool='flatten'), (1, 28, 28, 1), (2, 84, 84, 1),
    r'/head.* \(2304, 5\).* \(256, 5\)',
  ),
  'other features': (
    mlp([4], 5), (1, 8), (1, 9), r'/Dense_0.* \(9, 4\).* \(8, 4\)'
  ),
  'other length': (
    transformer(5, width=8), (1, 4, 2), (1, 9, 2),
    r'positions.* \(9, 8\).* \(4, 8\)',
  ),
  'no tokens': (
    transformer(5, vocabulary=7, width=8), (1, 4), (),
    r'inputs: an embedding wants integers, got float32 of shape \(1, 4\)',
  ),
}  # fmt: skip


@pytest.mark.parametrize(
  ('model', 'first', 'then', 'message'), MISFITS.values(), ids=MISFITS
)
def test_inputs_that_do_not_fit_name_the_layer_and_shapes(
  model, first, then, message
):
  def misfit():
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros(first))
    jax.eval_shape(model.apply, params, np.zeros(then))

  with pytest.raises((ValueError, ScopeParamShapeError), match=message):
    misfit()


def conv4_by_hand(params, images):
  """Conv-4 with pooling, of what XLA has for it."""
  hidden = images
  for index in range(4):
    hidden = jax.lax.conv_general_dilated(
      hidden,
      params[f'Conv_{index}']['kernel'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    norm = params[f'BatchNorm_{index}']
    centred = hidden - jnp.mean(hidden, (0, 1, 2), keepdims=True)
    variance = jnp.mean(centred**2, (0, 1, 2), keepdims=True)
    scale, bias = (norm[name][None, None, None] for name in ('scale', 'bias'))
    hidden = nn.relu(centred / jnp.sqrt(variance + 1e-3) * scale + bias)
    hidden = nn.max_pool(hidden, (2, 2), (2, 2))
  head = params['head']
  return hidden.reshape(len(hidden), -1) @ head['kernel'] + head['bias'][None]


@pytest.mark.long
def test_conv4_with_pooling_adapts_as_one_written_by_hand(float64):
  """Compiled, where a maximum may be computed anew, with other rounding."""
  random = np.random.default_rng(0)
  model = conv4(5, width=8, downsample='max_pool', pool='flatten')
  support, queries = jnp.asarray(random.random((2, 5, 28, 28, 1)))
  labels = jnp.arange(5)
  # Scales of both signs: a negative one turns a maximum into a minimum.
  params = jax.tree.map(
    lambda leaf: jnp.asarray(random.normal(0.0, 0.3, leaf.shape)),
    jax.eval_shape(model.init, jax.random.key(0), support),
  )

  def meta_gradient(apply):
    def loss(params, images):
      return cross_entropy(apply(params, images), labels)[0]

    def meta_loss(params):
      adapted, _ = descend(
        lambda params, step: loss(params, support), params, optax.sgd(0.1), 3
      )
      return loss(adapted, queries)

    return jax.jit(jax.value_and_grad(meta_loss))(params)

  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(
      ours, theirs, rtol=1e-9, atol=1e-12
    ),
    meta_gradient(model.apply),
    meta_gradient(conv4_by_hand),
  )


def test_conv4_may_keep_maps_that_fewer_layers_make_smaller():
  images = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)
  for downsample in ('stride', 'max_pool'):
    sides = [
      output_shape(
        conv4(
          None, width=8, downsample=downsample, pool='none', halvings=halvings
        ),
        images,
      )[1]
      for halvings in (0, 2, 4)
    ]
    assert sides == [28, 7, 2 if downsample == 'stride' else 1]


def test_mlp_equals_matrix_products():
  model = mlp([3], 2)
  inputs = normal(5, 2, 2)
  params = parameters(model.init, inputs)
  hidden = inputs.reshape(5, 4) @ params['Dense_0']['kernel']
  hidden = np.maximum(hidden + params['Dense_0']['bias'], 0)
  expected = hidden @ params['head']['kernel'] + params['head']['bias']
  np.testing.assert_allclose(
    jax.jit(model.apply)(params, inputs), expected, rtol=1e-5, atol=1e-6
  )


def test_a_model_without_normalisation_has_no_statistics():
  model = from_linen(nn.Dense(2))
  inputs = np.ones((3, 4), np.float32)
  params = jax.jit(model.init)(jax.random.key(0), inputs)
  statistics = model.measure(params, inputs)
  assert jax.tree.leaves(statistics) == []
  np.testing.assert_array_equal(
    model.freeze(statistics).apply(params, inputs), model.apply(params, inputs)
  )


def test_resnet12_has_the_size_of_the_paper():
  images = jax.ShapeDtypeStruct((3, 84, 84, 3), jnp.float32)
  assert output_shape(resnet12(None), images) == (3, 640)
  params = jax.eval_shape(resnet12(None).init, jax.random.key(0), images)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert 12.4e6 < count < 12.5e6  # 12.4 million are reported for it


def test_transformer_takes_tokens_or_vectors():
  tokens = jax.ShapeDtypeStruct((3, 7), jnp.int32)
  vectors = jax.ShapeDtypeStruct((3, 7, 2), jnp.float32)
  small = partial(transformer, width=8, depth=1)
  assert output_shape(small(5, vocabulary=11), tokens) == (3, 5)
  assert output_shape(small(5), vectors) == (3, 5)
  assert output_shape(small(None), vectors) == (3, 8)
  assert output_shape(small(5, pool='none'), vectors) == (3, 7, 5)


@pytest.mark.parametrize(
  'causal', [True, pytest.param(False, marks=pytest.mark.long)]
)
def test_a_causal_transformer_does_not_see_what_comes_later(causal):
  model = transformer(2, width=8, depth=2, causal=causal, pool='none')
  inputs = normal(1, 5, 3)
  params = parameters(model.init, inputs)
  apply = jax.jit(model.apply)
  changed = inputs + np.eye(5)[:, 3:4]
  change = np.subtract(apply(params, changed), apply(params, inputs))
  moved = np.abs(change).max((0, 2)) > 1e-6
  assert moved[3:].all()
  assert moved[:3].any() != causal


def test_without_positions_a_transformer_is_a_function_of_sets(float64):
  model = transformer(2, width=8, depth=2, pool='none', positions=False)
  inputs = normal(1, 5, 3)
  params = parameters(model.init, inputs[:, :2])
  compiled = jax.jit(model.apply)

  def apply(inputs):
    return np.asarray(compiled(params, inputs))

  order = np.array([3, 1, 4, 0, 2])
  np.testing.assert_allclose(
    apply(inputs[:, order]), apply(inputs)[:, order], rtol=1e-9
  )
  # What is not real has no effect on the others.
  real = np.array([[True, True, False, True, False]])
  kept = np.array([0, 1, 3])
  np.testing.assert_allclose(
    apply((inputs, real))[:, kept], apply(inputs[:, kept]), rtol=1e-9
  )


def test_queries_may_start_equal_to_keys():
  model = transformer(2, width=8, depth=1, alike=True)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 5, 3)))
  query, key, value = np.split(
    np.asarray(params['block_0']['attention_in']['kernel']), 3, axis=1
  )
  np.testing.assert_array_equal(query, key)
  assert np.abs(query - value).max() > 1e-3


@pytest.mark.long
def test_rematerialised_blocks_compute_the_same():
  inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
  plain, again = (
    transformer(2, width=8, depth=2, rematerialise=rematerialise)
    for rematerialise in (False, True)
  )
  params = plain.init(jax.random.key(1), inputs)
  gradients = [
    jax.jit(jax.grad(lambda p, m=model: jnp.sum(m.apply(p, inputs) ** 2)))(
      params
    )
    for model in (plain, again)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    *gradients,
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'width': 10, 'heads': 4}, '4 heads do not divide a width of 10'),
    ({'pool': 'max'}, "'mean' or 'none', got 'max'"),
  ],
)
def test_transformer_refuses(options, message):
  with pytest.raises(ValueError, match=message):
    transformer(2, **options)
