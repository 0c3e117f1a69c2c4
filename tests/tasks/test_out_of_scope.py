"""Queries of no class: how they are drawn, and how well they are found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import values_and_weights
from metajax.objectives import cross_entropy
from metajax.tasks import episodes
from metajax.tasks.out_of_scope import (
  accuracy_with_rejection,
  area_under_curve,
  is_out_of_scope,
  tune_threshold,
  with_classes_apart,
  with_out_of_scope,
)

TOKENS = np.repeat(np.arange(30)[:, None], 4, axis=1)
OTHERS = TOKENS[:20] + 100


def sampler(**varied):
  return episodes(TOKENS, np.arange(30) % 3, 3, 2, 4, **varied)


def unequal(key):
  task = sampler()(key)
  targets = jnp.array([0, 1, 1, 1, 2, 2])
  return task._replace(support=task.support._replace(targets=targets))


@pytest.mark.in_ci
def test_queries_of_no_class_are_added_in_random_order():
  sample = with_out_of_scope(sampler(), OTHERS, 0.4)
  keys = jax.random.split(jax.random.key(0), 20)
  tasks = jax.jit(jax.vmap(sample))(keys)
  plain = jax.jit(jax.vmap(sampler()))(keys)
  outside = np.asarray(is_out_of_scope(tasks.query.targets))
  inputs = np.asarray(tasks.query.inputs)
  assert inputs.shape == (20, 20, 4)  # 12 and 8, which are 40%
  assert inputs.dtype == np.int32
  np.testing.assert_array_equal(outside, inputs[..., 0] >= 100)
  assert (outside.sum(1) == 8).all()
  assert len({tuple(row) for row in outside}) > 15
  for one, other, where in zip(inputs, plain.query.inputs, outside,
                               strict=True):  # fmt: skip
    assert len(set(one[where, 0])) == 8  # without replacement
    assert sorted(one[~where, 0]) == sorted(other[:, 0].tolist())
  # The other queries keep their classes, and the support set is as it was.
  values, _ = values_and_weights(tasks.query.targets)
  for task in range(20):
    known = {
      int(token): int(target)
      for token, target in zip(plain.query.inputs[task, :, 0],
                               plain.query.targets[task], strict=True)
    }  # fmt: skip
    for token, target, where in zip(inputs[task, :, 0], values[task],
                                    outside[task], strict=True):  # fmt: skip
      assert where or known[int(token)] == target
  jax.tree.map(np.testing.assert_array_equal, tasks.support, plain.support)


@pytest.mark.in_ci
def test_classes_without_support_are_out_of_scope():
  labels = np.arange(30) % 5
  sample = with_classes_apart(episodes(TOKENS, labels, 4, 2, 3), 3, 1)
  keys = jax.random.split(jax.random.key(1), 20)
  tasks = jax.jit(jax.vmap(sample))(keys)
  plain = jax.jit(jax.vmap(episodes(TOKENS, labels, 4, 2, 3)))(keys)
  outside = np.asarray(is_out_of_scope(tasks.query.targets))
  assert tasks.support.inputs.shape == (20, 6, 4)
  assert (outside.sum(1) == 3).all()
  np.testing.assert_array_equal(outside, plain.query.targets == 3)
  np.testing.assert_array_equal(tasks.query.inputs, plain.query.inputs)
  values, _ = values_and_weights(tasks.query.targets)
  np.testing.assert_array_equal(values[~outside], plain.query.targets[~outside])
  # What is left of the support set keeps its order, and knows no other class.
  left = np.asarray(plain.support.targets) < 3
  for name in ('inputs', 'targets'):
    np.testing.assert_array_equal(
      np.concatenate(getattr(tasks.support, name)),
      np.asarray(getattr(plain.support, name))[left],
    )
  tokens_in = labels[np.asarray(tasks.support.inputs)[..., 0]]
  tokens_out = labels[np.asarray(tasks.query.inputs)[..., 0]]
  for row in range(20):
    assert not set(tokens_in[row]) & set(tokens_out[row][outside[row]])


@pytest.mark.parametrize(
  ('sample', 'ways', 'apart', 'message'),
  [
    (sampler(), 0, 3, 'must be 1 or more; got 0, 3'),
    (sampler(), 3, 0, 'must be 1 or more; got 3, 0'),
    (sampler(), 3, 1, r'as many support examples of each of 3 [+] 1 classes'),
    (sampler(), 1, 1, r'got \[2, 2, 2\] of \[0, 1, 2\]'),
    (sampler(), 2, 4, r'from 0 to 5; got \[2, 2, 2\] of \[0, 1, 2\]'),
    (unequal, 2, 1, r'got \[1, 3, 2\] of \[0, 1, 2\]'),
    (sampler(min_ways=2), 2, 1, 'are weighted already; leave min_ways'),
  ],
)
def test_tasks_that_classes_cannot_be_taken_from(sample, ways, apart, message):
  with pytest.raises(ValueError, match=message):
    with_classes_apart(sample, ways, apart)


@pytest.mark.in_ci
def test_losses_leave_them_out():
  sample = with_out_of_scope(sampler(), OTHERS, 0.4)
  task = jax.jit(sample)(jax.random.key(0))
  outside = is_out_of_scope(task.query.targets)
  outputs = jax.nn.one_hot(task.query.targets.values, 3) * 5
  wrong = jnp.where(outside[:, None], jnp.array([0, 9.0, 0]), outputs)
  for each in (outputs, wrong):
    loss, metrics = cross_entropy(each, task.query.targets)
    assert metrics['accuracy'] == 1
    np.testing.assert_allclose(
      loss, cross_entropy(outputs, task.query.targets)[0]
    )


@pytest.mark.parametrize(
  ('examples', 'share', 'message'),
  [
    (OTHERS, 0.0, 'share must be above 0 and below 1; got 0.0'),
    (OTHERS, 1.0, 'share must be above 0'),
    (OTHERS, float('nan'), 'share must be above 0'),
    (OTHERS[:0], 0.5, 'there is no example that is out of scope'),
    (OTHERS, 0.9, 'are 108 that are out of scope, but there are 20 examples'),
    (OTHERS[:, :3], 0.5, r'is int32 of the shape \(3,\) an example, and quer'),
    (np.float32(OTHERS), 0.5, r'is float32 of the shape .* queries are int32'),
  ],
)
def test_what_cannot_be_drawn_is_refused(examples, share, message):
  with pytest.raises(ValueError, match=message):
    with_out_of_scope(sampler(), examples, share)(jax.random.key(0))


def test_grey_images_are_examples_too():
  images = np.arange(30 * 4, dtype=np.uint8).reshape(30, 2, 2)
  sample = episodes(images, np.arange(30) % 3, 3, 2, 4)
  task = jax.eval_shape(
    with_out_of_scope(sample, images[:9], 0.3), jax.random.key(0)
  )
  assert task.query.inputs.shape == (12 + 5, 2, 2, 1)
  assert task.query.inputs.dtype == np.float32


def test_tasks_of_several_sizes_are_refused():
  with pytest.raises(ValueError, match='queries of these tasks are weighted'):
    with_out_of_scope(sampler(min_ways=2), OTHERS, 0.5)(jax.random.key(0))


def draw(rng, queries=40, ways=3):
  # Of few values, so that many are equal.
  scores = rng.integers(0, 7, (queries, ways)).astype(np.float32)
  return scores, rng.integers(0, ways, queries), rng.random(queries) < 0.3


def test_the_area_is_that_of_a_double_loop():
  rng = np.random.default_rng(0)
  for _ in range(5):
    scores, _, outside = draw(rng)
    won, pairs = 0.0, 0
    for i in np.flatnonzero(~outside):
      for j in np.flatnonzero(outside):
        one, other = scores[i].max(), scores[j].max()
        won += 1.0 if one > other else 0.5 if one == other else 0.0
        pairs += 1
    found = area_under_curve(jnp.asarray(scores), jnp.asarray(outside))
    np.testing.assert_allclose(found, won / pairs, rtol=1e-6)


def test_the_area_of_nothing_to_compare_or_of_no_number_is_none():
  scores = jnp.ones((3, 2))
  assert np.isnan(area_under_curve(scores, jnp.zeros(3, bool)))
  assert np.isnan(area_under_curve(scores, jnp.ones(3, bool)))
  scores = scores.at[0, 0].set(jnp.nan)
  assert np.isnan(area_under_curve(scores, jnp.array([False, True, True])))


def test_the_threshold_is_the_best_there_is():
  rng = np.random.default_rng(1)
  for _ in range(5):
    scores, targets, outside = draw(rng)

    def accuracy(threshold, scores=scores, targets=targets, outside=outside):
      right = 0
      for row, target, out in zip(scores, targets, outside, strict=True):
        accepted = row.max() >= threshold
        right += not accepted if out else accepted and row.argmax() == target
      return right / len(scores)

    best = max(map(accuracy, np.arange(-1, 9, 0.5)))
    threshold = tune_threshold(
      scores.reshape(4, 10, 3), targets.reshape(4, 10), outside.reshape(4, 10)
    )
    assert accuracy(threshold) == best
    np.testing.assert_allclose(
      accuracy_with_rejection(
        jnp.asarray(scores), jnp.asarray(targets), jnp.asarray(outside),
        threshold,
      ),
      best, rtol=1e-6,
    )  # fmt: skip


def test_thresholds_at_the_ends_and_between_neighbours():
  scores, targets = np.float32([[1.0], [2.0]]), np.zeros(2, int)
  assert tune_threshold(scores, targets, np.array([True, True])) == np.inf
  assert tune_threshold(scores, targets, np.array([False, False])) == -np.inf
  near = np.float32([[1.0], [np.nextafter(np.float32(1), np.float32(2))]])
  threshold = tune_threshold(near, targets, np.array([True, False]))
  assert accuracy_with_rejection(
    jnp.asarray(near), jnp.asarray(targets), jnp.array([True, False]), threshold
  ) == 1  # fmt: skip
  with pytest.raises(ValueError, match='no numbers'):
    tune_threshold(scores * np.nan, targets, targets > 0)
  with pytest.raises(ValueError, match=r'need targets and out_of_scope of'):
    tune_threshold(scores, targets[:1], targets > 0)
