"""Microbatches: weights of chunks, keys, edges.

Every method goes through the conformance test; here the gradient is one that
can be read.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from on_devices import KEY, TASKS, mean_with_noise

import metajax
from metajax.base import map_tasks
from metajax.devices import parallel
from metajax.devices.parallel import choose_chunk_size, microbatch
from metajax.models import mlp
from metajax.tasks import sinusoid

at_once = jax.jit(mean_with_noise)


@pytest.mark.parametrize('chunk_size', [1, 2, 3, 4, 6, 7, 8, 100])
def test_every_chunk_size_gives_the_same_mean_and_the_same_keys(
  float64, chunk_size
):
  plain = at_once(KEY, 2.0, TASKS)
  chunked = jax.jit(microbatch(mean_with_noise, chunk_size))(KEY, 2.0, TASKS)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), chunked, plain
  )


def test_keys_given_one_per_task_stay_with_their_tasks(float64):
  keys = jax.random.split(jax.random.key(1), len(TASKS))
  plain, _ = at_once(keys, 2.0, TASKS)
  chunked, _ = jax.jit(microbatch(mean_with_noise, 3))(keys, 2.0, TASKS)
  np.testing.assert_allclose(chunked['gradient'], plain['gradient'], rtol=1e-12)


def test_microbatches_of_microbatches_are_microbatches(float64):
  plain, _ = at_once(KEY, 2.0, TASKS)
  chunked = microbatch(microbatch(mean_with_noise, 2), 5)
  nested, _ = jax.jit(chunked)(KEY, 2.0, TASKS)
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


# The automatic size, whatever work a chunk has to be worth (it is measured).


@pytest.fixture(params=[1e8, 2e9])
def on_cpu(monkeypatch, request):
  """As on a CPU that wants so much work in a chunk."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(parallel, '_FLOPS_PER_CHUNK', request.param)


@pytest.fixture
def all_work_is_little(monkeypatch):
  """As on a CPU on which nothing but memory limits a chunk."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(parallel, '_FLOPS_PER_CHUNK', 1e15)


def multiply(key, meta_params, tasks):
  """A product for each task."""
  products = map_tasks(lambda key, task: task @ meta_params, key, tasks)
  return jnp.mean(products, 0), {}


def regression(num_tasks, num_examples=10):
  """MAML with a small network: estimator, key, meta-parameters and tasks."""
  learner = metajax.maml(mlp([40], 1), metajax.mean_squared_error)

  @jax.jit
  def draw():
    tasks = metajax.sample_tasks(
      sinusoid(num_examples, num_examples), KEY, num_tasks
    )
    return learner.init(jax.random.key(1), tasks.support.inputs[0]), tasks

  params, tasks = jax.tree.map(np.asarray, draw())
  return learner.grad, jax.random.key(2), params, tasks


def compiled_for(grad, key, params, tasks, size):
  """The program of the first so many tasks."""
  chunk = jax.tree.map(lambda leaf: leaf[:size], tasks)
  return jax.jit(grad).lower(key, params, chunk).compile()


def memory_of(program):
  """Bytes of temporaries."""
  return program.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures('on_cpu')
def test_tiny_tasks_are_computed_together_and_expensive_ones_alone():
  assert choose_chunk_size(*regression(25)) == 25
  expensive = np.zeros((4, 2048, 1024), np.float32)  # 4.3 GFLOP each
  assert choose_chunk_size(multiply, KEY, expensive[0, :1024], expensive) == 1


def test_an_accelerator_takes_all_tasks(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  expensive = np.zeros((4, 2048, 1024), np.float32)
  size = choose_chunk_size(
    multiply, KEY, expensive[0, :1024], expensive, memory=2**40
  )
  assert size == 4


@pytest.mark.in_ci
@pytest.mark.usefixtures('all_work_is_little')
@pytest.mark.parametrize(
  'total', [7, pytest.param(12, marks=pytest.mark.in_ci)]
)
def test_a_chunk_fits_into_memory_and_divides_the_tasks(total):
  problem = regression(total, num_examples=500)
  needs = cache(lambda size: memory_of(compiled_for(*problem, size)))
  whole = needs(total)
  sizes = []
  for memory in (2 * whole, whole // 3, whole // 6, 1):
    size = choose_chunk_size(*problem, memory=memory)
    assert total % size == 0
    assert size == 1 or needs(size) <= memory
    sizes.append(size)
  assert sizes[0] == total
  assert sizes == sorted(sizes, reverse=True)
  assert total == 7 or 1 < sizes[1] < total
  assert sizes[-1] == 1


@pytest.mark.in_ci
@pytest.mark.usefixtures('all_work_is_little')
def test_chunks_of_automatic_size_give_the_same_gradient(float64, monkeypatch):
  grad, key, params, tasks = regression(12, num_examples=500)
  params, tasks = jax.tree.map(
    lambda leaf: leaf.astype(np.float64), (params, tasks)
  )
  plain = compiled_for(grad, key, params, tasks, 12)
  limit = memory_of(plain) // 3
  monkeypatch.setattr(parallel, '_device_memory', lambda: 2 * limit)
  size = choose_chunk_size(grad, key, params, tasks)
  assert 1 < size < 12
  chunked = compiled_for(microbatch(grad, 'auto'), key, params, tasks, 12)
  assert memory_of(chunked) < 2 * limit
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
    chunked(key, params, tasks),
    plain(key, params, tasks),
  )
