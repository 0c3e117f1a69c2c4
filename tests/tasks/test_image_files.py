"""Folders of images and prepared data sets, and what may be wrong with them."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metajax.tasks import (
  DataError,
  load_cifar100,
  load_fc100,
  load_folder,
  load_prepared,
  split_by_files,
  split_groups_by_seed,
)
from metajax.tasks.cifar import FC100
from metajax.tasks.folder import LISTS

EACH = 3


def save(path: Path, value: int, size=(8, 8), mode: str = 'RGB') -> None:
  colour = value if mode == 'L' else (value, 255 - value, 0)
  Image.new(mode, size, colour).save(path)


def write_list(path: Path, rows: list[tuple[str, str]]) -> None:
  with open(path, 'w', newline='') as file:
    csv.writer(file).writerows([('filename', 'label'), *rows])


def make_folder(folder: Path, mode: str = 'RGB') -> Path:
  """Two classes a list; the red of an image is its number."""
  number = 0
  for name in LISTS:
    rows = []
    for label in (f'{name[:2]}_z', f'{name[:2]}_a'):
      for _ in range(EACH):
        save(folder / f'{number}.png', number, mode=mode)
        rows.append((f'{number}.png', label))
        number += 1
    write_list(folder / name, rows)
  return folder


@pytest.fixture
def folder(tmp_path) -> Path:
  return make_folder(tmp_path)


def test_a_folder_is_divided_as_its_lists_say(folder):
  splits = load_folder(folder)
  for index, (name, part) in enumerate(zip(LISTS, splits, strict=True)):
    assert part.names == (f'{name[:2]}_a', f'{name[:2]}_z')
    assert part.images.shape == (2 * EACH, 8, 8, 3)
    first = 2 * EACH * index
    assert part.images[:, 0, 0, 0].tolist() == list(
      range(first, first + 2 * EACH)
    )
    assert part.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_grey_images_have_no_channels(tmp_path):
  splits = load_folder(make_folder(tmp_path, mode='L'))
  assert splits.train.images.shape == (2 * EACH, 8, 8)


def test_images_may_lie_in_a_folder_and_lists_in_another(tmp_path):
  data, lists = tmp_path / 'data', tmp_path / 'lists'
  (data / 'images').mkdir(parents=True)
  lists.mkdir()
  make_folder(data / 'images')
  for name in LISTS:
    (data / 'images' / name).rename(lists / name)
  assert len(load_folder(data, lists).test.images) == 2 * EACH


def test_mixed_sizes_are_counted_named_and_refused_or_resized(folder):
  save(folder / '4.png', 4, size=(10, 6))
  save(folder / '9.png', 9, size=(12, 12))
  with pytest.raises(
    DataError,
    match=r'2 of 18 images are not 8 x 8 pixels.*4.png \(10 x 6\), 9.png',
  ):
    load_folder(folder)
  splits = load_folder(folder, image_size=5)
  assert splits.train.images.shape == (6, 5, 5, 3)
  assert splits.train.images[4, 0, 0, 0] == 4


def test_unreadable_files_are_counted_named_and_refused_or_left_out(folder):
  for number in (1, 2, 7, 13):
    (folder / f'{number}.png').write_bytes(b'no image')
  (folder / '2.png').unlink()
  whole = (folder / '7.png').read_bytes()
  save(folder / '7.png', 7)
  whole = (folder / '7.png').read_bytes()
  (folder / '7.png').write_bytes(whole[: len(whole) // 2])
  message = r'4 of 18 images cannot be read: 1.png \(.*2.png.*and 1 more'
  with pytest.raises(DataError, match=f'{message}; skip_unreadable leaves'):
    load_folder(folder)
  with pytest.warns(UserWarning, match=f'{message}; they are left out'):
    splits = load_folder(folder, skip_unreadable=True)
  assert splits.train.images[:, 0, 0, 0].tolist() == [0, 3, 4, 5]
  assert splits.train.labels.tolist() == [1, 0, 0, 0]
  assert len(splits.validation.images) == len(splits.test.images) == 5


def test_nothing_that_can_be_read_is_refused(folder):
  for path in folder.glob('*.png'):
    path.write_bytes(b'')
  with (
    pytest.warns(UserWarning, match='18 of 18'),
    pytest.raises(DataError, match='there is no image that can be read'),
  ):
    load_folder(folder, skip_unreadable=True)


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([('0.png', 'a'), ('1.png', 'a')], 'all 2 images have the label a; two'),
    ([('0.png', 'a'), ('0.png', 'b')], r'line 3: 0.png is already in .*line 2'),
    ([('0.png', 'a'), ('x.png', 'va_a')], r"class 'va_a' is also in .*train"),
    ([('0.png', 'a'), ('1.png', '')], 'line 3: a file name and a label are'),
    ([], 'the file names no image'),
  ],
)
def test_lists_that_cannot_be_meant_are_refused(folder, rows, message):
  write_list(folder / 'train.csv', rows)
  with pytest.raises(DataError, match=message):
    load_folder(folder)


def test_lists_that_are_none_are_refused(folder, tmp_path):
  (folder / 'train.csv').write_text('a;b\n1;2\n')
  with pytest.raises(DataError, match="columns filename,label; it is 'a;b'"):
    load_folder(folder)
  (folder / 'train.csv').write_bytes(b'filename,label\n\xff\xfe,a\n')
  with pytest.raises(DataError, match=r'train.csv: cannot be read'):
    load_folder(folder)
  (folder / 'train.csv').unlink()
  with pytest.raises(DataError, match=r'train.csv: there is no such file'):
    load_folder(folder)
  with pytest.raises(DataError, match='there is no such directory'):
    load_folder(tmp_path / 'nowhere')


def test_more_bits_than_eight_are_not_cut_off_without_a_word(folder):
  for name, dtype in (('4.png', np.uint16), ('9.tiff', np.float32)):
    Image.fromarray(np.full((8, 8), 300, dtype)).save(folder / name)
  text = (folder / 'val.csv').read_text()
  (folder / 'val.csv').write_text(text.replace('9.png', '9.tiff'))
  with pytest.raises(
    DataError, match=r'2 of 18 images cannot be read: 4.png \(.*8 bits'
  ):
    load_folder(folder)


def test_whatever_a_decoder_raises_is_named(folder, monkeypatch):
  opened = Image.open

  def broken(file):
    if file == folder / '4.png':
      raise RuntimeError('of a codec')  # as that of AVIF does
    return opened(file)

  monkeypatch.setattr(Image, 'open', broken)
  with pytest.raises(DataError, match=r'cannot be read: 4.png \(of a codec\)'):
    load_folder(folder)


def test_what_does_not_fit_into_memory_is_no_damaged_file(folder):
  with pytest.raises(
    DataError, match='18 images do not fit into memory; a smaller image_size'
  ):
    load_folder(
      folder,
      image_size=10**8,
      skip_unreadable=True,
      max_image_pixels=10**16,
    )


def test_what_is_wrong_is_blamed_on_the_lists_or_on_the_files(tmp_path):
  """Also where the files lie below the lists."""
  (tmp_path / 'files').mkdir()
  folder = make_folder(tmp_path / 'files')
  for name in LISTS:
    (tmp_path / name).write_text((folder / name).read_text())
  (folder / '0.png').write_bytes(b'')
  with pytest.raises(DataError, match='cannot be read') as error:
    load_folder(folder, tmp_path)
  assert error.value.parameter is None
  (tmp_path / 'val.csv').write_text('a,b')
  with pytest.raises(DataError, match=r'val.csv: the first line') as error:
    load_folder(folder, tmp_path)
  assert error.value.parameter == 'split_dir'


def test_lists_that_nothing_is_left_of_are_refused(folder):
  for number in range(6, 12):
    (folder / f'{number}.png').write_bytes(b'')
  with (
    pytest.warns(UserWarning, match='6 of 18'),
    pytest.raises(DataError, match=r'val.csv: no image is left; two classes'),
  ):
    load_folder(folder, skip_unreadable=True)


@pytest.mark.parametrize('skip_unreadable', [False, True])
def test_without_pillow_there_is_a_word_of_it(
  folder, monkeypatch, skip_unreadable
):
  monkeypatch.setitem(__import__('sys').modules, 'PIL.Image', None)
  with pytest.raises(DataError, match=r'^reading images needs Pillow; install'):
    load_folder(folder, skip_unreadable=skip_unreadable)


# Data sets as tensorflow-datasets prepares them.


def encoded(value: int, size: int) -> bytes:
  """A PNG file; with arrays tensorflow-datasets would ask for TensorFlow."""
  file = io.BytesIO()
  Image.new('RGB', (size, size), (value, value, value)).save(file, 'PNG')
  return file.getvalue()


def prepare(
  data_dir: Path, name: str, coarse: dict[str, str], sizes, unlabelled: int = 0
) -> None:
  """Images of one value a class, two in each split; some without a label."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import registered

  fine = sorted(coarse)
  features = {
    'image': tfds.features.Image(shape=(None, None, 3)),
    'label': tfds.features.ClassLabel(names=fine),
    'coarse_label': tfds.features.ClassLabel(names=sorted({*coarse.values()})),
  }

  with registered.skip_registration():

    class Tiny(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        return tfds.core.DatasetInfo(
          builder=self,
          features=tfds.features.FeaturesDict(features),
          supervised_keys=('image', 'label'),
        )

      def _split_generators(self, dl_manager):
        return {'train': self._generate(0), 'test': self._generate(1)}

      def _generate(self, split):
        for index, label in enumerate(fine):
          for number in range(2):
            size = sizes[(index + number) % len(sizes)]
            yield (
              f'{split} {index} {number}',
              {
                'image': encoded(10 * index % 256, size),
                'label': label,
                'coarse_label': coarse[label],
              },
            )

        for number in range(unlabelled if split else 0):
          image = encoded(255, sizes[0])
          group = coarse[fine[0]]
          yield (
            f'unlabelled {number}',
            {'image': image, 'label': -1, 'coarse_label': group},
          )

      def _generate_examples(self):
        raise NotImplementedError

  Tiny.name = name
  Tiny(data_dir=str(data_dir)).download_and_prepare(file_format='array_record')


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory) -> Path:
  data_dir = tmp_path_factory.mktemp('tfds')
  groups = [group for part in FC100.values() for group in part]
  coarse = {f'{group}_{i}': group for group in groups for i in range(2)}
  prepare(data_dir, 'cifar100', coarse, sizes=(4,))
  few = {'a': 'x', 'b': 'x', 'c': 'y'}
  prepare(data_dir, 'uneven', few, sizes=(4, 6))
  prepare(data_dir, 'challenge', few, sizes=(4,), unlabelled=5)
  return data_dir


