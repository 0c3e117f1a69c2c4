"""Image completion: pixels of one image, each once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks import completion

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 10


KEY = jax.random.key(0)
sample = jax.jit(completion(IMAGES, shots=5, queries=3))


def test_a_task_is_all_pixels_of_one_image_each_at_its_place():
  seen = set()
  for seed in range(12):
    task = sample(jax.random.key(seed))
    assert task.support.inputs.shape == (5, 2)
    assert task.query.targets.shape == (3, 1)
    places = np.concatenate([task.support.inputs, task.query.inputs])
    values = np.concatenate([task.support.targets, task.query.targets])
    rows = np.rint((places[:, 0] + 1) / 2 * 2 - 0.5).astype(int)
    columns = np.rint((places[:, 1] + 1) / 2 * 4 - 0.5).astype(int)
    assert sorted(zip(rows, columns, strict=True)) == [
      (row, column) for row in range(2) for column in range(4)
    ]
    image = int(np.rint(values.min() * 255)) // 80
    np.testing.assert_allclose(
      values[:, 0], IMAGES[image, rows, columns] / 255, rtol=1e-6
    )
    seen.add(image)
  assert seen == {0, 1, 2}


def test_places_lie_between_minus_one_and_one():
  task = sample(KEY)
  places = np.concatenate([task.support.inputs, task.query.inputs])
  np.testing.assert_allclose(np.unique(places[:, 0]), [-0.5, 0.5])
  np.testing.assert_allclose(
    np.unique(places[:, 1]), [-0.75, -0.25, 0.25, 0.75]
  )


def test_colours_and_numbers_in_floating_point_are_taken_as_they_are():
  images = np.linspace(0, 1, 2 * 3 * 3 * 3, dtype=np.float32)
  images = images.reshape(2, 3, 3, 3)
  sample_colours = completion(jnp.asarray(images), shots=2, queries=2)
  task = jax.jit(sample_colours)(KEY)
  assert task.support.targets.shape == (2, 3)
  assert set(np.asarray(task.query.targets).flat) <= set(images.flat)


@pytest.mark.parametrize(
  ('shots', 'queries', 'message'),
  [
    (0, 1, '1 or more, got 0 and 1'),
    (5, 4, r'5 shots \+ 4 queries, but an image has only 2 x 4 pixels'),
  ],
)
def test_counts_that_cannot_be_meant_are_refused(shots, queries, message):
  with pytest.raises(ValueError, match=message):
    completion(IMAGES, shots, queries)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (
      np.zeros((3, 4, 4), np.int32),
      r'uint8 or fractions.*got int32 \[3, 4, 4\]',
    ),
    (np.zeros((3, 16), np.uint8), r'got uint8 \[3, 16\]'),
    (np.zeros((3, 4, 4), np.uint16), 'got uint16 .* convert them'),
    (np.zeros((3, 3, 8, 8), np.uint8), 'channels last'),
  ],
)
def test_what_is_no_image_is_refused(images, message):
  with pytest.raises(ValueError, match=message):
    completion(images, 2, 2)


@pytest.mark.in_ci
def test_halves_are_intensities():
  task = completion(np.full((3, 4, 4), 0.5, np.float16), 2, 2)(
    jax.random.key(0)
  )
  assert task.query.targets.dtype == np.float32
  np.testing.assert_array_equal(task.query.targets, 0.5)
