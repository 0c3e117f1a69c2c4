"""Loading labelled images and splitting their classes."""

from pathlib import Path

import numpy as np
import pytest

from metajax.tasks.errors import DataError
from metajax.tasks.labelled import LabelledImages, check_episode, load_npz
from metajax.tasks.rotations import rotate_classes
from metajax.tasks.splits import (
  Splits,
  split_by_files,
  split_by_seed,
  split_sizes,
)

OMNIGLOT = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'omniglot'


def make_data(num_classes: int = 10, examples: int = 4) -> LabelledImages:
  """Images whose every example is unlike all others, classes interleaved."""
  generator = np.random.default_rng(0)
  total = num_classes * examples
  return LabelledImages(
    generator.integers(0, 256, (total, 6, 6), dtype=np.uint8),
    np.tile(np.arange(num_classes, dtype=np.int32), examples),
    tuple(f'letter{index}' for index in range(num_classes)),
  )


def images_of(data: LabelledImages, name: str) -> np.ndarray:
  return data.images[data.labels == data.names.index(name)]


def save(tmp_path: Path, **arrays: object) -> Path:
  path = tmp_path / 'data.npz'
  np.savez(path, **arrays)  # type: ignore[arg-type]
  return path


IMAGES = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.uint8)
LABELS = np.array([3, 1, 3, 1])


def test_npz_numbers_labels_in_sorted_order(tmp_path: Path) -> None:
  data = load_npz(save(tmp_path, images=IMAGES, labels=[10, -2, 9, 10]))
  assert data.names == ('-2', '9', '10')
  assert data.labels.tolist() == [2, 0, 1, 2]
  assert data.labels.dtype == np.int32
  np.testing.assert_array_equal(data.images, IMAGES)
  assert data.images.dtype == np.uint8


@pytest.mark.parametrize(
  'labels', [['b', 'a', 'é', 'b'], [b'b', b'a', b'z', b'b']]
)
def test_npz_takes_string_labels(tmp_path: Path, labels: list[object]) -> None:
  data = load_npz(save(tmp_path, images=IMAGES, labels=labels))
  assert data.labels.tolist() == [1, 0, 2, 1]
  assert data.names[:2] == ('a', 'b')


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    (np.array([0.0, 0.25, 1.0]), [0, 64, 255]),
    (np.array([0.0, 0.25, 1.0], np.float32), [0, 64, 255]),
    (np.array([0.0, 0.5, 1.0], np.float16), [0, 128, 255]),
    (np.array([0.0, 2.5, 254.7]), [0, 2, 255]),
    (np.array([False, True, False]), [0, 255, 0]),
    (np.array([0, 1, 0], np.uint8), [0, 255, 0]),
    (np.array([0, 1, 200], np.uint8), [0, 1, 200]),
    (np.array([0, 1, 255], np.int64), [0, 1, 255]),
    (np.array([0, 0, 0], np.uint8), [0, 0, 0]),
  ],
)
def test_npz_scales_to_bytes(
  tmp_path: Path, values: np.ndarray, expected: list[int]
) -> None:
  images = np.broadcast_to(values, (4, 2, 3))
  data = load_npz(save(tmp_path, images=images, labels=LABELS))
  assert data.images[0, 0].tolist() == expected
  assert data.images.dtype == np.uint8


