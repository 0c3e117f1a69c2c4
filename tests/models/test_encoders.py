"""Networks by name, with the head that a method asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import Head
from metajax.models import conv4, mlp
from metajax.models.encoders import ENCODERS, encoder, sequences

KEY = jax.random.key(0)
IMAGES = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)


def outputs(model, inputs=IMAGES):
  """The shape of what a network gives, and its parameters by path."""

  def both(inputs):
    params = model.init(KEY, inputs)
    return params, model.apply(params, inputs)

  params, result = jax.eval_shape(both, inputs)
  paths = {
    jax.tree_util.keystr(path): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(params)
  }
  return result.shape, paths


MEMORIES = [name for name in ENCODERS if 'memory' in ENCODERS[name].heads]


@pytest.mark.parametrize('name', MEMORIES)
def test_a_memory_has_outputs_at_every_step(name):
  model = encoder(name, Head('memory'), 7, width=4)
  sequences = jax.ShapeDtypeStruct((3, 5, 2), jnp.float32)
  assert outputs(model, sequences)[0] == (3, 5, 7)


@pytest.mark.parametrize('name', [n for n in ENCODERS if n not in MEMORIES])
def test_every_network_ends_in_what_is_asked_for(name):
  heads = ENCODERS[name].heads
  assert {'outputs', 'features'} <= set(heads)
  shape, paths = outputs(encoder(name, Head('outputs'), 7, width=4))
  assert shape == (3, 7)
  # Methods find the last layer by its name.
  assert {shape[-1] for path, shape in paths.items() if 'head' in path} == {7}
  shape, _ = outputs(encoder(name, Head('features'), 7, width=4))
  assert len(shape) == 2
  shape, _ = outputs(encoder(name, Head('features', 11), 7, width=4))
  assert shape == (3, 11)
  if 'maps' in heads:
    shape, _ = outputs(encoder(name, Head('maps'), 7, width=4))
    assert len(shape) == 4
  if ENCODERS[name].has_warps:
    model = encoder(name, Head('outputs', warps=True), 7, width=4)
    assert any('warp_' in path for path in outputs(model)[1])


@pytest.mark.parametrize(
  ('named', 'built'),
  [
    (encoder('conv4', Head('outputs'), 5, width=8), conv4(5, width=8)),
    (
      encoder('conv4_max_pool', Head('features'), 5, width=8),
      conv4(None, width=8, downsample='max_pool', pool='flatten'),
    ),
    (encoder('mlp', Head('features'), 1, width=8, depth=3), mlp([8] * 3, 8)),
  ],
)
def test_a_name_stands_for_the_network_that_it_is(named, built):
  """The same program computes it."""

  def program(model):
    def everything(inputs):
      params = model.init(KEY, inputs)
      return params, model.apply(params, inputs)

    return str(jax.make_jaxpr(everything)(jnp.zeros((3, 16, 16, 1))))

  assert program(named) == program(built)


def test_width_and_depth_are_those_asked_for():
  _, paths = outputs(encoder('mlp', Head(), 5, width=6, depth=3))
  kernels = [shape for path, shape in paths.items() if 'kernel' in path]
  assert sorted(kernels) == [(6, 5), (6, 6), (6, 6), (784, 6)]
  _, paths = outputs(encoder('resnet12', Head(), 5, width=4))
  assert {shape[-1] for path, shape in paths.items() if 'kernel' in path} == {
    4, 10, 20, 40, 5
  }  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'head', 'depth', 'message'),
  [
    ('conv5', Head(), None, "there is no network 'conv5'; there are conv4,"),
    ('resnet12', Head('maps'), None, 'resnet12 cannot end in maps; conv4, '),
    ('mlp', Head('maps'), None, 'mlp cannot end in maps; '),
    ('transformer', Head(warps=True), None, 'with warps between its layers; '),
    ('conv4', Head(), 3, 'conv4 has no depth to choose; mlp, transformer have'),
  ],
)
def test_what_cannot_be_is_refused_with_what_can(name, head, depth, message):
  with pytest.raises(ValueError, match=message):
    encoder(name, head, 5, depth=depth)


def test_images_rows_and_sequences_are_sequences():
  images = jnp.arange(2 * 28 * 28.0).reshape(2, 28, 28, 1)
  patches = sequences(images)
  assert patches.shape == (2, 49, 16)
  np.testing.assert_array_equal(
    patches[1, 8], images[1, 4:8, 4:8, 0].reshape(-1)
  )
  assert sequences(jnp.zeros((2, 84, 84, 3))).shape == (2, 49, 12 * 12 * 3)
  assert sequences(jnp.zeros((2, 7, 5, 1))).shape == (2, 35, 1)
  assert sequences(jnp.zeros((2, 3))).shape == (2, 3, 1)
  assert sequences(jnp.zeros((2, 3, 4))).shape == (2, 3, 4)
