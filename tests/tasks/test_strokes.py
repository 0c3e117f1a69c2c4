"""Strokes: signs that differ by class, vary by hand, and give nothing away."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import sample_tasks
from metajax.tasks.strokes import (
  SPLITS,
  StrokeProgram,
  class_key,
  draw_class,
  render,
  strokes,
)

NUM_CLASSES, NUM_EXAMPLES = 60, 8

draw_one = jax.jit(render)


@jax.jit
def draw_classes(keys):
  return jax.vmap(draw_class)(keys)


def class_keys(split: str, num: int = 300) -> jax.Array:
  return jax.vmap(lambda index: class_key(split, index))(jnp.arange(num))


@pytest.fixture(scope='module')
def programs():
  """The first 300 classes of every split."""
  return {
    split: jax.tree.map(np.asarray, draw_classes(class_keys(split)))
    for split in SPLITS
  }


@pytest.fixture(scope='module')
def images(programs) -> np.ndarray:
  """Some examples of some classes, `[classes, examples, 28, 28]`."""
  # One by one: the program for a single sign is there anyway.
  hands = iter(jax.random.split(jax.random.key(1), NUM_CLASSES * NUM_EXAMPLES))
  classes = zip(*programs['train'], strict=True)
  drawn = [
    [draw_one(next(hands), StrokeProgram(*each)) for _ in range(NUM_EXAMPLES)]
    for each in itertools.islice(classes, NUM_CLASSES)
  ]
  return np.asarray(drawn)[..., 0]


@pytest.fixture(scope='module')
def tasks():
  """Many 5-way 1-shot tasks with two queries per class."""
  sample = strokes(5, 1, 2)
  draw = jax.jit(lambda key: sample_tasks(sample, key, 400))
  return jax.tree.map(np.asarray, draw(jax.random.key(0)))


def test_shapes_types_and_range(tasks):
  assert tasks.support.inputs.shape == (400, 5, 28, 28, 1)
  assert tasks.query.inputs.shape == (400, 10, 28, 28, 1)
  for batch in tasks:
    assert batch.inputs.dtype == np.float32
    assert batch.targets.dtype == np.int32
    assert batch.inputs.min() == 0.0
    assert 0.9 < batch.inputs.max() <= 1.0
    assert np.isfinite(batch.inputs).all()
    assert batch.targets.shape == batch.inputs.shape[:2]


def test_every_task_has_every_class_equally_often(tasks):
  np.testing.assert_array_equal(
    np.sort(tasks.support.targets), np.tile(np.arange(5), (400, 1))
  )
  np.testing.assert_array_equal(
    np.sort(tasks.query.targets), np.tile(np.repeat(np.arange(5), 2), (400, 1))
  )


def test_place_says_nothing_about_the_label(tasks):
  for targets in (tasks.support.targets, tasks.query.targets):
    for place in range(targets.shape[1]):
      counts = np.bincount(targets[:, place], minlength=5)
      # 80 expected; five standard deviations.
      assert np.abs(counts - 80).max() < 40
  # Nor does the order of the support say anything about that of the queries.
  agree = (tasks.support.targets[:, 0] == tasks.query.targets[:, 0]).mean()
  assert abs(agree - 0.2) < 0.1


@pytest.mark.in_ci
def test_ink_is_that_of_handwriting(images):
  ink = images.mean(axis=(2, 3))
  assert 0.04 < ink.mean() < 0.1  # Omniglot: 0.078
  assert ink.min() > 0.005  # never an empty sheet
  assert ink.max() < 0.35
  rows = images.sum(axis=(0, 1, 3))
  centre = (rows * np.arange(28)).sum() / rows.sum()
  assert abs(centre - 13.5) < 1.0


@pytest.mark.in_ci
def test_examples_of_a_class_differ_but_less_than_classes_do(images):
  flat = images.reshape(NUM_CLASSES, NUM_EXAMPLES, -1)
  assert len(np.unique(flat.reshape(-1, 784), axis=0)) == flat[..., 0].size
  within = np.linalg.norm(flat[:, 0] - flat[:, 1], axis=-1)
  between = np.linalg.norm(flat[:, 0] - np.roll(flat[:, 1], 1, 0), axis=-1)
  assert within.min() > 0.5
  assert within.mean() < 0.97 * between.mean()


def test_pixels_help_but_do_not_suffice(tasks):
  support = tasks.support.inputs.reshape(400, 5, 1, -1)
  query = tasks.query.inputs.reshape(400, 1, 10, -1)
  nearest = np.square(support - query).sum(-1).argmin(1)
  predicted = np.take_along_axis(tasks.support.targets, nearest, axis=1)
  accuracy = (predicted == tasks.query.targets).mean()
  assert 0.4 < accuracy < 0.55  # Omniglot: 0.43; chance: 0.2


def test_same_key_same_class_and_same_example(programs):
  again = jax.tree.map(np.asarray, draw_classes(class_keys('test')))
  jax.tree.map(np.testing.assert_array_equal, programs['test'], again)
  program = jax.tree.map(lambda leaf: leaf[7], again)
  first = draw_one(jax.random.key(3), program)
  np.testing.assert_array_equal(first, draw_one(jax.random.key(3), program))
  assert not np.array_equal(first, draw_one(jax.random.key(4), program))


def test_splits_share_no_class(programs):
  signs = np.concatenate([programs[split].points for split in SPLITS])
  assert len(np.unique(signs.reshape(900, -1), axis=0)) == 900


def test_a_sign_has_one_to_four_strokes_on_the_paper(programs):
  points, used = programs['train']
  counts = used.sum(1)
  assert set(counts) == {1, 2, 3, 4}
  # Strokes in use come first.
  np.testing.assert_array_equal(used, np.arange(4) < counts[:, None])
  assert np.abs(points[..., ::3, :]).max() < 1.0


def test_unused_strokes_leave_no_ink(programs):
  program = jax.tree.map(lambda leaf: leaf[0], programs['train'])
  program = program._replace(used=np.arange(4) < 1)
  first = np.arange(4)[:, None, None] < 1
  nonsense = program._replace(
    points=np.where(first, program.points, program.points + np.float32(0.5))
  )
  image = np.asarray(draw_one(jax.random.key(0), program))
  assert image.sum() > 1
  np.testing.assert_array_equal(image, draw_one(jax.random.key(0), nonsense))


@pytest.mark.in_ci
def test_one_trace_serves_every_key_alone_as_in_a_batch(tasks, traced_once):
  sample = strokes(5, 1, 2)

  @jax.jit
  @traced_once
  def draw(key):
    return sample(key)

  for index in (17, 18):
    alone = draw(jax.random.fold_in(jax.random.key(0), index))
    batched = jax.tree.map(lambda leaf, i=index: leaf[i], tasks)
    np.testing.assert_array_equal(alone.query.targets, batched.query.targets)
    np.testing.assert_allclose(
      alone.query.inputs, batched.query.inputs, atol=1e-3
    )


@pytest.mark.in_ci
def test_the_test_split_has_other_tasks(tasks):
  key = jax.random.fold_in(jax.random.key(0), 17)
  task = jax.jit(strokes(5, 1, 2, split='test'))(key)
  train, test = tasks.support.inputs[17], np.asarray(task.support.inputs)
  # The same places hold signs that have nothing to do with each other.
  assert np.linalg.norm(train - test, axis=(1, 2)).min() > 3


@pytest.mark.long
def test_double_precision_changes_nothing(tasks):
  with jax.enable_x64(True):
    key = jax.random.fold_in(jax.random.key(0), 17)
    task = jax.jit(strokes(5, 1, 2))(key)
  assert task.query.inputs.dtype == jnp.float32
  assert task.query.targets.dtype == jnp.int32
  np.testing.assert_array_equal(task.query.targets, tasks.query.targets[17])
  np.testing.assert_allclose(
    task.query.inputs, tasks.query.inputs[17], atol=1e-3
  )


@pytest.mark.parametrize('counts', [(0, 1, 1), (5, 0, 1), (5, 1, -2)])
def test_counts_must_be_positive(counts):
  with pytest.raises(ValueError, match='must be 1 or more, got'):
    strokes(*counts)


def test_unknown_split_names_the_known_ones():
  with pytest.raises(ValueError, match="train, validation, test; got 'dev'"):
    strokes(5, 1, 1, split='dev')
  with pytest.raises(ValueError, match="got 'dev'"):
    class_key('dev', 0)
