"""Tasks from the memory of the host: the same tasks, wherever they lie."""

from functools import cache

import jax
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Model, sample_tasks
from metajax.devices.mesh import largest_dimension, make_mesh
from metajax.devices.streaming import HostSampler, stream
from metajax.tasks import HostEpisodes, episodes

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
LABELS = np.arange(60) % 6
SIZES = 3, 1, 2
ON_HOST = HostEpisodes(IMAGES, LABELS, *SIZES)
ON_DEVICE = episodes(IMAGES, LABELS, *SIZES)
KEY = jax.random.key(5)
TASKS_PER_STEP = 8
MODEL = Model(
  init=lambda key, inputs: 0.1 * jax.random.normal(key, (16, 3)),
  apply=lambda params, inputs: inputs.reshape(len(inputs), -1) @ params,
)


decode = jax.jit(jax.vmap(ON_HOST.decode))


def make_train(sample, **options) -> metajax.TrainStep:
  return metajax.make_train_step(
    metajax.maml(MODEL, metajax.cross_entropy, 0.1, 1),
    optax.adam(1e-2),
    sample,
    tasks_per_step=TASKS_PER_STEP,
    **options,
  )


def after(train: metajax.TrainStep, *dispatches: int):
  state, metrics = train.init(KEY), {}
  for size in dispatches:
    state, metrics = train.run(state, size)
  return state, metrics


on_host = cache(lambda: make_train(ON_HOST))
on_device = cache(lambda: make_train(ON_DEVICE))


def assert_same(one, other):
  """Bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.in_ci
def test_an_episode_on_the_host_is_that_on_the_device():
  keys = jax.random.split(KEY, TASKS_PER_STEP)
  drawn = ON_HOST.draw(keys)
  assert drawn.support.inputs.dtype == np.uint8
  expected = jax.tree.map(np.asarray, jax.jit(jax.vmap(ON_DEVICE))(keys))
  assert_same(decode(drawn), expected)
  assert_same(jax.jit(jax.vmap(ON_HOST))(keys), expected)
  assert_same(
    jax.jit(ON_HOST)(keys[2]), jax.tree.map(lambda leaf: leaf[2], expected)
  )


def test_images_may_lie_in_a_file(tmp_path):
  np.save(tmp_path / 'images.npy', IMAGES)
  images = np.load(tmp_path / 'images.npy', mmap_mode='r')
  sampler = HostEpisodes(images, LABELS, *SIZES)
  keys = jax.random.split(KEY, TASKS_PER_STEP)
  assert_same(sampler.draw(keys), ON_HOST.draw(keys))


def test_the_kinds_of_sampler_are_told_apart():
  assert isinstance(ON_HOST, HostSampler)
  assert not isinstance(ON_DEVICE, HostSampler)


def test_bad_sizes_are_refused():
  with pytest.raises(ValueError, match='only 6 classes'):
    HostEpisodes(IMAGES, LABELS, 7, 1, 1)


@pytest.mark.in_ci
def test_a_streamed_run_is_the_run_on_the_device():
  state, metrics = after(on_host(), 1, 4)
  expected, expected_metrics = after(on_device(), 1, 4)
  assert int(state.step) == 5
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    (state.meta_params, metrics),
    (expected.meta_params, expected_metrics),
  )


@pytest.mark.in_ci
def test_a_stream_goes_on_from_any_step():
  train = on_host()
  uninterrupted, _ = after(train, 6)
  halfway, _ = after(train, 3)
  saved = jax.tree.map(np.asarray, halfway._replace(key=None))
  wandering, _ = train.run(halfway, 2)  # the stream is elsewhere now
  assert int(wandering.step) == 5
  restored = jax.tree.map(jax.numpy.asarray, saved)
  other, key = make_train(ON_HOST), train.init(KEY).key
  resumed, _ = other.run(restored._replace(key=key), 3)
  assert_same(resumed.meta_params, uninterrupted.meta_params)
  resumed, _ = train.run(
    jax.tree.map(jax.numpy.asarray, saved)._replace(key=train.init(KEY).key), 3
  )
  assert_same(resumed.meta_params, uninterrupted.meta_params)


@pytest.mark.in_ci
@pytest.mark.parametrize('axes', [{'task': 8}, {'task': 4, 'model': 2}])
def test_a_stream_over_a_mesh(axes):
  mesh = make_mesh(axes)
  rule = largest_dimension(mesh, 'task', at_least=1)
  state, _ = after(make_train(ON_HOST, mesh=mesh, rule=rule), 1, 3)
  expected, _ = after(on_device(), 4)
  np.testing.assert_allclose(
    state.meta_params, expected.meta_params, rtol=1e-5, atol=1e-7
  )


@pytest.mark.in_ci
def test_a_stream_divides_tasks_over_devices():
  mesh = make_mesh({'task': 8})
  tasks = next(stream(ON_HOST, KEY, 3, TASKS_PER_STEP, mesh))
  assert tasks.support.inputs.shape == (8, 3, 4, 4, 1)
  assert tasks.support.inputs.addressable_shards[5].data.shape[0] == 1
  assert_same(tasks, next(stream(ON_HOST, KEY, 3, TASKS_PER_STEP)))

  @jax.jit
  def expected():
    step_key, _ = jax.random.split(jax.random.fold_in(KEY, 3))
    return sample_tasks(ON_DEVICE, step_key, TASKS_PER_STEP)

  assert_same(decode(jax.tree.map(np.asarray, tasks)), expected())


@pytest.mark.in_ci
def test_steps_that_are_not_finite_are_left_out_of_the_means():
  images = IMAGES.astype(np.float32) / 255
  images[::7] = np.nan  # most tasks hold one
  streamed = make_train(HostEpisodes(images, LABELS, *SIZES))
  drawn = make_train(episodes(images, LABELS, *SIZES))
  for dispatch in (1, 40):
    with pytest.warns(metajax.SkippedSteps):
      state, metrics = after(streamed, dispatch)
    with pytest.warns(metajax.SkippedSteps):
      expected, expected_metrics = after(drawn, dispatch)
    assert int(state.step) == int(expected.step) < 40
    assert int(state.skipped_in_a_row) == int(expected.skipped_in_a_row)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
      metrics,
      expected_metrics,
    )


@pytest.mark.long
def test_a_host_sampler_is_tested_as_one_on_the_device_is():
  params = MODEL.init(KEY, np.zeros((1, 4, 4, 1)))
  learner = metajax.maml(MODEL, metajax.cross_entropy, 0.1, 1)
  for mesh in (None, make_mesh({'task': 8})):
    tested = [
      metajax.evaluate(
        learner, metajax.cross_entropy, params, sample, key=KEY,
        num_tasks=10, mesh=mesh,
      )
      for sample in (ON_HOST, ON_DEVICE)
    ]  # fmt: skip
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *tested
    )


@pytest.mark.in_ci
def test_the_program_of_a_streamed_step_can_be_had():
  for mesh in (None, make_mesh({'task': 8})):
    train = make_train(ON_HOST, mesh=mesh)
    assert train.cost().flops > 0
    assert train.lower().compile() is not None
