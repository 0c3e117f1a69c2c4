"""One class, or one file, under two spellings: no leak to the test."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from metajax.tasks import (
  DataError,
  LabelledImages,
  load_class_folders,
  load_folder,
  load_npz,
  load_table,
  split_by_files,
  split_by_groups,
  split_by_seed,
)
from metajax.tasks.errors import printable
from metajax.tasks.folder import LISTS, PARTS
from metajax.tasks.names import normal_file_name, normal_name, numbered

COMPOSED = 'caf\u00e9'
DECOMPOSED = unicodedata.normalize('NFD', COMPOSED)
SPELLINGS = [
  ('cat', ' cat'), ('cat', 'cat\t'), ('cat', 'cat\r'), ('cat', '\ufeffcat'),
  ('cat', 'cat\u00a0'), ('a cat', 'a  cat'), (COMPOSED, DECOMPOSED),
  ('cat', 'c\u200bat'), ('cat', 'c\u00adat'), ('cat', 'cat\u2060'),
]  # fmt: skip


@pytest.mark.parametrize(('one', 'other'), SPELLINGS)
def test_names_have_one_spelling(one, other):
  assert normal_name(one) == normal_name(other) == one
  with pytest.raises(DataError, match='have the same name'):
    numbered([one, 'dog', other])


def test_capitals_tell_names_apart():
  assert numbered(['a', 'A', 'a/b']) == {'a': 0, 'A': 1, 'a/b': 2}


@pytest.mark.parametrize(
  'other',
  ['./a/b.png', 'a\\b.png', 'a//b.png', 'c/../a/b.png', ' a/b.png\r',
   '\ufeffa/b.png', '.\\a\\b.png'],
)  # fmt: skip
def test_files_have_one_spelling(other):
  assert normal_file_name(other) == 'a/b.png'


def make_lists(folder, **rows):
  """Lists of two classes each, in which some rows are others."""
  for number, name in enumerate(PARTS):
    first, second = f'{2 * number}.png', f'{2 * number + 1}.png'
    each = [(first, f'c{first[0]}'), (second, f'c{second[0]}')]
    each = rows.get(name, each)
    lines = ['filename,label', *(f'"{file}","{label}"' for file, label in each)]
    (folder / f'{name}.csv').write_text('\n'.join(lines), encoding='utf-8')
    for file in (first, second):
      pixels = np.full((4, 4), 10 * int(file[0]), np.uint8)
      Image.fromarray(pixels).save(folder / file)
  return folder


@pytest.mark.parametrize(('one', 'other'), SPELLINGS)
def test_a_class_in_two_lists_is_refused(tmp_path, one, other):
  make_lists(
    tmp_path,
    train=[('0.png', one), ('1.png', 'dog')],
    test=[('4.png', other), ('5.png', 'ant')],
  )
  with pytest.raises(DataError, match=r'test.csv, line [23]: class .* is also'):
    load_folder(tmp_path)


@pytest.mark.parametrize('link', [os.symlink, os.link])
def test_a_file_under_two_names_is_refused(tmp_path, link):
  make_lists(tmp_path, test=[('again.png', 'c4'), ('5.png', 'c5')])
  link(tmp_path / '0.png', tmp_path / 'again.png')
  with pytest.raises(
    DataError, match=r'again.png is already in .*train.csv, line 2, as 0.png'
  ):
    load_folder(tmp_path)


@pytest.mark.parametrize('other', ['./0.png', '.\\0.png', '0.png '])
def test_a_file_in_two_spellings_is_refused(tmp_path, other):
  make_lists(tmp_path, test=[(other, 'c4'), ('5.png', 'c5')])
  with pytest.raises(DataError, match=r'0.png ? is already in .*line 2$'):
    load_folder(tmp_path)


def test_a_file_is_found_in_the_spelling_of_its_system(tmp_path):
  make_lists(tmp_path)
  inner = tmp_path / DECOMPOSED
  inner.mkdir()
  (tmp_path / '4.png').rename(inner / 'b.png')
  rows = [(f'{COMPOSED}\\b.png', 'c4'), ('5.png', 'c5')]
  make_lists(tmp_path, test=rows)
  assert load_folder(tmp_path).test.images[:, 0, 0].tolist() == [40, 50]


def test_a_byte_order_mark_and_ends_of_lines_are_no_part_of_names(tmp_path):
  make_lists(tmp_path)
  for name in LISTS:
    text = (tmp_path / name).read_text().replace('\n', ' \r\n')
    (tmp_path / name).write_text(text, encoding='utf-8-sig')
  assert load_folder(tmp_path).test.names == ('c4', 'c5')


def test_a_list_leads_to_no_other_directory(tmp_path):
  inside = tmp_path / 'inside'
  inside.mkdir()
  outside = tmp_path / 'outside.png'
  Image.new('L', (4, 4)).save(outside)
  (inside / 'link.png').symlink_to(outside)
  for name in ('../outside.png', '..\\outside.png', str(outside), 'link.png'):
    make_lists(inside, val=[(name, 'c2'), ('3.png', 'c3')])
    with pytest.raises(DataError, match=r'val.csv, line 2: .* leads out of'):
      load_folder(inside)
  make_lists(inside, val=[(str(inside / '2.png'), 'c2'), ('3.png', 'c3')])
  assert load_folder(inside).validation.names == ('c2', 'c3')


def test_names_that_cannot_be_printed_are_escaped(tmp_path):
  make_lists(tmp_path, train=[('a\x1b[2Jb\x00.png', 'c0'), ('1.png', 'c1')])
  with pytest.raises(DataError) as refused:
    load_folder(tmp_path)
  assert str(refused.value).isprintable()
  assert r'a\x1b[2Jb\x00.png' in str(refused.value)
  assert printable('\udcff') == r'\udcff'


def data_of(*names):
  places = np.arange(len(names), dtype=np.int32)
  return LabelledImages(np.zeros((len(names), 4, 4), np.uint8), places, names)


def test_splits_divide_names_in_any_spelling(tmp_path):
  data = data_of(DECOMPOSED, 'cow', 'a  hen', 'pig')
  for name, text in (
    ('train.txt', f'\ufeff{COMPOSED} \r\n'),
    ('val.txt', 'cow'),
    ('test.txt', 'a hen\n'),
  ):
    (tmp_path / name).write_text(text, encoding='utf-8')
  parts = split_by_files(data, tmp_path)
  assert [part.labels.tolist() for part in parts] == [[0], [0], [0]]
  (tmp_path / 'test.txt').write_text(DECOMPOSED, encoding='utf-8')
  with pytest.raises(DataError, match=r'is also in train.txt'):
    split_by_files(data, tmp_path)


def test_splits_refuse_a_class_of_two_spellings(tmp_path):
  data = data_of('x/cat', 'y/dog', 'z/pig', 'x/cat ')
  with pytest.raises(DataError, match='have the same name'):
    split_by_seed(data, 2, 1, seed=0)
  with pytest.raises(DataError, match='have the same name'):
    split_by_groups(data, ['x'], ['y'], ['z'])
  with pytest.raises(DataError, match='may be in one part only'):
    split_by_groups(data_of('x/a', 'y/b', 'z/c'), ['x', 'y'], ['x '], ['z'])


def test_labels_of_two_spellings_are_one_class(tmp_path):
  labels = ['dog', COMPOSED, 'dog\r', DECOMPOSED, ' dog']
  images = np.full((5, 4, 4), 200, np.uint8)
  np.savez(tmp_path / 'mine.npz', images=images, labels=labels)
  data = load_npz(tmp_path / 'mine.npz')
  assert data.names == (COMPOSED, 'dog')
  assert data.labels.tolist() == [1, 0, 1, 0, 1]


def test_ids_and_columns_of_two_spellings_are_one(tmp_path):
  lines = [f'task,{DECOMPOSED},y', f'{COMPOSED},1,2', f'{DECOMPOSED} ,3,4']
  path = tmp_path / 'mine.csv'
  path.write_text('\n'.join([*lines, 'a  b,5,6', 'a b,7,8']), encoding='utf-8')
  table = load_table(path, feature_columns=[COMPOSED])
  assert table.task_names == ('a b', COMPOSED)
  assert table.tasks.tolist() == [1, 1, 0, 0]


# Folders of classes.


def make_folders(root, *names):
  for number, name in enumerate(names):
    (root / name).mkdir(parents=True)
    for each in range(2):
      pixels = np.full((4, 4), 10 * number + each, np.uint8)
      Image.fromarray(pixels).save(root / name / f'{each}.png')
  return root


def test_a_folder_is_a_class(tmp_path):
  make_folders(tmp_path, 'dog', 'cat', 'Greek/alpha')
  for clutter in ('.DS_Store', 'dog/.hidden', 'dog/Thumbs.db', 'readme.txt'):
    (tmp_path / clutter).write_text('no image')
  data = load_class_folders(tmp_path)
  assert data.names == ('Greek/alpha', 'cat', 'dog')
  values = data.images[:, 0, 0]
  assert dict(zip(values.tolist(), data.labels.tolist(), strict=True)) == {
    0: 2, 1: 2, 10: 1, 11: 1, 20: 0, 21: 0,
  }  # fmt: skip
  with pytest.raises(DataError, match=r'has neither train.csv.*load_class_fol'):
    load_folder(tmp_path)


def test_folders_of_parts_divide_folders_of_classes(tmp_path):
  names = [f'{part}/{part[:2]}{each}' for part in PARTS for each in range(2)]
  make_folders(tmp_path, *names)
  splits = load_folder(tmp_path)
  assert [part.names for part in splits] == [
    ('tr0', 'tr1'), ('va0', 'va1'), ('te0', 'te1'),
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('test/cat', "class 'cat' is also in .*train; a class may be in one only"),
    (f'test/{DECOMPOSED}', "class 'caf\u00e9' is also in"),
  ],
)
def test_a_class_in_two_folders_is_refused(tmp_path, name, message):
  make_folders(
    tmp_path, 'train/cat', f'train/{COMPOSED}', 'val/a', 'val/b', 'test/c', name
  )
  with pytest.raises(DataError, match=message):
    load_folder(tmp_path)


def test_a_part_that_is_missing_is_named(tmp_path):
  make_folders(tmp_path, 'train/a', 'train/b', 'test/c', 'test/d')
  with pytest.raises(DataError, match=r'val: there is no such directory; the'):
    load_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
  make_folders(tmp_path, 'bus', 'train', 'test')
  assert load_class_folders(tmp_path).names == ('bus', 'test', 'train')


def test_folders_that_cannot_be_meant_are_refused(tmp_path):
  make_folders(tmp_path, 'a', 'b')
  outside = make_folders(tmp_path.parent / f'{tmp_path.name}_2', 'out')

  def refused(path, message):
    with pytest.raises(DataError, match=message):
      load_class_folders(tmp_path)
    path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()

  (tmp_path / 'c').symlink_to(outside / 'out')
  refused(tmp_path / 'c', 'c: is a link to a folder')
  (tmp_path / 'a' / 'link.png').symlink_to(outside / 'out' / '0.png')
  refused(tmp_path / 'a' / 'link.png', 'is a link that leads out of')
  (tmp_path / 'a' / 'link.png').symlink_to(tmp_path / 'b' / '0.png')
  refused(tmp_path / 'a' / 'link.png', r'b/0.png is already in .*link.png')
  (tmp_path / 'stray.jpeg').write_bytes(b'')
  refused(tmp_path / 'stray.jpeg', 'stray.jpeg: the image is in no folder')
  (tmp_path / 'c').mkdir()
  refused(tmp_path / 'c', 'c: the folder has no image')
  (tmp_path / 'a' / 'inner').mkdir()
  refused(tmp_path / 'a' / 'inner', r'a: has both files \(0.png\) and folders')
  (tmp_path / 'a' / 'notes.txt').write_text('no image')
  refused(
    tmp_path / 'a' / 'notes.txt', r'1 of 5 images cannot be read: .*notes'
  )
  assert load_class_folders(tmp_path).names == ('a', 'b')
