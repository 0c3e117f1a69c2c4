"""Meshes of devices, and which part of an array lies on which of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from metajax.devices.mesh import (
  axis_size,
  by_path,
  largest_dimension,
  make_mesh,
  put,
  replicated,
  shardings,
  with_places,
)
from metajax.models import mlp

WHOLE = PartitionSpec()
KERNEL = "['Dense_0']['kernel']"


@pytest.fixture(scope='module')
def mesh():
  return make_mesh({'task': 4, 'model': 2})


def spec(*axes):
  return PartitionSpec(*axes)


def on_the_host(leaf):
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf)


# Meshes.


def test_a_mesh_has_the_axes_in_their_order_and_all_devices(mesh):
  assert tuple(mesh.shape.items()) == (('task', 4), ('model', 2))
  assert set(mesh.devices.flat) == set(jax.devices())


def test_a_mesh_may_have_some_of_the_devices():
  some = jax.devices()[2:4]
  mesh = make_mesh({'task': 2}, some)
  assert set(mesh.devices.flat) == set(some)


def test_devices_that_are_close_share_the_last_axis(mesh):
  numbers = [[device.id for device in row] for row in mesh.devices]
  assert numbers == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
  ('axes', 'message'),
  [
    ({'task': 3}, r'task:3 needs 3 devices, and there are 8 \(cpu\)'),
    ({'task': 16}, r'task:16 needs 16 devices, and there are 8 \(cpu\)'),
    (
      {'task': 4, 'model': 4},
      r'task:4 x model:4 needs 16 devices, and there are 8 \(cpu\)',
    ),
  ],
)
def test_a_mesh_of_other_than_all_devices_is_refused(axes, message):
  with pytest.raises(ValueError, match=message):
    make_mesh(axes)


def test_the_size_of_an_axis_is_its_number_of_devices(mesh):
  assert (axis_size(mesh, 'task'), axis_size(mesh, 'model')) == (4, 2)


def test_an_axis_that_the_mesh_lacks_is_named_with_those_it_has(mesh):
  with pytest.raises(
    ValueError, match="the mesh has no axis 'data'; it has task, model"
  ):
    axis_size(mesh, 'data')


# Rules.


@pytest.mark.parametrize('shape', [(), (8,), (1024, 1024)])
def test_under_the_plainest_rule_everything_is_whole(shape):
  assert replicated(KERNEL, shape) == WHOLE


@pytest.mark.parametrize(
  ('shape', 'divided'),
  [
    ((8, 16), spec(None, 'task')),
    ((16, 8), spec('task')),
    ((3, 3, 8, 12), spec(None, None, None, 'task')),
    ((3, 12, 8), spec(None, 'task')),
    ((8, 8), spec(None, 'task')),  # of equal ones the last
    ((9, 8), spec(None, 'task')),  # the largest that can be divided
    ((64,), spec('task')),
    ((9, 15), WHOLE),  # neither can be
    ((4, 4), WHOLE),  # small
    ((), WHOLE),
  ],
)
def test_the_largest_dimension_is_divided_and_small_arrays_stay_whole(
  mesh, shape, divided
):
  assert largest_dimension(mesh, 'task', at_least=64)(KERNEL, shape) == divided


def test_arrays_below_the_limit_stay_whole_and_at_it_are_divided(mesh):
  rule = largest_dimension(mesh, 'model')
  assert rule(KERNEL, (2**16 - 2,)) == WHOLE
  assert rule(KERNEL, (2**16,)) == spec('model')


def test_dividing_over_an_axis_that_the_mesh_lacks_is_refused(mesh):
  with pytest.raises(ValueError, match="no axis 'data'"):
    largest_dimension(mesh, 'data')


def test_the_first_pattern_that_is_found_in_a_path_decides(mesh):
  rule = by_path(
    mesh,
    [
      (r'head.*kernel', spec('model')),
      (r'kernel', spec(None, 'model')),
      (r'Dense', spec('task')),
    ],
  )
  assert rule("['head']['kernel']", (8, 2)) == spec('model')
  assert rule(KERNEL, (8, 8)) == spec(None, 'model')
  assert rule("['Dense_0']['bias']", (8,)) == spec('task')
  assert rule("['head']['bias']", (8,)) == WHOLE


def test_a_pattern_that_is_no_regular_expression_is_refused(mesh):
  with pytest.raises(ValueError, match=r"'kernel\(' is no regular expression"):
    by_path(mesh, [('kernel(', spec('model'))])


@pytest.mark.parametrize(
  'axes', [('data',), (None, 'data'), (('task', 'data'),)]
)
def test_a_rule_with_an_axis_that_the_mesh_lacks_is_refused(mesh, axes):
  with pytest.raises(ValueError, match="no axis 'data'; it has task, model"):
    by_path(mesh, [('kernel', spec(*axes))])


@pytest.mark.parametrize(
  ('shape', 'axes', 'message'),
  [
    ((8, 6), (None, 'task'), r'\[8, 6\], of which 6 .* the 4 devices'),
    ((8, 7), (None, 'model'), r'\[8, 7\], of which 7 .* the 2 devices'),
    ((12, 8), (('task', 'model'),), r'\[12, 8\], of which 12 .* 8 devices'),
    ((8,), (None, 'model'), r'\[8\], and is to be divided along 2 dimensions'),
  ],
)
def test_a_dimension_that_cannot_be_divided_is_named_with_its_path(
  mesh, shape, axes, message
):
  rule = by_path(mesh, [('kernel', spec(*axes))])
  with pytest.raises(ValueError, match=rf"^\['Dense_0'\].*{message}"):
    rule(KERNEL, shape)


def test_a_dimension_may_be_divided_over_two_axes(mesh):
  both = spec(('task', 'model'))
  assert by_path(mesh, [('kernel', both)])(KERNEL, (16, 3)) == both


# Trees.


@pytest.mark.parametrize('kind', ['by path', 'largest dimension'])
def test_moments_of_an_optimiser_are_divided_as_the_parameters_are(mesh, kind):
  rule = {
    'by path': by_path(mesh, [('Dense.*kernel', spec(None, 'model'))]),
    'largest dimension': largest_dimension(mesh, 'task', at_least=8),
  }[kind]
  params = mlp([8, 8], 1).init(jax.random.key(0), jnp.zeros((1, 1)))
  places = shardings((params, optax.adam(1.0).init(params)), mesh, rule)
  of_params, (of_adam, _) = places
  assert of_adam.mu == of_adam.nu == of_params
  assert of_adam.count == NamedSharding(mesh, WHOLE)
  divided = [place.spec for place in jax.tree.leaves(of_params)]
  assert set(divided) > {WHOLE}


def test_of_shapes_the_places_are_those_of_arrays(mesh):
  rule = largest_dimension(mesh, 'task', at_least=8)
  params = mlp([8, 8], 1).init(jax.random.key(0), jnp.zeros((1, 1)))
  shapes = jax.eval_shape(lambda: params)
  places = shardings(params, mesh, rule)
  assert shardings(shapes, mesh, rule) == places
  placed = with_places(shapes, places)
  assert jax.tree.map(lambda leaf: leaf.sharding, placed) == places
  assert jax.tree.map(lambda leaf: leaf.shape, placed) == jax.tree.map(
    lambda leaf: leaf.shape, params
  )


def test_every_device_gets_all_of_what_is_put_on_a_mesh(mesh):
  tree = {
    'array': jnp.arange(6.0).reshape(2, 3),
    'half': jnp.arange(3, dtype=jnp.bfloat16),
    'host': np.arange(4, dtype=np.int8),
    'key': jax.random.key(1),
    'keys': jax.random.split(jax.random.key(2), 3),
    'number': 2.5,
  }
  laid = put(tree, mesh)
  for name, leaf in laid.items():
    expected = jnp.asarray(tree[name])
    assert leaf.is_fully_replicated
    assert leaf.sharding.device_set == set(jax.devices())
    assert (leaf.dtype, leaf.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(on_the_host(leaf), on_the_host(expected))


def test_every_device_gets_its_piece_of_what_is_divided(mesh):
  tree = {
    'kernel': jnp.arange(24.0).reshape(3, 8),
    'keys': jax.random.split(jax.random.key(0), 8),
  }
  places = {
    'kernel': NamedSharding(mesh, spec(None, 'task')),
    'keys': NamedSharding(mesh, spec('task')),
  }
  laid = put(tree, places)
  assert laid['kernel'].sharding == places['kernel']
  assert laid['keys'].sharding.is_equivalent_to(places['keys'], 1)
  for name, shape in (('kernel', (3, 2)), ('keys', (2,))):
    assert laid[name].sharding.shard_shape(laid[name].shape) == shape
    np.testing.assert_array_equal(
      on_the_host(laid[name]), on_the_host(tree[name])
    )


def test_keys_on_a_mesh_draw_the_same_numbers(mesh):
  key = jax.random.key(3)
  np.testing.assert_array_equal(
    jax.random.normal(put(key, mesh), (8,)), jax.random.normal(key, (8,))
  )


def test_what_lies_on_these_devices_already_is_left_as_it_is(mesh):
  divided = put(jnp.arange(8.0), NamedSharding(mesh, spec('task')))
  assert put(divided, mesh) is divided


def test_a_mesh_of_one_device_is_a_place_of_its_own():
  mesh = make_mesh({'task': 1}, jax.devices()[:1])
  laid = put(jnp.ones(3), mesh)
  assert laid.sharding == NamedSharding(mesh, PartitionSpec())
