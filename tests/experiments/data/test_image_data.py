"""Data sets, sizes of tasks and kinds of training, through the flags."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import TINY_IMAGES

from experiments import images
from experiments.data.images import load
from experiments.data.samplers import Wanted
from experiments.runner.errors import UsageError
from metajax.tasks.folder import PARTS

EACH, CLASSES = 6, 4


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
  """Files of several sizes, one of them damaged, divided by lists."""
  root = tmp_path_factory.mktemp('folder')
  rng = np.random.default_rng(0)
  for name in ('train', 'val', 'test'):
    rows = [('filename', 'label')]
    for label in range(CLASSES):
      for number in range(EACH):
        file, side = f'{name}{label}{number}.png', 16 + number % 2
        pixels = rng.integers(0, 90, (side, side, 3)).astype(np.uint8)
        pixels[4 * label :, :, label % 3] += 150
        Image.fromarray(pixels).save(root / file)
        rows.append((file, f'{name} {label}'))
    with open(root / f'{name}.csv', 'w', newline='') as file:
      csv.writer(file).writerows(rows)
  (root / 'train00.png').write_bytes(b'no image')
  return root


@pytest.fixture
def refused(launcher, tmp_path):
  """Runs what has to be refused; returns the line that says why."""

  def run(*arguments):
    ended = launcher.run('images', *arguments, cwd=tmp_path)
    assert (ended.code, ended.stderr.count('\n')) == (2, 1), ended
    assert list(tmp_path.iterdir()) == []
    return ended.stderr.rstrip()

  return run


@pytest.mark.long
def test_a_folder_of_images_is_repaired_by_flags(
  launcher, refused, cache, folder, tmp_path
):
  flags = ('--dataset=folder', f'--data_dir={folder}', '--algorithm=baseline')
  message = '--data_dir: .*1 of 72 images cannot be read: train00.png'
  assert re.match(message, refused(*flags))
  flags = (*flags, '--skip_unreadable')
  # Python's warning comes first, then the line.
  ended = launcher.run('images', *flags, cwd=tmp_path)
  assert ended.code == 2
  assert re.search(r'\n--data_dir: .* images are not 17 x 17', ended.stderr)
  ended = launcher.run(
    'images', *TINY_IMAGES, *flags, cache, '--image_size=16', '--steps=2',
    '--batch_size=8', '--queries=3', '--eval_inner_steps=3',
    f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert ended.code == 0, ended
  assert '4/4/4 train/validation/test classes by lists of files' in ended.stdout
  assert 'population' in ended.stdout


@pytest.mark.long
def test_tasks_of_several_sizes(launcher, cache, tmp_path):
  outcome = launcher.succeed(
    'images', *TINY_IMAGES, cache, '--ways=3', '--min_ways=2', '--steps=1',
    f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert outcome['protocol']['min_ways'] == 2
  assert outcome['protocol']['ways'] == 3


def test_flags_that_do_not_go_together(refused, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp('empty')
  data_dir = f'--data_dir={elsewhere}'
  for flags, expected in (
    (['--dataset=tfds:'], '--dataset=tfds:: must be one of strokes'),
    (['--dataset=folder'], '--data_dir: folder needs the directory of the im'),
    (['--dataset=fc100'], '--data_dir: fc100 needs the tensorflow-datasets d'),
    (
      ['--dataset=cifar_fs', data_dir],
      '--split_dir: cifar_fs needs train.txt, val.txt and test.txt',
    ),
    (
      ['--dataset=tfds:mnist', data_dir],
      "--data_dir: .*'mnist' is not prepared here; there is none",
    ),
    (
      ['--dataset=fc100', data_dir, '--split_dir=x'],
      '--split_dir: is x, but has no meaning for --dataset=fc100',
    ),
    (['--image_size=8'], '--image_size: is 8, but has no meaning for --data'),
    (['--within_groups'], '--within_groups: is True, but has no meaning for'),
    (['--min_ways=6'], '--min_ways: is 6, above --ways=5, which all tasks'),
    (['--min_shots=2'], '--min_shots: is 2, above --shots=1, which all'),
    (
      ['--batch_size=8'],
      '--batch_size: is 8, but has no meaning for maml, which trains on tasks',
    ),
    (
      ['--algorithm=baseline', '--train_shots=3'],
      '--train_shots: is 3, but .* baseline, which trains on classes',
    ),
  ):
    assert re.match(expected, refused(*flags)), flags


@pytest.mark.in_ci
def test_more_ways_than_an_alphabet_has(refused, cache, shared_data):
  """The flag that is to change is named, be it set or of the recipe."""
  data_dir = shared_data / 'omniglot' / 'tfds'
  if not data_dir.is_dir():
    pytest.skip(f'{data_dir} is not here')
  flags = (cache, '--dataset=omniglot', f'--data_dir={data_dir}',
           '--within_groups')  # fmt: skip
  for given, flag in (
    (['--ways=70'], '--ways=70: 70'),
    (['--algorithm=protonet'], '--train_ways=60: 60'),
  ):
    assert re.fullmatch(
      rf'{flag} ways within a group, but the largest of the \d+ groups has only'
      r' \d+ classes \(in the train split\)',
      refused(*flags, *given),
    )


@pytest.mark.long
def test_within_an_alphabet(launcher, cache, shared_data, tmp_path):
  data_dir = shared_data / 'omniglot' / 'tfds'
  if not data_dir.is_dir():
    pytest.skip(f'{data_dir} is not here')
  outcome = launcher.succeed(
    'images', *TINY_IMAGES, cache, '--dataset=omniglot', '--steps=1',
    f'--data_dir={data_dir}', '--within_groups',
    f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert outcome['protocol']['split'].endswith('by seed 0, within a group')


def protocol_of(**given):
  """What is loaded with these settings, without a run."""
  settings = images.Settings(**{'ways': 2, 'queries': 1} | given)
  return load(Wanted(settings, images.make_recipe(settings))).protocol['split']


def class_folders(root, classes):
  for name in classes:
    (root / name).mkdir(parents=True)
    for number in range(2):
      Image.new('L', (4, 4), 80 * number).save(root / name / f'{number}.png')
  return {'dataset': 'folder', 'data_dir': root}


@pytest.fixture
def ten_classes(tmp_path):
  """The flags of ten classes, once as folders and once as arrays."""
  folder = class_folders(tmp_path / 'folder', [f'c{i}' for i in range(10)])
  path = tmp_path / 'mine.npz'
  pixels = np.full((20, 4, 4), 200, np.uint8)
  np.savez(path, images=pixels, labels=np.arange(20) % 10)
  return folder, {'dataset': 'npz', 'data_file': path}


def test_classes_are_divided_by_seed_and_shares(ten_classes):
  for flags in ten_classes:
    assert protocol_of(**flags).startswith('6/2/2 train/validation/test classe')
    assert protocol_of(**flags, split_seed=3).endswith('by seed 3')
    shares = protocol_of(**flags, split_shares=(0.4, 0.3, 0.3))
    assert shares.startswith('4/3/3 train')


def test_too_few_classes_name_the_flags_that_help(ten_classes):
  for flags in ten_classes:
    with pytest.raises(
      UsageError,
      match=r'^--ways=5: the data has 2 classes, so at most 2 ways are allowed'
      r' \(in the validation split\); 6/2/2 classes are for train/validation/'
      r'test: lower it, or divide them otherwise, by --split_shares or --split',
    ):
      protocol_of(**flags, ways=5)
    with pytest.raises(
      UsageError, match=r'^--split_shares: .*leave none for tr'
    ):
      protocol_of(**flags, split_shares='0.02,0.49,0.49')


@pytest.mark.parametrize(
  'shares', ['0.5,0.5', '0.6,0.2,0.3', '1,0,0', 'a,b,c', (0.5, 0.25, 'x'), 1]
)
def test_shares_are_three_that_are_one_together(shares):
  with pytest.raises(
    UsageError, match=r'--split_shares.*: must be three numbers'
  ):
    images.Settings(split_shares=shares)


def test_folders_of_parts_are_not_divided_again(tmp_path):
  flags = class_folders(
    tmp_path, [f'{part}/{part}{i}' for part in PARTS for i in range(3)]
  )
  assert (
    protocol_of(**flags) == '3/3/3 train/validation/test classes by folders'
  )
  for name, value in (('split_seed', 1), ('split_shares', '0.4,0.3,0.3')):
    with pytest.raises(
      UsageError, match=f'^--{name}: is .*by folders; leave one'
    ):
      protocol_of(**flags, **{name: value})


def test_class_lists_divide_class_folders(ten_classes, tmp_path):
  for part, names in zip(PARTS, ('c0 c1', 'c2 c3', 'c4 c5 '), strict=True):
    (tmp_path / f'{part}.txt').write_text('\n'.join(names.split(' ')))
  for flags in ten_classes[:1]:
    assert protocol_of(**flags, split_dir=tmp_path).endswith('by class lists')
    with pytest.raises(UsageError, match=r'^--split_shares: .*of --split_dir'):
      protocol_of(**flags, split_dir=tmp_path, split_shares='0.4,0.3,0.3')


def test_limits_name_their_flags(ten_classes):
  folder, npz = ten_classes
  with pytest.raises(UsageError, match=r'^--max_image_pixels: .* 4 x 4 pixels'):
    protocol_of(**folder, max_image_pixels=15)
  path = npz['data_file']
  np.savez_compressed(
    path, images=np.zeros((2**21, 1, 1), np.uint8), labels=[0]
  )
  with pytest.raises(
    UsageError, match=r'^--max_unpacked_mebibytes: .*unpacks to'
  ):
    protocol_of(**npz, max_unpacked_mebibytes=1)
