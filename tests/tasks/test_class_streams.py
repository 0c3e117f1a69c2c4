"""Streams of classes, and tasks of those that have come: none from later."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks import arriving, class_streams

CLASSES, EACH = 8, 6
LABELS = np.repeat(np.arange(CLASSES) * 10, EACH)
# An example is its class and its own number.
EXAMPLES = np.stack(
  [np.repeat(np.arange(CLASSES), EACH), np.arange(CLASSES * EACH)], 1
).astype(np.float32)


def draw(sample, number=200):
  keys = jax.random.split(jax.random.key(0), number)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(keys))


def test_a_stream_has_one_class_after_another_with_the_labels_of_all():
  task = draw(class_streams(EXAMPLES, LABELS, 3, 4, 2, remembered=5))
  classes = task.support.inputs[..., 0].reshape(-1, 3, 4)
  np.testing.assert_array_equal(classes, classes[..., :1].repeat(4, -1))
  for batch in task:
    np.testing.assert_array_equal(batch.targets, batch.inputs[..., 0])
  assert set(task.query.targets[:, 6:].ravel()) == set(range(CLASSES))


def test_queries_of_the_stream_are_others_of_its_classes():
  task = draw(class_streams(EXAMPLES, LABELS, 3, 4, 2, remembered=5))
  for support, query in zip(
    task.support.inputs[..., 1], task.query.inputs[:, :6, 1], strict=True
  ):
    assert len(set(support)) == 12
    assert not set(support) & set(query)


@pytest.mark.parametrize('step', [0, 3, 4, 9, 1000])
def test_no_class_is_drawn_before_it_has_come(step):
  sample = arriving(EXAMPLES, LABELS, 2, 2, 1, steps_each=2)
  seen = draw(sample.at(step)).support.inputs[..., 0]
  come = min(2 + step // 2, CLASSES)
  assert set(seen.ravel()) == set(range(come))


def test_the_step_may_be_traced():
  sample = arriving(EXAMPLES, LABELS, 2, 2, 1)
  seen = jax.jit(lambda step: sample.at(step)(jax.random.key(1)))(jnp.int32(0))
  assert set(np.asarray(seen.support.inputs[:, 0])) == {0, 1}


@pytest.mark.parametrize(
  ('labels', 'sizes', 'text'),
  [
    (np.zeros(48, int), (1, 2, 1), '2 classes or more, got 1'),
    (LABELS, (9, 2, 1), '9 ways, but there are only 8 classes'),
    (LABELS, (3, 6, 1), '7 examples of each class, but class 0 has only 6'),
  ],
)
def test_a_stream_that_there_is_not_is_refused(labels, sizes, text):
  with pytest.raises(ValueError, match=text):
    class_streams(EXAMPLES, labels, *sizes, remembered=5)
  with pytest.raises(ValueError, match=text):
    arriving(EXAMPLES, labels, *sizes)


@pytest.mark.parametrize(
  'make',
  [lambda *a: class_streams(*a, 2, 1, 1, 1), lambda *a: arriving(*a, 2, 1, 1)],
)
def test_every_example_has_a_label(make):
  for examples, labels in ((EXAMPLES[:9], LABELS), (EXAMPLES, LABELS[:, None])):
    with pytest.raises(ValueError, match='every image has a label'):
      make(examples, labels)
