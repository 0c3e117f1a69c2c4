"""Data that changed between start and resume, or between runs of one table."""

import json
import shutil

import numpy as np
import pytest

from experiments import images, tables
from experiments.runner import data_digest
from experiments.runner.errors import UsageError
from metajax.tasks import LabelledImages, split_by_seed

CLASSES, EACH = 12, 4


def write_images(path, seed=0, prefix='sign'):
  rng = np.random.default_rng(seed)
  np.savez(
    path,
    images=rng.integers(0, 256, (CLASSES * EACH, 8, 8)).astype(np.uint8),
    labels=np.repeat([f'{prefix} {each:02}' for each in range(CLASSES)], EACH),
  )
  return path


def write_lists(folder, order):
  folder.mkdir(exist_ok=True)
  for name, part in zip(('train', 'val', 'test'), order, strict=True):
    (folder / f'{name}.txt').write_text(
      ''.join(f'sign {each:02}\n' for each in part)
    )
  return folder


LISTS = [range(4), range(4, 8), range(8, 12)]


def settings(tmp_path, **changes):
  return images.Settings(
    **{
      'dataset': 'npz', 'data_file': tmp_path / 'mine.npz', 'width': 4,
      'algorithm': 'protonet', 'network': 'mlp', 'depth': 1, 'ways': 2,
      'train_ways': 2, 'queries': 1, 'train_queries': 1, 'steps': 1,
      'tasks_per_step': 1, 'eval_tasks': 2, 'validation_tasks': 2,
      'evaluation': 'support', 'workdir': tmp_path / 'run',
    } | changes
  )  # fmt: skip


def refusal(given, run=images.run):
  with pytest.raises(UsageError) as refused:
    run(given)
  return str(refused.value)


@pytest.fixture(scope='module')
def run_before(tmp_path_factory):
  """A folder with a run on an npz file, divided by class lists."""
  folder = tmp_path_factory.mktemp('before')
  write_images(folder / 'mine.npz')
  write_lists(folder / 'lists', LISTS)
  images.run(settings(folder, split_dir=folder / 'lists'))
  return folder


@pytest.fixture
def before(run_before, tmp_path):
  """A copy of it, and the settings that go on with it."""
  shutil.copytree(run_before, tmp_path, dirs_exist_ok=True)
  return settings(tmp_path, split_dir=tmp_path / 'lists', resume=True, steps=2)


@pytest.mark.in_ci
def test_a_resume_on_the_same_data_goes_on_wherever_they_lie(before, tmp_path):
  (tmp_path / 'mine.npz').rename(tmp_path / 'moved.npz')
  before = before.replace(data_file=tmp_path / 'moved.npz')
  assert images.run(before)['steps'] == 2


def test_a_resume_on_another_file_is_refused(before, tmp_path):
  write_images(tmp_path / 'mine.npz', seed=1)
  line = refusal(before)
  assert line.startswith(f'--data_file: {tmp_path}/mine.npz: its train, val')
  assert '/run has learned from' in line
  assert '\n' not in line


def test_a_resume_with_other_lists_is_refused(before, tmp_path):
  write_lists(tmp_path / 'lists', LISTS[::-1])
  line = refusal(before)
  assert line.startswith(f'--split_dir: {tmp_path}/lists: its train and test')


@pytest.mark.in_ci
def test_a_run_that_knows_no_digest_goes_on(before, tmp_path):
  record = tmp_path / 'run' / 'config.json'
  config = json.loads(record.read_text())
  assert set(config.pop(data_digest.DIGEST)) == {'train', 'validation', 'test'}
  record.write_text(json.dumps(config))
  write_images(tmp_path / 'mine.npz', seed=1)
  assert images.run(before)['steps'] == 2


@pytest.mark.in_ci
def test_what_is_loaded_has_learned_from_these_data_or_others_are_meant(
  before, tmp_path
):
  loading = before.replace(
    load=tmp_path / 'run', test_only=True, workdir=None, resume=False
  )
  assert images.run(loading)['steps'] == 0
  line = refusal(loading.replace(split_dir=None, split_seed=1))
  assert line.startswith(f'--data_file: {tmp_path}/mine.npz: its train')
  assert "/lists' and is None; --split_seed was 0 and is 1)" in line
  assert '--other_data' in line
  write_images(tmp_path / 'mine.npz', seed=1)
  assert refusal(loading).startswith('--data_file: ')
  assert images.run(loading.replace(other_data=True))['steps'] == 0
  assert refusal(before.replace(other_data=True)) == (
    '--other_data: goes with --load'
  )


