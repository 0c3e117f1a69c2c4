"""Tasks of several sizes in one shape, tasks of one group, and all classes."""

import jax
import numpy as np
import pytest

import metajax
from metajax.base import Batch, Task, Weighted, sample_tasks
from metajax.models import mlp
from metajax.tasks import (
  HostTasks,
  LabelledImages,
  classification,
  classification_places,
  episode_places,
  episodes,
  groups_of,
  pad_task,
  rotate_classes,
  strokes,
  strokes_classification,
)

WAYS, SHOTS, QUERIES = 5, 4, 2
CLASSES, EACH = 8, 10
NUM_TASKS = 300
KEY = jax.random.key(0)
LABELS = np.repeat(np.arange(CLASSES), EACH)
# Image i holds the number i, so that an example can be recognised.
IMAGES = np.zeros((CLASSES * EACH, 2, 2), np.uint8)
IMAGES[:] = np.arange(CLASSES * EACH)[:, None, None]
SMALLEST = {'min_ways': 2, 'min_shots': 1}


def numbers_of(batch: Batch) -> np.ndarray:
  inputs = np.asarray(batch.inputs)
  return np.rint(inputs[..., 0, 0, 0] * 255).astype(int)


def draw(sample, num: int = NUM_TASKS) -> Task:
  tasks = jax.jit(lambda key: sample_tasks(sample, key, num))(KEY)
  return jax.tree.map(np.asarray, tasks)


@pytest.fixture(scope='module')
def varied() -> Task:
  return draw(episodes(IMAGES, LABELS, WAYS, SHOTS, QUERIES, **SMALLEST))


def counts_of(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """How many examples of every class a task has, `[ways]`."""
  return np.bincount(targets[weights], minlength=WAYS)


def each_task(batch: Batch):
  """Targets and weights of one task after the other."""
  return zip(*batch.targets, strict=True)


def test_all_sizes_have_one_shape_and_all_occur(varied):
  for leaf in varied.support.targets:
    assert leaf.shape == (NUM_TASKS, WAYS * SHOTS)
  sizes = set()
  for targets, weights in each_task(varied.support):
    counts = counts_of(targets, weights)
    present = counts[counts > 0]
    assert len(set(present)) == 1
    sizes.add((len(present), int(present[0])))
  assert sizes == {(w, s) for w in range(2, 6) for s in range(1, 5)}


def test_queries_are_of_the_classes_of_the_support_set(varied):
  for support, query in zip(*map(each_task, varied), strict=True):
    ways = np.count_nonzero(counts_of(*support))
    assert (counts_of(*support)[:ways] > 0).all()
    expected = np.where(np.arange(WAYS) < ways, QUERIES, 0)
    np.testing.assert_array_equal(counts_of(*query), expected)


def test_a_class_of_a_task_is_one_class_of_the_data(varied):
  for index in range(50):
    task = jax.tree.map(lambda leaf: leaf[index], varied)  # noqa: B023
    targets = np.concatenate([batch.targets.values for batch in task])
    labels = LABELS[np.concatenate([numbers_of(b) for b in task])]
    # What fills the task up has the target of its class, too.
    pairs = set(zip(targets, labels, strict=True))
    assert len({way for way, _ in pairs}) == len(pairs)
    assert len({label for _, label in pairs}) == len(pairs)


def test_a_task_is_filled_up_with_its_own_examples(varied):
  for batch in varied:
    for real, numbers in zip(
      batch.targets.weights, numbers_of(batch), strict=True
    ):
      assert len(set(numbers[real])) == real.sum()
      assert set(numbers) == set(numbers[real])


@pytest.mark.long
def test_without_a_range_tasks_are_as_ever():
  whole = episodes(IMAGES, LABELS, WAYS, SHOTS, QUERIES)
  same = episodes(
    IMAGES, LABELS, WAYS, SHOTS, QUERIES, min_ways=WAYS, min_shots=SHOTS
  )
  plain, filled = draw(whole, 5), draw(same, 5)
  for batch, other in zip(plain, filled, strict=True):
    np.testing.assert_array_equal(batch.inputs, other.inputs)
    np.testing.assert_array_equal(batch.targets, other.targets.values)
    assert other.targets.weights.all()


@pytest.mark.long
def test_strokes_vary_too():
  task = draw(strokes(3, 2, 1, min_ways=2), 8)
  ways = {len(set(targets[real])) for targets, real in each_task(task.query)}
  assert ways == {2, 3}
  assert task.support.inputs.shape == (8, 6, 28, 28, 1)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'min_ways': 6}, 'min_ways must be from 1 to ways, which is 5.*got 6'),
    ({'min_shots': 0}, 'min_shots must be from 1 to shots, which is 4.*got 0'),
  ],
)
def test_more_than_a_task_is_filled_up_to_is_refused(options, message):
  for make in (
    lambda: episodes(IMAGES, LABELS, WAYS, SHOTS, QUERIES, **options),
    lambda: strokes(WAYS, SHOTS, QUERIES, **options),
  ):
    with pytest.raises(ValueError, match=message):
      make()


