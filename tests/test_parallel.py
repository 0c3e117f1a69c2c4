"""Microbatches: weights of chunks, keys, edges. (Every method goes through
the conformance test; here the gradient is one that can be read.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import map_tasks
from metajax.parallel import microbatch

TASKS = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
KEY = jax.random.key(0)


def mean_with_noise(key, meta_params, tasks):
  """A mean over tasks of the task plus noise from the key of the task."""

  def of_task(key, task):
    return meta_params * task + jax.random.normal(key)

  values = map_tasks(of_task, key, tasks)
  return {'gradient': jnp.mean(values)}, {'largest': jnp.mean(values**2)}


@pytest.mark.parametrize('chunk_size', [1, 2, 3, 4, 6, 7, 8, 100])
def test_every_chunk_size_gives_the_same_mean_and_the_same_keys(
  float64, chunk_size
):
  plain = mean_with_noise(KEY, 2.0, TASKS)
  chunked = microbatch(mean_with_noise, chunk_size)(KEY, 2.0, TASKS)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), chunked, plain
  )


def test_keys_given_one_per_task_stay_with_their_tasks(float64):
  keys = jax.random.split(jax.random.key(1), len(TASKS))
  plain, _ = mean_with_noise(keys, 2.0, TASKS)
  chunked, _ = microbatch(mean_with_noise, 3)(keys, 2.0, TASKS)
  np.testing.assert_allclose(chunked['gradient'], plain['gradient'], rtol=1e-12)


def test_microbatches_of_microbatches_are_microbatches(float64):
  plain, _ = mean_with_noise(KEY, 2.0, TASKS)
  nested, _ = microbatch(microbatch(mean_with_noise, 2), 5)(KEY, 2.0, TASKS)
  np.testing.assert_allclose(nested['gradient'], plain['gradient'], rtol=1e-12)


def test_one_chunk_at_a_time_is_in_flight():
  sizes = []

  def grad(key, meta_params, tasks):
    sizes.append(len(tasks))
    return mean_with_noise(key, meta_params, tasks)

  microbatch(grad, 3)(KEY, 2.0, TASKS)
  assert set(sizes) == {3, 1}


@pytest.mark.parametrize('chunk_size', [0, -2, 1.5, 'all'])
def test_a_chunk_of_no_tasks_is_refused(chunk_size):
  with pytest.raises(
    ValueError, match=f"'auto' or a number from 1, got {chunk_size!r}"
  ):
    microbatch(mean_with_noise, chunk_size)
