"""Tasks from one modality to another: classes, places, what is refused."""

import jax
import numpy as np
import pytest

from metajax.base import sample_tasks
from metajax.tasks import Examples, modal_episodes

# Images and texts say which class, and which example of it, they are of.
LABELS = np.repeat(np.array([3, 7, 9, 20]), 5)
IMAGES = Examples(
  np.stack([LABELS, np.arange(20)], axis=1).astype(np.float32), LABELS
)
TEXTS = Examples(np.array([[20, 0], [9, 1], [7, 2], [3, 3]]), LABELS[::-5])
BOTH = {'images': IMAGES, 'texts': TEXTS}


def draw(support: str, query: str, ways: int = 3, shots: int = 1):
  sample = modal_episodes(BOTH, ways, shots, 2, support=support, query=query)
  tasks = jax.jit(lambda key: sample_tasks(sample, key, 60))
  return jax.tree.map(np.asarray, tasks(jax.random.key(0)))


@pytest.mark.parametrize(
  ('support', 'query', 'shots'),
  [('texts', 'images', 1), ('images', 'images', 3)],
)
def test_queries_are_of_the_classes_of_the_support_set(support, query, shots):
  tasks = draw(support, query, shots=shots)
  assert list(tasks.support.inputs) == [support]
  assert list(tasks.query.inputs) == [query]
  assert tasks.support.targets.shape == (60, 3 * shots)
  assert tasks.query.targets.shape == (60, 6)
  for index in range(60):
    (known, asked) = (
      (inputs[index][:, 0].astype(int), targets[index])
      for inputs, targets in (
        (tasks.support.inputs[support], tasks.support.targets),
        (tasks.query.inputs[query], tasks.query.targets),
      )
    )
    names = dict(zip(known[1].tolist(), known[0].tolist(), strict=True))
    assert len(set(names.values())) == 3
    np.testing.assert_array_equal([names[way] for way in asked[1]], asked[0])


def test_no_example_is_known_and_asked_for():
  tasks = draw('images', 'images', shots=3)
  for known, asked in zip(
    tasks.support.inputs['images'][..., 1],
    tasks.query.inputs['images'][..., 1],
    strict=True,
  ):
    assert len({*known, *asked}) == len(known) + len(asked)


def test_place_says_nothing_of_the_class():
  tasks = draw('texts', 'images')
  for targets in (tasks.support.targets, tasks.query.targets):
    assert len({*targets[:, 0]}) == 3


def test_images_are_scaled_and_tokens_stay():
  examples = {
    'images': Examples(np.full((4, 2, 2), 255, np.uint8), np.arange(4) % 2),
    'texts': Examples(np.full((4, 3), -1), np.arange(4) % 2),
  }
  sample = modal_episodes(examples, 2, 1, 1, support='texts', query='images')
  task = sample(jax.random.key(0))
  assert task.query.inputs['images'].shape == (2, 2, 2, 1)
  assert float(task.query.inputs['images'].max()) == 1.0
  assert task.support.inputs['texts'].dtype == np.int32
  assert int(task.support.inputs['texts'].max()) == -1


def test_examples_are_arguments_and_splits_share_a_program(traced_once):
  @jax.jit
  @traced_once
  def drawn(sample):
    return sample(jax.random.key(0))

  for shift in (0, 1):
    moved = {
      name: each._replace(inputs=each.inputs + shift)
      for name, each in BOTH.items()
    }
    drawn(modal_episodes(moved, 2, 1, 2, support='texts', query='images'))


OTHER = Examples(np.zeros((3, 2), int), np.arange(3))


@pytest.mark.parametrize(
  ('examples', 'sizes', 'query', 'message'),
  [
    (BOTH, (0, 1, 1), 'images', 'ways must be 1 or more, got 0'),
    (BOTH, (2, 1, 1), 'sounds', "query must be one of images, texts.*'sounds'"),
    (BOTH, (5, 1, 1), 'images', '5 ways, but there are only 4 classes'),
    (BOTH, (2, 1, 6), 'images', '6 images of each class are needed, but class'),
    (BOTH, (2, 1, 1), 'texts', '2 texts of each class are needed, but class 3'),
    ({**BOTH, 'texts': OTHER}, (2, 1, 1), 'images', 'the same classes, but cl'),
    (
      {**BOTH, 'images': IMAGES._replace(inputs=IMAGES.inputs[1:])},
      (2, 1, 1), 'images', '19 images need as many integer labels',
    ),
    (
      {**BOTH, 'images': IMAGES._replace(labels=LABELS * 1.0)},
      (2, 1, 1), 'images', 'integer labels, in one dimension; got float64',
    ),
  ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(examples, sizes, query, message):
  with pytest.raises(ValueError, match=message):
    modal_episodes(examples, *sizes, support='texts', query=query)