# What padding does to objectives and methods.


def test_the_loss_leaves_out_padding(float64):
  logits = np.random.default_rng(0).normal(size=(4, 3))
  targets = np.array([2, 9, 0, -1])
  weights = np.array([True, False, True, False])
  loss = jax.jit(jax.value_and_grad(metajax.cross_entropy, has_aux=True))
  (padded, metrics), slope = loss(logits, Weighted(targets, weights))
  real = np.array([0, 2])
  (plain, of_plain), _ = loss(logits[real], targets[real])
  np.testing.assert_allclose(padded, plain, rtol=1e-12)
  assert (np.asarray(slope)[[1, 3]] == 0).all()
  np.testing.assert_allclose(
    metrics['accuracy'], of_plain['accuracy'], rtol=1e-12
  )


def test_the_loss_of_nothing_is_zero():
  loss, metrics = jax.jit(metajax.cross_entropy)(
    np.ones((2, 3)), Weighted(np.full((2,), 5), np.zeros(2))
  )
  assert (float(loss), float(metrics['accuracy'])) == (0, 0)


def small_task() -> Task:
  """Two classes, one and two examples."""
  inputs = np.random.default_rng(0).normal(size=(7, 4))
  return Task(
    Batch(inputs[:3], np.array([1, 0, 1])),
    Batch(inputs[3:] + 1, np.array([0, 1, 1, 0])),
  )


@pytest.mark.in_ci
@pytest.mark.parametrize('make', [
  lambda: metajax.maml(mlp([6], WAYS), metajax.cross_entropy, 0.3, 3),
  lambda: metajax.protonet(mlp([6], 4), metajax.cross_entropy, WAYS),
])  # fmt: skip
def test_a_padded_task_is_learned_like_the_task(float64, make):
  learner, task = make(), small_task()
  padded = pad_task(task, WAYS, support=7, queries=9)
  params = jax.jit(learner.init)(KEY, task.support.inputs)
  one, other = (
    jax.jit(learner.grad)(
      KEY, params, jax.tree.map(lambda leaf: leaf[None], each)
    )
    for each in (task, padded)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    one,
    other,
  )


def test_a_class_without_examples_is_finite_and_never_predicted():
  learner = metajax.protonet(mlp([6], 4), metajax.cross_entropy, WAYS)
  task = pad_task(small_task(), WAYS, support=7, queries=9)

  @jax.jit
  def all_of_it(task):
    params = learner.init(KEY, task.support.inputs)
    adapted, _ = learner.adapt(KEY, params, task.support)
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    return (
      learner.predict(adapted, task.query.inputs),
      *learner.grad(KEY, params, tasks),
    )

  logits, gradient, metrics = all_of_it(task)
  assert np.isfinite(logits).all()
  assert set(np.argmax(logits, 1).tolist()) <= {0, 1}
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  assert np.isfinite(metrics['loss'])


