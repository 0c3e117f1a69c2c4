"""Reading Omniglot, and preparing it for real from a server on loopback."""

import http.server
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from metajax.tasks import omniglot
from metajax.tasks.errors import DataError
from metajax.tasks.labelled import LabelledImages, check_episode
from metajax.tasks.splits import split_by_files, split_by_seed

SHARED = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'omniglot'
SMALL = ('small1', 'small2')
ZIPS = tuple(f'images_background_{split}.zip' for split in SMALL)


def shared(path: str) -> Path:
  if not (SHARED / path).exists():
    pytest.skip(f'{SHARED / path} is not there')
  return SHARED / path


def same(one: LabelledImages, other: LabelledImages) -> bool:
  return (
    np.array_equal(one.images, other.images)
    and np.array_equal(one.labels, other.labels)
    and one.names == other.names
  )


def copy_of_shared(tmp_path: Path) -> Path:
  """A writable copy of the prepared data, with the record file of small1."""
  source = shared('tfds') / 'omniglot' / '3.0.0'
  target = tmp_path / 'omniglot' / '3.0.0'
  target.mkdir(parents=True)
  for path in source.iterdir():
    if path.suffix in ('.json', '.txt') or 'small1' in path.name:
      (target / path.name).write_bytes(path.read_bytes())
  return target


def load_small1(data_dir: Path, cache_dir: Path | None = None, **options):
  return omniglot.load(data_dir, cache_dir, splits=('small1',), **options)


@pytest.fixture(scope='module')
def whole() -> LabelledImages:
  return omniglot.load(shared('tfds'))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
  """Serves a directory at the returned URL."""
  servers = []

  def start(directory: Path) -> str:
    class Handler(http.server.SimpleHTTPRequestHandler):
      def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, directory=str(directory), **kwargs)

      def log_message(self, *args) -> None:
        pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    servers.append((server, thread))
    return f'http://127.0.0.1:{server.server_port}'

  yield start
  for server, thread in servers:
    server.shutdown()
    server.server_close()
    thread.join()


def drawings(num: int = 3) -> np.ndarray:
  generator = np.random.default_rng(0)
  return generator.integers(0, 2, (num, 105, 105), dtype=np.uint8)


def test_shrink_is_the_exact_area_average() -> None:
  raw = drawings()
  fine = np.repeat(np.repeat(1 - raw, 4, axis=1), 4, axis=2)
  blocks = fine.reshape(-1, 28, 15, 28, 15).sum(axis=(2, 4), dtype=np.int64)
  expected = np.floor(255 * blocks / 225 + 0.5)
  np.testing.assert_array_equal(omniglot.shrink(raw), expected)


def test_both_value_ranges_are_the_same_drawing() -> None:
  raw = drawings()
  np.testing.assert_array_equal(
    omniglot.shrink(raw), omniglot.shrink(255 * raw)
  )
  np.testing.assert_array_equal(
    omniglot.shrink(raw), omniglot.shrink(raw.astype(bool))
  )
  assert omniglot.shrink(np.zeros((1, 105, 105), np.uint8)).min() == 255
  assert omniglot.shrink(np.ones((1, 105, 105), np.uint8)).max() == 0


@pytest.mark.in_ci
def test_whole_omniglot(whole: LabelledImages) -> None:
  assert whole.images.shape == (32460, 28, 28)
  assert whole.images.dtype == np.uint8
  assert whole.labels.dtype == np.int32
  assert len(set(whole.names)) == 1623
  np.testing.assert_array_equal(np.bincount(whole.labels), np.full(1623, 20))
  assert 0.05 < whole.images.mean() / 255 < 0.15  # Ink is bright, and scarce.
  check_episode(whole, ways=20, shots=5, queries=15)


@pytest.mark.in_ci
def test_seeded_split(whole: LabelledImages) -> None:
  splits = split_by_seed(
    whole, omniglot.TRAIN_CLASSES, omniglot.VALIDATION_CLASSES, seed=0
  )
  assert [len(part.names) for part in splits] == [1100, 100, 423]