def test_all_splits_of_a_prepared_set_are_one(tfds_dir):
  data = load_cifar100(tfds_dir)
  classes = len(data.names)
  assert classes == len(set(data.names)) == 40
  assert data.images.shape == (4 * classes, 4, 4, 3)
  np.testing.assert_array_equal(np.bincount(data.labels), 4)
  values = data.images[:, 0, 0, 0].astype(int)
  np.testing.assert_array_equal(values, 10 * data.labels % 256)


def test_images_without_a_label_are_no_class(tfds_dir):
  data = load_prepared('challenge', tfds_dir)
  assert data.names == ('a', 'b', 'c')
  assert np.bincount(data.labels).tolist() == [4, 4, 4]
  assert data.images.max() == 20


def test_fc100_is_divided_by_superclass(tfds_dir):
  splits = load_fc100(tfds_dir)
  for name, part in zip(FC100, splits, strict=True):
    groups = {label.partition('/')[0] for label in part.names}
    assert groups == set(FC100[name])
  assert [len(part) for part in FC100.values()] == [12, 4, 4]


def test_lists_divide_cifar_fs(tfds_dir, tmp_path):
  names = load_cifar100(tfds_dir).names
  for index, name in enumerate(('train.txt', 'val.txt', 'test.txt')):
    (tmp_path / name).write_text('\n'.join(names[index::3]))
  splits = split_by_files(load_cifar100(tfds_dir), tmp_path)
  assert sorted(name for part in splits for name in part.names) == list(names)