@pytest.mark.parametrize(
  ('change', 'sizes', 'message'),
  [
    ({}, (WAYS, 2, 9), 'a support set of 3 examples cannot be filled up to 2'),
    ({}, (1, 7, 9), 'targets from 0 to 1; a task of at most 1 ways'),
    ({'targets': np.array([0, 0, 0])}, (WAYS, 7, 9), 'queries of class 1, but'),
  ],
)
def test_tasks_larger_than_the_padding_are_refused(change, sizes, message):
  task = small_task()
  task = task._replace(support=task.support._replace(**change))
  with pytest.raises(ValueError, match=message):
    pad_task(task, *sizes)


# Tasks within a group.


def test_all_classes_of_a_task_are_of_one_group():
  groups = np.array([7, 3, 7, 3, 7, 9, 3, 9])
  task = draw(episodes(IMAGES, LABELS, 3, 1, 1, groups=groups))
  found = groups[LABELS[numbers_of(task.support)]]
  assert (found == found[:, :1]).all()
  # The group 9 has two classes only.
  assert set(found[:, 0]) == {3, 7}


def test_groups_too_small_are_refused():
  with pytest.raises(ValueError, match='largest of the 4 groups has only 2'):
    episodes(IMAGES, LABELS, 3, 1, 1, groups=np.arange(CLASSES) // 2)
  with pytest.raises(ValueError, match='8 classes need as many groups'):
    episodes(IMAGES, LABELS, 3, 1, 1, groups=np.zeros(3, int))


def test_rotated_alphabets_are_alphabets_of_their_own():
  names = ('Greek/a', 'Greek/b', 'Thai/a')
  data = LabelledImages(np.zeros((3, 4, 4), np.uint8), np.arange(3), names)
  assert groups_of(data).tolist() == [0, 0, 1]
  turned = rotate_classes(data)
  groups = groups_of(turned).reshape(3, 4)
  assert len(set(groups.reshape(-1))) == 8
  np.testing.assert_array_equal(groups[0], groups[1])


# All classes at once.


def test_batches_have_the_labels_of_all_classes():
  order = np.random.default_rng(0).permutation(len(IMAGES))
  sample = classification(IMAGES[order], 10 * LABELS[order], batch_size=6)
  task = draw(sample)
  numbers, targets = numbers_of(task.query), np.asarray(task.query.targets)
  np.testing.assert_array_equal(targets, LABELS[numbers])
  counts = np.bincount(numbers.reshape(-1), minlength=len(IMAGES))
  expected = NUM_TASKS * 6 / len(IMAGES)
  assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
  jax.tree.map(np.testing.assert_array_equal, task.support, task.query)


@pytest.mark.long
def test_strokes_have_classes_that_stay_the_same():
  task = draw(strokes_classification(3, 8), 4)
  targets = np.asarray(task.query.targets)
  assert set(targets.reshape(-1)) == {0, 1, 2}
  images = np.asarray(task.query.inputs).reshape(32, -1)
  labels = targets.reshape(-1)
  apart = np.linalg.norm(images[:, None] - images[None], axis=-1)
  same = labels[:, None] == labels[None]
  assert apart[~same].mean() > 1.2 * apart[same].mean()


def test_no_images_are_refused():
  with pytest.raises(ValueError, match='batch_size must be 1 or more, got 0'):
    classification(IMAGES, LABELS, 0)
  with pytest.raises(ValueError, match='batch_size must be 1 or more, got 0'):
    strokes_classification(3, 0)
  with pytest.raises(ValueError, match='num_classes must be 1 or more, got 0'):
    strokes_classification(0, 3)


@pytest.mark.parametrize('places', [
  classification_places(LABELS, 6),
  pytest.param(
    episode_places(LABELS, 3, 2, 1, min_ways=2, groups=np.arange(CLASSES) // 4),
    marks=pytest.mark.long,
  ),
])  # fmt: skip
def test_the_host_draws_the_same_tasks(places):
  from metajax.tasks import device_tasks

  keys = jax.random.split(KEY, 3)
  host = HostTasks(IMAGES, places)
  expected = jax.jit(jax.vmap(device_tasks(IMAGES, places)))(keys)
  drawn = jax.jit(jax.vmap(host.decode))(host.draw(keys))
  jax.tree.map(np.testing.assert_array_equal, drawn, expected)