@pytest.mark.in_ci
def test_vinyals_lists_name_classes_of_the_data(whole: LabelledImages) -> None:
  splits = split_by_files(whole, shared('splits_vinyals'))
  assert [len(part.names) for part in splits] == [4112, 688, 1692]
  for part in splits:
    assert set(np.bincount(part.labels)) == {20}
  name = 'Gurmukhi/character42'
  upright = whole.images[whole.labels == whole.names.index(name)]
  turned = splits.test.names.index(f'{name}/rot090')
  np.testing.assert_array_equal(
    splits.test.images[splits.test.labels == turned],
    np.rot90(upright, axes=(1, 2)),
  )


@pytest.mark.in_ci
def test_what_tensorflow_datasets_decodes() -> None:
  """Its own decoding, in whatever range, is the same drawings and classes."""
  import tensorflow_datasets as tfds

  data_dir = shared('tfds')
  source = tfds.data_source('omniglot', split='small1', data_dir=data_dir)
  data = load_small1(data_dir)
  names = source.dataset_info.features['alphabet'].names
  for index in range(0, len(source), 500):
    example = source[index]
    np.testing.assert_array_equal(
      omniglot.shrink(example['image'][None, :, :, 0])[0], data.images[index]
    )
    name = data.names[data.labels[index]]
    assert name == (
      f'{names[example["alphabet"]]}/character'
      f'{example["alphabet_char_id"] + 1:02d}'
    )