def test_groups_are_divided_whole_and_alike_for_a_seed(tfds_dir):
  data = load_prepared('cifar100', tfds_dir, group='coarse_label')
  splits, again, other = (
    split_groups_by_seed(data, 16, 4, seed) for seed in (0, 0, 1)
  )
  groups = [{name.partition('/')[0] for name in p.names} for p in splits]
  assert [len(each) for each in groups] == [12, 4, 4]
  assert not groups[0] & groups[1] | groups[1] & groups[2]
  assert splits.test.names == again.test.names != other.test.names
  with pytest.raises(DataError, match='20 groups cannot be split into 20'):
    split_groups_by_seed(data, 20, 4, seed=0)


def test_mixed_sizes_of_a_prepared_set_are_refused_or_resized(tfds_dir):
  with pytest.raises(DataError, match='6 of 12 images are not 4 x 4 pixels'):
    load_prepared('uneven', tfds_dir)
  data = load_prepared('uneven', tfds_dir, image_size=3)
  assert data.images.shape == (12, 3, 3, 3)
  assert data.names == ('a', 'b', 'c')


def test_what_is_not_prepared_is_named(tfds_dir, tmp_path):
  with pytest.raises(
    DataError,
    match=r"'mnist' is not prepared here; there is challenge, cifar100, ",
  ):
    load_prepared('mnist', tfds_dir)
  with pytest.raises(
    DataError, match='not prepared here; there is none; prepare it as array_rec'
  ):
    load_prepared('mnist', tmp_path)
  with pytest.raises(DataError, match='nowhere: there is no such directory'):
    load_prepared('mnist', tmp_path / 'nowhere')
  with pytest.raises(DataError, match="has no label 'colour'; it has"):
    load_prepared('uneven', tfds_dir, group='colour')


def test_several_versions_are_to_be_named(tfds_dir, tmp_path):
  for version in ('1.0.0', '2.0.0'):
    target = tmp_path / 'uneven' / version
    target.mkdir(parents=True)
    for path in (tfds_dir / 'uneven' / '1.0.0').iterdir():
      (target / path.name).write_bytes(path.read_bytes())
  with pytest.raises(DataError, match=r'several: uneven/1.0.0, uneven/2.0.0'):
    load_prepared('uneven', tmp_path)
  data = load_prepared('uneven/1.0.0', tmp_path, image_size=3)
  assert len(data.images) == 12


def test_damaged_records_are_refused(tfds_dir, tmp_path):
  target = tmp_path / 'uneven' / '1.0.0'
  target.mkdir(parents=True)
  for path in (tfds_dir / 'uneven' / '1.0.0').iterdir():
    content = path.read_bytes()
    if path.suffix not in ('.json', '.txt'):
      content = content[: len(content) // 2]
    (target / path.name).write_bytes(content)
  with pytest.raises(DataError, match='truncated or damaged'):
    load_prepared('uneven', tmp_path, image_size=3)