@pytest.mark.in_ci
def test_a_table_that_changed_is_refused(tmp_path):
  rng = np.random.default_rng(0)

  def write():
    rows = [f'{task},{x:.3f},{2 * x:.3f}' for task in range(6) for x in
            rng.normal(size=4)]  # fmt: skip
    (tmp_path / 'mine.csv').write_text('\n'.join(['task,x,y', *rows]) + '\n')

  write()
  given = tables.Settings(
    data_file=tmp_path / 'mine.csv', algorithm='r2d2', shots=2, queries=2,
    train_queries=2, steps=1, tasks_per_step=1, eval_tasks=2,
    validation_tasks=2, workdir=tmp_path / 'run', width=4, depth=1,
  )  # fmt: skip
  tables.run(given)
  write()
  line = refusal(given.replace(resume=True), tables.run)
  assert line.startswith(f'--data_file: {tmp_path}/mine.csv: its train, val')


def test_every_part_of_a_split_counts():
  data = LabelledImages(
    np.arange(48, dtype=np.uint8).reshape(12, 2, 2),
    np.repeat(np.arange(6, dtype=np.int32), 2),
    tuple('abcdef'),
  )
  splits = split_by_seed(data, 4, 2, seed=0)
  usual = data_digest.digests(splits)
  assert usual == data_digest.digests(splits)
  for part in (
    splits.test._replace(images=splits.test.images + 1),
    splits.test._replace(images=splits.test.images.reshape(4, 4, 1)),
    splits.test._replace(labels=1 - splits.test.labels),
    splits.test._replace(names=('ab', '')),
  ):
    found = data_digest.digests(splits._replace(test=part))
    assert data_digest.differing(usual, found) == ['test']


def test_runs_on_different_data_are_not_compared(run_before, tmp_path):
  same = data_digest.SameData()
  record = json.loads((run_before / 'run' / 'config.json').read_text())
  other = {data_digest.DIGEST: record[data_digest.DIGEST] | {'test': {}}}
  same.check('old', {}, 'runs')
  same.check('a', record, 'runs')
  same.check('b', record, 'runs')
  with pytest.raises(UsageError, match='--runs: the test data of a and of c'):
    same.check('c', other, 'runs')


@pytest.mark.in_ci
def test_checkpoints_that_are_gone_are_not_passed_over_in_silence(
  before, tmp_path
):
  run = tmp_path / 'run'
  shutil.rmtree(run / 'checkpoints')
  expected = f'--resume: the checkpoints of the run in {run} are gone; restore'
  assert refusal(before).startswith(expected)
  (run / 'result.json').unlink()
  lines = [{'step': 1}, {'step': 1, 'validation/accuracy': 0.5}]

  def write_metrics():
    (run / 'metrics.jsonl').write_text(
      ''.join(json.dumps(each | {'time': 0.0}) + '\n' for each in lines)
    )

  lines.append({'step': 2})
  write_metrics()
  assert refusal(before).startswith(expected)
  # It was killed while it wrote the first one.
  (run / 'checkpoints').mkdir()
  assert images.run(before)['steps'] == 2
  shutil.rmtree(run / 'checkpoints')
  (run / 'checkpoints').mkdir()
  (run / 'result.json').unlink()
  lines += [{'step': 2, 'validation/accuracy': 0.5}, {'step': 3}]
  write_metrics()
  assert refusal(before.replace(steps=4)).startswith(expected)


@pytest.mark.in_ci
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
  before, tmp_path, capsys
):
  for path in ('checkpoints', 'result.json', 'metrics.jsonl'):
    path = tmp_path / 'run' / path
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert images.run(before)['steps'] == 2
  assert 'nothing was saved yet; begins again' in capsys.readouterr().out


def test_what_is_loaded_needs_no_state_of_the_optimiser(before, tmp_path):
  outcome = images.run(
    before.replace(
      load=tmp_path / 'run', workdir=None, resume=False, test_only=True,
      outer_schedule='cosine',
    )
  )  # fmt: skip
  assert outcome['steps'] == 0