@pytest.mark.in_ci
def test_reading_leaves_tensorflow_alone() -> None:
  code = (
    'import sys\n'
    'from metajax.tasks import omniglot\n'
    "lazy = {'tensorflow', 'tensorflow_datasets', 'PIL', 'requests'}\n"
    'assert not lazy & set(sys.modules), lazy & set(sys.modules)\n'
    f'omniglot.load({str(shared("tfds"))!r}, None, splits=("small1",))\n'
    "assert 'tensorflow' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_cache_is_keyed_by_the_records(tmp_path: Path) -> None:
  cache, data_dir = tmp_path / 'a' / 'cache', tmp_path / 'data'
  directory = copy_of_shared(data_dir)
  told = []
  data = load_small1(
    data_dir, cache, progress=lambda *counts: told.append(counts)
  )
  assert told[-1] == (len(data.images), len(data.images))
  (file,) = cache.iterdir()
  started = time.perf_counter()
  assert same(load_small1(data_dir, cache), data)
  assert time.perf_counter() - started < 0.5
  # A record file that is damaged later is not hidden by the cache.
  (record,) = directory.glob('*small1*')
  content = bytearray(record.read_bytes())
  content[len(content) // 2] ^= 1
  record.write_bytes(content)
  with pytest.raises(DataError, match=record.name):
    load_small1(data_dir, cache)
  assert list(cache.iterdir()) == [file]


@pytest.mark.in_ci
def test_damaged_cache_is_made_again(tmp_path: Path) -> None:
  data_dir = shared('tfds')
  data = load_small1(data_dir, tmp_path)
  (file,) = tmp_path.iterdir()
  good = file.read_bytes()
  flipped = bytearray(good)
  flipped[len(good) // 2] ^= 1
  for content in (bytes(flipped), good[: len(good) // 2]):
    file.write_bytes(content)
    assert same(load_small1(data_dir, tmp_path), data)
    assert file.read_bytes() == good
  assert list(tmp_path.iterdir()) == [file]


def test_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
  occupied = tmp_path / 'file'
  occupied.write_text('')
  with pytest.warns(UserWarning, match='cannot keep the decoded images'):
    data = load_small1(shared('tfds'), occupied)
  assert len(data.images) == 2720


def refused(data_dir: Path, message: str) -> None:
  with pytest.raises(DataError, match=message) as error:
    load_small1(data_dir)
  assert '\n' not in str(error.value)


def test_directories_that_are_not_omniglot(tmp_path: Path) -> None:
  refused(tmp_path / 'none', 'it does not exist')
  refused(tmp_path, 'it is empty')
  (tmp_path / 'mnist' / '3.0.1').mkdir(parents=True)
  refused(tmp_path, 'it holds mnist; give the directory that has omniglot')
  (tmp_path / 'omniglot' / '2.0.0').mkdir(parents=True)
  refused(tmp_path, 'it holds mnist, omniglot/2.0.0')
  version = tmp_path / 'omniglot' / '3.0.0'
  version.mkdir()
  refused(tmp_path, 'dataset_info.json: there is no such file')
  info = version / 'dataset_info.json'
  info.write_text('{"name": "mnist"}')
  refused(tmp_path, "the data set 'mnist', not Omniglot")
  refused(version, "it is itself the data set 'mnist'")
  for text in ('{"name": ', '[]', '{}', '\0'):
    info.write_text(text)
    refused(tmp_path, 'dataset_info.json: damaged')
  info.write_text('{"name": "omniglot"}')
  refused(tmp_path, 'damaged metadata')
  file = tmp_path / 'file'
  file.write_text('')
  refused(file, 'it is not a directory')


def test_splits_that_are_not_prepared() -> None:
  with pytest.raises(DataError, match='lacks the splits big; it has train'):
    omniglot.load(shared('tfds'), splits=('small1', 'big'))


def test_damaged_records_are_refused_by_name(tmp_path: Path) -> None:
  directory = copy_of_shared(tmp_path)
  (record,) = directory.glob('*small1*')
  good = record.read_bytes()
  # 65536 bytes of it read, to the library, as records that are empty.
  for length in (0, 100, 65536, len(good) // 2, len(good) - 1):
    record.write_bytes(good[:length])
    refused(tmp_path, f'{record.name}: truncated or damaged')
  for position in (70, len(good) // 3, len(good) // 2, len(good) - 65536):
    content = bytearray(good)
    content[position] ^= 16
    record.write_bytes(content)
    refused(tmp_path, f'{record.name}: truncated or damaged')
  record.unlink()
  refused(tmp_path, f'{record.name}: truncated or damaged')


def test_damaged_names_are_refused(tmp_path: Path) -> None:
  directory = copy_of_shared(tmp_path)
  names = directory / 'label.labels.txt'
  names.write_text(names.read_text().replace('Balinese_3', 'Balinese_x'))
  refused(tmp_path, 'has the label Balinese_x')


@pytest.mark.in_ci
def test_prepare_equals_the_builder_of_tensorflow_datasets(
  tmp_path: Path, serve: Callable[[Path], str], capfd: pytest.CaptureFixture
) -> None:
  import tensorflow_datasets as tfds

  source = serve(shared(ZIPS[0]).parent)
  told = []
  directory = omniglot.prepare(
    tmp_path,
    splits=SMALL,
    source=source,
    progress=lambda *counts: told.append(counts),
  )
  assert told[0] == (1, told[-1][1])
  assert told[-1] == (len(told), len(told))
  assert directory == tmp_path / 'omniglot' / '3.0.0'
  assert capfd.readouterr() == ('', '')
  assert 'tensorflow' not in sys.modules
  assert same(
    omniglot.load(tmp_path, splits=SMALL[1:]),
    omniglot.load(shared('tfds'), splits=SMALL[1:]),
  )
  ours, theirs = (
    tfds.data_source('omniglot', split='small2', data_dir=path)
    for path in (tmp_path, shared('tfds'))
  )
  assert len(ours) == len(theirs) == 3120
  for index in range(0, 3120, 40):
    one, other = ours[index], theirs[index]
    np.testing.assert_array_equal(one['image'], other['image'])
    assert one['label'] == other['label']
    assert one['alphabet_char_id'] == other['alphabet_char_id']
  with pytest.raises(DataError, match='lacks the splits train, test'):
    omniglot.load(tmp_path, download=True)


def test_prepare_refuses_a_flipped_bit(
  tmp_path: Path, serve: Callable[[Path], str]
) -> None:
  content = bytearray(shared(ZIPS[0]).read_bytes())
  content[len(content) // 2] ^= 1
  served, data_dir = tmp_path / 'served', tmp_path / 'data'
  served.mkdir()
  (served / ZIPS[0]).write_bytes(content)
  source = serve(served)
  with pytest.raises(DataError, match='has wrong checksum') as error:
    omniglot.prepare(data_dir, splits=SMALL[:1], source=source)
  assert '\n' not in str(error.value)
  assert f'{source}/{ZIPS[0]}' in str(error.value)
  refused(data_dir, 'nothing is prepared in it')


def test_prepare_by_hand(tmp_path: Path, unused_port: int) -> None:
  manual = tmp_path / 'downloads' / 'manual'
  source = f'http://127.0.0.1:{unused_port}'
  with pytest.raises(DataError, match=r'cannot be downloaded') as error:
    omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  assert '\n' not in str(error.value)
  assert f'{source}/{ZIPS[0]}' in str(error.value)
  assert f'put {ZIPS[0]} into {manual}' in str(error.value)
  refused(tmp_path, 'it is empty')
  # This does as the message says, but at first with the wrong file.
  manual.mkdir(parents=True)
  (manual / ZIPS[0]).write_bytes(shared(ZIPS[1]).read_bytes())
  with pytest.raises(DataError, match='has wrong checksum'):
    omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  (manual / ZIPS[0]).write_bytes(shared(ZIPS[0]).read_bytes())
  omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  assert len(load_small1(tmp_path).images) == 2720


@pytest.fixture
def unused_port() -> int:
  with http.server.HTTPServer(
    ('127.0.0.1', 0), http.server.BaseHTTPRequestHandler
  ) as server:
    return server.server_port


@pytest.mark.in_ci
def test_prepare_verifies_earlier_downloads(
  tmp_path: Path, serve: Callable[[Path], str]
) -> None:
  source = serve(shared(ZIPS[0]).parent)
  directory = omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  shutil.rmtree(directory)
  (download,) = tmp_path.glob('downloads/omniglot/*.zip')
  content = bytearray(download.read_bytes())
  content[1000] ^= 1
  download.write_bytes(content)
  with pytest.raises(DataError, match='was removed; run this again'):
    omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  assert not directory.exists()
  omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  assert len(load_small1(tmp_path).images) == 2720


def test_missing_archive_upstream(
  tmp_path: Path, serve: Callable[[Path], str]
) -> None:
  source = serve(tmp_path)
  with pytest.raises(DataError, match=r'images_background\.zip: .*404'):
    omniglot.load(tmp_path / 'data', download=True, source=source)
  assert not (tmp_path / 'data').exists()


def test_prepare_into_a_bad_place(tmp_path: Path) -> None:
  (tmp_path / 'dataset_info.json').write_text('{"name": "mnist"}')
  with pytest.raises(DataError, match="the data set 'mnist', and is no place"):
    omniglot.prepare(tmp_path)
  with pytest.raises(DataError, match='not a directory'):
    omniglot.prepare(tmp_path / 'dataset_info.json')
  with pytest.raises(DataError, match='has the splits train, test, small1'):
    omniglot.prepare(tmp_path, splits=('big',))


@pytest.mark.in_ci
def test_killed_preparation_leaves_nothing_prepared(
  tmp_path: Path, serve: Callable[[Path], str]
) -> None:
  source = serve(shared(ZIPS[0]).parent)
  call = (
    f'omniglot.prepare({str(tmp_path)!r}, splits={SMALL}, source={source!r})'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', f'from metajax.tasks import omniglot; {call}']
  )
  while not list(tmp_path.glob('omniglot/*incomplete*/*')):
    assert process.poll() is None
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  refused(tmp_path, 'nothing is prepared in it')
  omniglot.prepare(tmp_path, splits=SMALL[:1], source=source)
  assert len(load_small1(tmp_path).images) == 2720