def test_npz_takes_channels(tmp_path: Path) -> None:
  images = np.full((4, 5, 6, 3), 70, np.uint8)
  data = load_npz(save(tmp_path, images=images, labels=LABELS))
  assert data.images.shape == (4, 5, 6, 3)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (
      {'pictures': IMAGES, 'labels': LABELS},
      'no array images.*pictures, labels',
    ),
    ({'x': IMAGES}, 'no array images and no labels; there is: x'),
    ({'images': IMAGES, 'labels': LABELS[:3]}, '4 images but 3 labels'),
    ({'images': IMAGES[0], 'labels': LABELS}, r'got shape \[5, 6\]'),
    ({'images': IMAGES[:0], 'labels': LABELS[:0]}, r'got shape \[0, 5, 6\]'),
    ({'images': IMAGES, 'labels': LABELS[:, None]}, r'shape \[4, 1\]'),
    ({'images': IMAGES, 'labels': LABELS / 2}, 'labels must be integers'),
    ({'images': IMAGES, 'labels': [5] * 4}, 'label 5; two'),
    ({'images': IMAGES - 300.0, 'labels': LABELS}, r'from -300\.0'),
    ({'images': IMAGES + 300.0, 'labels': LABELS}, 'to 419'),
    ({'images': IMAGES * 1j, 'labels': LABELS}, 'got complex128'),
    ({'images': IMAGES * np.nan, 'labels': LABELS}, '120 values that are NaN'),
    ({'images': IMAGES + np.inf, 'labels': LABELS}, '120 values that are NaN'),
    ({'images': IMAGES, 'labels': np.array([{}] * 4)}, 'cannot be read'),
  ],
)
def test_npz_unfit_arrays(
  tmp_path: Path, arrays: dict[str, object], message: str
) -> None:
  path = save(tmp_path, **arrays)
  with pytest.raises(DataError, match=message) as error:
    load_npz(path)
  assert '\n' not in str(error.value)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((4, 3, 8, 8), r'\[4, 3, 8, 8\] seem to have their channels first.*1, -1'),
    ((4, 1, 5, 6), r'\[4, 1, 5, 6\] seem to have their channels first'),
    ((5, 6, 4), r'5 images but 4 labels; .*examples last.*images, -1, 0'),
    ((5, 6, 3, 4), r'5 images but 4 labels; .*examples last'),
  ],
)
def test_npz_with_axes_in_another_order(
  tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
  images = np.full(shape, 200, np.uint8)
  with pytest.raises(DataError, match=message):
    load_npz(save(tmp_path, images=images, labels=LABELS))


@pytest.mark.parametrize(
  ('high', 'dtype'),
  [(16, np.float64), (1.0001, np.float32), (16, np.int64), (63, np.uint16)],
)
def test_npz_of_no_known_range_is_refused(tmp_path: Path, high, dtype) -> None:
  images = np.linspace(0, high, 120).reshape(4, 5, 6).astype(dtype)
  message = f'images go from 0.* to {high}.*, which is dark in .*; scale them'
  with pytest.raises(DataError, match=message):
    load_npz(save(tmp_path, images=images, labels=LABELS))


def test_npz_of_dark_bytes_is_taken_with_a_word(tmp_path: Path) -> None:
  images = IMAGES % 17
  with pytest.warns(UserWarning, match=r'from 0 to 16.*images \* \(255 / 16\)'):
    data = load_npz(save(tmp_path, images=images, labels=LABELS))
  np.testing.assert_array_equal(data.images, images)


def test_npz_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
  path = tmp_path / 'bomb.npz'
  images = np.full((4, 1024, 1024), 255, np.uint8)
  np.savez_compressed(path, images=images, labels=LABELS)
  with pytest.raises(
    DataError, match=r'unpacks to 4 MiB, more than the 3 .*max_unpacked_mebi'
  ):
    load_npz(path, max_unpacked_mebibytes=3)
  assert len(load_npz(path, max_unpacked_mebibytes=5).images) == 4
  # What it is on the disk, it may be in memory.
  np.savez(path, images=images, labels=LABELS)
  assert len(load_npz(path, max_unpacked_mebibytes=1).images) == 4


def test_npz_missing(tmp_path: Path) -> None:
  for path in (tmp_path / 'none.npz', tmp_path):
    with pytest.raises(DataError, match='no such file'):
      load_npz(path)


def test_npz_of_another_kind(tmp_path: Path) -> None:
  path = tmp_path / 'data.npz'
  with path.open('wb') as file:
    np.save(file, IMAGES)
  with pytest.raises(DataError, match='not an npz file'):
    load_npz(path)


@pytest.mark.parametrize('save_function', [np.savez, np.savez_compressed])
def test_npz_damaged_anywhere(tmp_path: Path, save_function) -> None:
  """A flipped bit is refused, or is in a byte that does not matter."""
  path = tmp_path / 'data.npz'
  save_function(path, images=IMAGES, labels=LABELS)
  good = path.read_bytes()
  expected = load_npz(path)
  refused = 0
  for position in range(len(good)):
    damaged = bytearray(good)
    damaged[position] ^= 1 << position % 8
    path.write_bytes(damaged)
    try:
      data = load_npz(path)
    except DataError:
      refused += 1
    else:
      np.testing.assert_array_equal(data.images, expected.images)
      np.testing.assert_array_equal(data.labels, expected.labels)
  assert refused > len(good) // 2


def test_npz_truncated(tmp_path: Path) -> None:
  path = save(tmp_path, images=IMAGES, labels=LABELS)
  good = path.read_bytes()
  for length in range(0, len(good), 50):
    path.write_bytes(good[:length])
    with pytest.raises(DataError, match='truncated'):
      load_npz(path)


def test_split_by_seed_is_a_partition() -> None:
  data = make_data()
  splits = split_by_seed(data, 7, 2, seed=3)
  assert [len(part.names) for part in splits] == [5, 2, 3]
  names = [name for part in splits for name in part.names]
  assert sorted(names) == sorted(data.names)
  for part in splits:
    assert len(part.images) == len(part.labels) == 4 * len(part.names)
    for name in part.names:
      np.testing.assert_array_equal(
        images_of(part, name), images_of(data, name)
      )


def test_split_by_seed_depends_on_seed_and_names_alone() -> None:
  data = make_data()
  one = split_by_seed(data, 7, 2, seed=0)
  assert one.train.names == split_by_seed(data, 7, 2, seed=0).train.names
  other = [split_by_seed(data, 7, 2, seed=seed).test.names for seed in range(9)]
  assert len({frozenset(names) for names in other}) > 3
  backwards = LabelledImages(data.images, 9 - data.labels, data.names[::-1])
  assert split_by_seed(backwards, 7, 2, seed=0).test.names == one.test.names
  # Published figures depend on this order: it must never change.
  assert one.test.names == ('letter9', 'letter1', 'letter3')


@pytest.mark.parametrize('sizes', [(10, 2), (7, 0), (7, 7), (11, 2), (2, -1)])
def test_split_by_seed_refuses_empty_parts(sizes: tuple[int, int]) -> None:
  with pytest.raises(DataError, match='10 classes cannot be split'):
    split_by_seed(make_data(), *sizes, seed=0)


def test_rotating_before_splitting_is_a_leak() -> None:
  with pytest.raises(DataError, match='split first'):
    split_by_seed(rotate_classes(make_data()), 7, 2, seed=0)


@pytest.mark.parametrize('num_classes', [3, 4, 5, 10, 64, 100])
def test_split_sizes_fit(num_classes: int) -> None:
  train, validation = split_sizes(num_classes)
  splits = split_by_seed(make_data(num_classes, 1), train, validation, seed=0)
  fractions = [len(part.names) / num_classes for part in splits]
  np.testing.assert_allclose(fractions, [0.6, 0.2, 0.2], atol=0.27)
  if num_classes % 5 == 0:
    np.testing.assert_allclose(fractions, [0.6, 0.2, 0.2])


def test_split_sizes_of_two_classes() -> None:
  with pytest.raises(DataError, match='three or more'):
    split_sizes(2)


def test_rotate_classes() -> None:
  data = make_data(3)
  rotated = rotate_classes(data)
  assert len(rotated.names) == 12
  assert rotated.labels.dtype == np.int32
  for turns, suffix in enumerate(('rot000', 'rot090', 'rot180', 'rot270')):
    for name in data.names:
      expected = [np.rot90(image, turns) for image in images_of(data, name)]
      np.testing.assert_array_equal(
        images_of(rotated, f'{name}/{suffix}'), expected
      )
  with pytest.raises(DataError, match='cannot rotate classes'):
    rotate_classes(rotated)


def test_rotation_is_counter_clockwise() -> None:
  corner = np.zeros((1, 2, 2), np.uint8)
  corner[0, 0, 1] = 9  # Top right goes to top left.
  data = LabelledImages(corner, np.zeros(1, np.int32), ('a',))
  assert images_of(rotate_classes(data), 'a/rot090')[0].tolist() == [
    [9, 0],
    [0, 0],
  ]


def test_rotation_keeps_channels_and_needs_squares() -> None:
  colour = make_data(2)
  images = np.stack([colour.images] * 3, axis=-1)
  rotated = rotate_classes(colour._replace(images=images))
  assert rotated.images.shape == (32, 6, 6, 3)
  with pytest.raises(DataError, match='6 x 4 pixels'):
    rotate_classes(colour._replace(images=colour.images[:, :, :4]))


def write_split(
  directory: Path, train: str, val: str = 'letter8', test: str = 'letter9'
) -> Path:
  for name, text in (('train', train), ('val', val), ('test', test)):
    (directory / f'{name}.txt').write_text(text)
  return directory


def test_split_by_files(tmp_path: Path) -> None:
  data = make_data()
  train = 'letter3/rot090\nletter0\n\r\n letter3/rot270 \nletter1/rot000\n'
  splits = split_by_files(data, write_split(tmp_path, train))
  assert splits.train.names == (
    'letter3/rot090',
    'letter0',
    'letter3/rot270',
    'letter1/rot000',
  )
  assert splits.validation.names == ('letter8',)
  assert splits.test.names == ('letter9',)
  for name, source, turns in (
    ('letter3/rot090', 'letter3', 1),
    ('letter0', 'letter0', 0),
    ('letter3/rot270', 'letter3', 3),
    ('letter1/rot000', 'letter1', 0),
  ):
    np.testing.assert_array_equal(
      images_of(splits.train, name),
      np.rot90(images_of(data, source), turns, axes=(1, 2)),
    )


@pytest.mark.parametrize(
  ('train', 'message'),
  [
    ('letter0\nletterX\n', r"train.txt, line 2: unknown class 'letterX'"),
    ('letter0/rot045', r"line 1: unknown class 'letter0/rot045'"),
    ('letter0\n\nletter0', r"line 3: class 'letter0' is already in line 1"),
    ('letter0\nletter0/rot000', 'already in line 1'),
    ('letter9', r"test.txt, line 1: class 'letter9' is also in train.txt"),
    ('letter9/rot180', r"test.txt, line 1: class 'letter9' is also in train"),
    ('letter8/rot090', r"val.txt, line 1: class 'letter8' is also in train"),
    ('\n \n', 'names no class'),
  ],
)
def test_split_by_unfit_files(tmp_path: Path, train: str, message: str) -> None:
  with pytest.raises(DataError, match=message) as error:
    split_by_files(make_data(), write_split(tmp_path, train))
  assert '\n' not in str(error.value)


def test_split_by_missing_or_binary_files(tmp_path: Path) -> None:
  write_split(tmp_path, 'letter0')
  (tmp_path / 'val.txt').unlink()
  with pytest.raises(DataError, match=r'val\.txt: there is no such file'):
    split_by_files(make_data(), tmp_path)
  (tmp_path / 'val.txt').write_bytes(b'\xff\xfe')
  with pytest.raises(DataError, match=r'val\.txt: cannot be read'):
    split_by_files(make_data(), tmp_path)


def test_vinyals_lists_are_disjoint() -> None:
  lists = OMNIGLOT / 'splits_vinyals'
  if not lists.is_dir():
    pytest.skip(f'{lists} is not there')
  names = sorted(
    {
      line.rsplit('/', 1)[0]
      for file in ('train.txt', 'val.txt', 'test.txt')
      for line in (lists / file).read_text().split()
    }
  )
  data = LabelledImages(
    np.zeros((len(names), 2, 2), np.uint8),
    np.arange(len(names), dtype=np.int32),
    tuple(names),
  )
  splits = split_by_files(data, lists)
  assert [len(part.names) for part in splits] == [4112, 688, 1692]


def test_check_episode() -> None:
  data = make_data(10, 4)
  check_episode(data, ways=10, shots=1, queries=3)
  with pytest.raises(DataError, match=r'^ways=11: the data has 10 classes'):
    check_episode(data, 11, 1, 1)
  fewer = LabelledImages(data.images[:-1], data.labels[:-1], data.names)
  with pytest.raises(
    DataError,
    match=r"^shots=1 and queries=3: class 'letter9' has 3 examples, but 4",
  ):
    check_episode(fewer, 5, 1, 3)
  for sizes in ((0, 1, 1), (5, 0, 1), (5, 1, -1)):
    with pytest.raises(DataError, match='must be 1 or more'):
      check_episode(data, *sizes)


def test_splits_can_be_rotated_after_splitting() -> None:
  splits = split_by_seed(make_data(), 7, 2, seed=0)
  rotated = Splits(*map(rotate_classes, splits))
  assert [len(part.names) for part in rotated] == [20, 8, 12]
