"""What tests on several devices share: their meshes, and how they compare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import map_tasks
from metajax.devices.mesh import make_mesh

TASKS = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
KEY = jax.random.key(0)


def long(value):
  """A case that `pytest -m long` runs."""
  return pytest.param(value, marks=pytest.mark.long)


def mean_with_noise(key, meta_params, tasks):
  """A mean over tasks of the task plus noise from the key of the task."""

  def of_task(key, task):
    return meta_params * task + jax.random.normal(key)

  values = map_tasks(of_task, key, tasks)
  return {'gradient': jnp.mean(values)}, {'largest': jnp.mean(values**2)}


def mesh_of(num_devices, model=1):
  """The first few devices, along the axis of tasks or along both."""
  axes = {'task': num_devices // model} | (
    {'model': model} if model > 1 else {}
  )
  return make_mesh(axes, jax.devices()[:num_devices])


def assert_close(found, expected, rtol):
  """Trees agree, relative to the largest number in them."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

  def compare(path, a, b):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(
      a, b, rtol=0, atol=rtol * largest, err_msg=jax.tree_util.keystr(path)
    )

  jax.tree.map_with_path(compare, found, expected)
