"""Episodes: what is drawn, and that nothing gives the labels away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import sample_tasks
from metajax.tasks import HostEpisodes, episodes
from metajax.tasks.places import choose_without_replacement

KEY = jax.random.key(0)
NUM_TASKS = 600
WAYS, SHOTS, QUERIES = 3, 2, 2
# Any integers, and classes of different sizes, of which the smallest is just
# large enough.
LABELS = np.repeat([40, -7, 3, 1000], [4, 9, 6, 5])
NUM_EXAMPLES = len(LABELS)
RANK = np.unique(LABELS, return_inverse=True)[1]


def numbered_images() -> tuple[np.ndarray, np.ndarray]:
  """Image i holds the number i, so that an example can be recognised."""
  order = np.random.default_rng(0).permutation(NUM_EXAMPLES)
  images = np.zeros((NUM_EXAMPLES, 2, 2), np.uint8)
  images[:] = np.arange(NUM_EXAMPLES)[:, None, None]
  return images[order], LABELS[order]


@pytest.fixture(scope='module')
def drawn():
  """`(numbers, targets)` of the support sets and of the queries."""
  images, labels = numbered_images()
  sample = episodes(images, labels, WAYS, SHOTS, QUERIES)
  tasks = jax.jit(lambda key: sample_tasks(sample, key, NUM_TASKS))(KEY)
  assert tasks.support.inputs.shape == (NUM_TASKS, WAYS * SHOTS, 2, 2, 1)
  assert tasks.support.inputs.dtype == jnp.float32
  return [
    (
      np.rint(np.asarray(batch.inputs)[..., 0, 0, 0] * 255).astype(int),
      np.asarray(batch.targets),
    )
    for batch in tasks
  ]


def test_no_example_is_drawn_twice_in_a_task(drawn):
  (support, _), (query, _) = drawn
  numbers = np.sort(np.concatenate([support, query], 1), axis=1)
  assert (np.diff(numbers, axis=1) > 0).all()


def test_a_label_of_a_task_is_one_class_in_support_and_queries(drawn):
  (support, support_targets), (query, query_targets) = drawn
  numbers = np.concatenate([support, query], 1)
  targets = np.concatenate([support_targets, query_targets], 1)
  for task in range(NUM_TASKS):
    classes = [
      set(RANK[numbers[task][targets[task] == way]]) for way in range(WAYS)
    ]
    assert all(len(members) == 1 for members in classes)
    assert len(set.union(*classes)) == WAYS


def test_every_label_has_its_shots_and_queries(drawn):
  for (_, targets), each in zip(drawn, (SHOTS, QUERIES), strict=True):
    np.testing.assert_array_equal(
      np.sort(targets, axis=1),
      np.tile(np.repeat(np.arange(WAYS), each), (NUM_TASKS, 1)),
    )


def spread(counts: np.ndarray, expected: float) -> float:
  """The largest departure from uniform, in standard deviations."""
  return np.abs(counts - expected).max() / np.sqrt(expected)


def test_the_label_says_nothing_about_the_class(drawn):
  numbers, targets = drawn[0]
  for way in range(WAYS):
    counts = np.bincount(RANK[numbers[targets == way]], minlength=4) / SHOTS
    assert spread(counts, NUM_TASKS / 4) < 4


def test_the_position_says_nothing_about_the_label(drawn):
  for _, targets in drawn:
    for place in range(targets.shape[1]):
      counts = np.bincount(targets[:, place], minlength=WAYS)
      assert spread(counts, NUM_TASKS / WAYS) < 4


def test_the_order_of_the_support_set_says_nothing_about_the_queries(drawn):
  (_, support_targets), (_, query_targets) = drawn
  agree = (support_targets[:, 0] == query_targets[:, 0]).mean()
  assert abs(agree - 1 / WAYS) < 4 * np.sqrt(2 / 9 / NUM_TASKS)


def test_every_example_of_a_class_is_drawn_equally_often(drawn):
  numbers = np.concatenate([numbers for numbers, _ in drawn], 1)
  counts = np.bincount(numbers.reshape(-1), minlength=NUM_EXAMPLES)
  each = NUM_TASKS * WAYS / 4 * (SHOTS + QUERIES)  # draws of a class
  for members in range(4):
    of_class = counts[members == RANK]
    assert of_class.sum() == pytest.approx(each, rel=0.1)
    assert spread(of_class, of_class.mean()) < 4.5


def test_a_class_of_just_enough_examples_is_used_up(drawn):
  numbers = np.concatenate([numbers for numbers, _ in drawn], 1)
  of_smallest = (numbers < 4).sum(1)  # the class 40 is examples 0 to 3
  assert set(of_smallest) == {0, 4}


def test_tasks_differ_by_key_and_only_by_key():
  sample = jax.jit(episodes(*numbered_images(), WAYS, SHOTS, QUERIES))
  first, again, other = (sample(jax.random.key(i)) for i in (1, 1, 2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first.query.inputs, other.query.inputs)


def test_images_are_an_argument_of_the_program_not_a_constant_in_it():
  sample = episodes(*numbered_images(), WAYS, SHOTS, QUERIES)
  assert (NUM_EXAMPLES, 2, 2, 1) in [x.shape for x in jax.tree.leaves(sample)]

  def draw(sample, key):
    return sample(key)

  program = jax.make_jaxpr(draw)(sample, KEY)
  assert not any(np.size(constant) > 4 for constant in program.consts)
  sizes = [variable.aval.shape for variable in program.jaxpr.invars]
  assert (NUM_EXAMPLES, 2, 2, 1) in sizes


def filled(shape, value, dtype):
  return np.full((4, *shape), value, dtype)


@pytest.mark.parametrize('make', [episodes, HostEpisodes])
@pytest.mark.parametrize(
  ('stored', 'expected'),
  [
    (filled((2, 3), 51, np.uint8), filled((2, 3, 1), 0.2, np.float32)),
    (filled((2, 3, 3), 51, np.uint8), filled((2, 3, 3), 0.2, np.float32)),
    (filled((7,), 255, np.uint8), filled((7,), 1, np.float32)),
    (filled((7,), 5, np.int64), filled((7,), 5, np.int32)),
    (filled((7,), 40_000, np.uint16), filled((7,), 40_000, np.int32)),
    (filled((7, 2), -1, np.int8), filled((7, 2), -1, np.int32)),
    (filled((2, 3), True, bool), filled((2, 3), 1, np.float32)),
    (filled((2, 3), 0.5, np.float16), filled((2, 3), 0.5, np.float32)),
    (filled((2, 3), 5, np.float64), filled((2, 3), 5, np.float32)),
    (filled((5, 5, 1), 0.2, np.float32), filled((5, 5, 1), 0.2, np.float32)),
    (filled((), 3, np.float32), filled((), 3, np.float32)),
  ],
)
def test_what_examples_are_is_told_by_their_type(make, stored, expected):
  sample = make(stored, np.arange(4) % 2, 2, 1, 1)
  inputs = sample(KEY).support.inputs
  assert inputs.dtype == expected.dtype
  np.testing.assert_allclose(inputs, expected[:2], rtol=1e-6)


@pytest.mark.parametrize('make', [episodes, HostEpisodes])
@pytest.mark.parametrize(
  ('shape', 'dtype', 'message'),
  [
    ((2, 3), np.uint16, r'got uint16 \[4, 2, 3\]: convert them'),
    ((5, 5, 3), np.int64, r'got int64 \[4, 5, 5, 3\]: convert them'),
    ((3, 5, 5), np.uint8, r'channels last.*numpy.moveaxis\(images, 1, -1\)'),
    ((2,), np.complex64, r'booleans; got complex64 \[4, 2\]'),
    ((2,), 'U3', r'booleans; got <U3 \[4, 2\]'),
  ],
)
def test_what_may_be_images_of_another_kind_is_refused(
  make, shape, dtype, message
):
  with pytest.raises(ValueError, match=message):
    make(np.zeros((4, *shape), dtype), np.arange(4) % 2, 2, 1, 1)


def test_integers_beyond_32_bits_are_refused():
  labels = np.arange(4) % 2
  for number in (2**31, -(2**40)):
    tokens = filled((7,), number, np.int64)
    with pytest.raises(
      ValueError, match=f'32 bits.* from {number} to {number}'
    ):
      episodes(tokens, labels, 2, 1, 1)
    with pytest.raises(ValueError, match='number the tokens anew'):
      HostEpisodes(tokens, labels, 2, 1, 1).draw(KEY[None])
  with pytest.raises(ValueError, match=f' to {2**63}'):
    episodes(filled((7,), 2**63, np.uint64), labels, 2, 1, 1)


@pytest.mark.parametrize(
  ('counts', 'message'),
  [
    ((0, 1, 1), 'ways must be 1 or more, got 0'),
    ((2, 0, 1), 'shots must be 1 or more, got 0'),
    ((2, 1, -1), 'queries must be 1 or more, got -1'),
    ((5, 1, 1), '5 ways, but there are only 4 classes'),
    ((2, 2, 3), '2 shots . 3 queries, but class 40 has only 4 examples'),
  ],
)
def test_more_than_there_is_is_refused(counts, message):
  with pytest.raises(ValueError, match=message):
    episodes(*numbered_images(), *counts)


@pytest.mark.parametrize('num_labels', [NUM_EXAMPLES - 1, NUM_EXAMPLES + 1])
def test_labels_of_other_images_are_refused(num_labels):
  images, _ = numbered_images()
  with pytest.raises(
    ValueError, match=f'{NUM_EXAMPLES} images.*{num_labels} labels'
  ):
    episodes(images, np.arange(num_labels) % 2, 2, 1, 1)


def test_every_ordered_choice_is_equally_likely():
  @jax.jit
  def draw(key):
    keys = jax.random.split(key, 12_000)
    return jax.vmap(lambda key: choose_without_replacement(key, 5, 3))(keys)

  chosen = np.asarray(draw(KEY))
  counts = np.unique(chosen @ [25, 5, 1], return_counts=True)[1]
  assert len(counts) == 60  # ordered triples of different numbers
  statistic = np.sum((counts - 200) ** 2 / 200)
  assert statistic < 107  # chi-squared, 59 degrees of freedom, p = 1e-4


def test_a_choice_of_everything_is_a_permutation():
  draw = jax.jit(choose_without_replacement, static_argnums=(1, 2))
  chosen = draw(KEY, 7, 7)
  assert sorted(chosen.tolist()) == list(range(7))
