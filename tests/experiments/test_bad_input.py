"""Misuse is one line on stderr and exit code 2, and nothing is written."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from processes import TINY, TINY_IMAGES


def snapshot(directory):
  """Every name, time and byte in a directory, but whose lock it was last."""
  return {
    path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
    for path in [directory, *directory.rglob('*')]
    if path.name != '.lock'
  }


@pytest.fixture
def refused(launcher, tmp_path):
  """Runs what has to be refused; returns the line that says why."""

  def run(*arguments, name='images', devices=1):
    before = snapshot(tmp_path)
    ended = launcher.run(name, *arguments, cwd=tmp_path, devices=devices)
    assert ended.code == 2, ended
    assert ended.stdout == ''
    assert ended.stderr.endswith('\n')
    assert ended.stderr.count('\n') == 1, ended.stderr
    assert snapshot(tmp_path) == before
    return ended.stderr.rstrip()

  return run


@pytest.fixture
def npz(tmp_path):
  """Writes an npz file; returns the flags that name it."""

  def write(**arrays):
    path = tmp_path / 'mine.npz'
    np.savez(path, **arrays)
    return ('--dataset=npz', f'--data_file={path}')

  return write


def images_and_labels(classes=10, each=4, size=16):
  rng = np.random.default_rng(0)
  return {
    'images': rng.random((classes * each, size, size)),
    'labels': np.repeat(np.arange(classes), each),
  }


# Flags


def test_flags(refused):
  for flag, expected in (
    ('--algorithm=mamal', r'--algorithm=mamal: .*<.*\|maml\|.*>'),
    ('--dataset=mnist', r'--dataset=mnist: must be one of strokes, omniglot, '),
    ('--algorithm=maml++', r'.*; did you mean maml_plus_plus\?$'),
    ('--dataset=omnigot', r'--dataset=omnigot: .*; did you mean omniglot\?$'),
    ('--network=conv_4', r'--network=conv_4: .*; did you mean conv4\?$'),
    ('--set=eval_inner_batc=3', r'--set: .*did you mean eval_inner_batch\?$'),
    ('--other_data', r'--other_data: goes with --load$'),
    ('--load_share=0.5', r'--load_share: goes with --load$'),
    (
      '--load_share=0',
      r'--load_share=0(.0)?: must be a number above 0, up to 1',
    ),
    (f'--workdir={"x" * 300}', r'--workdir=x+: must be a path of up to '),
    ('--evaluation=x', r'--evaluation=x: .*<transductive\|support\|population'),
    ('--test_checkpoint=x', r'--test_checkpoint=x: .*<last\|best>'),
    ('--step=3', r'--step: there is no such flag, did you mean --steps\?'),
    ('--lr=0.1', r'--lr: .*, did you mean --inner_lr or --outer_lr\?'),
    ('--frobnicate', r'--frobnicate: there is no such flag; --help lists all'),
    ('--ways=1', r'--ways=1: must be a whole number from 2'),
    ('--ways=five', r'--ways=five: must be a whole number from 2'),
    ('--shots=0', r'--shots=0: must be a whole number from 1'),
    ('--queries=-3', r'--queries=-3: must be a whole number from 1'),
    ('--inner_steps=0', r'--inner_steps=0: must be a whole number from 1'),
    ('--tasks_per_step=0', r'--tasks_per_step=0: must be a whole number'),
    ('--chunk_size=0', r'--chunk_size=0: must be auto, or a whole number from'),
    ('--chunk_size=all', r'--chunk_size=all: must be auto, or a whole number'),
    ('--precision=half', r'--precision=half: .*<float32\|bfloat16>'),
    ('--steps=0', r'--steps=0: must be a whole number from 1'),
    ('--steps=2.5', r'--steps=2.5: must be a whole number from 1'),
    ('--steps=', r'--steps=: must be a whole number from 1'),
    ('--steps=4000000000', r'--steps=4000000000: must be .* to 2147483647'),
    ('--eval_tasks=1', r'--eval_tasks=1: must be a whole number from 2'),
    ('--seed=-1', r'--seed=-1: must be a whole number from 0'),
    ('--width=0', r'--width=0: must be a whole number from 1'),
    ('--inner_lr=0', r'--inner_lr=0: must be a finite number > 0'),
    ('--inner_lr=-0.1', r'--inner_lr=-0.1: must be a finite number > 0'),
    ('--inner_lr=nan', r'--inner_lr=nan: must be a finite number > 0'),
    ('--outer_lr=inf', r'--outer_lr=inf: must be a finite number > 0'),
    ('--outer_lr=fast', r'--outer_lr=fast: must be a finite number > 0'),
    ('--resume=maybe', r'--resume=maybe: must be true or false'),
    ('--ways', r'.*--ways'),
    ('strokes', r"'strokes' is not a flag; flags are given as --name=value"),
  ):
    assert re.match(expected, refused(flag)), flag


@pytest.mark.in_ci
def test_flags_that_do_not_go_together(refused, tmp_path):
  for flags, expected in (
    (['--data_dir=x'], '--data_dir: is x, but has no meaning for --dataset=st'),
    (['--rotate'], '--rotate: is True, but has no meaning for --dataset=str'),
    (['--dataset=omniglot'], '--data_dir: omniglot needs the tensorflow-datas'),
    (['--dataset=npz'], '--data_file: npz needs a file with arrays `images`'),
    (['--algorithm=pixels', '--steps=9'], '--steps: pixels needs no training'),
    (
      ['--algorithm=pixels', '--evaluation=population'],
      '--evaluation: pixels has no weights to measure a population with; use',
    ),
    (['--train_ways=7'], '--train_ways: is 7, but maml .* only --ways=5 is'),
    (['--test_only'], '--test_only: tests what --load names'),
    ([f'--load={tmp_path}'], f'--load: {tmp_path} holds no checkpoints'),
  ):
    assert re.match(expected, refused(*flags)), flags


@pytest.mark.in_ci
def test_meshes_that_cannot_be(refused):
  for flags, expected in (
    (['--mesh=task'], "--mesh: is 'task', but must be axes with the number"),
    (['--mesh=task:1,task:1'], "--mesh: is 'task:1,task:1', but must be axes"),
    (
      ['--mesh=task:3'],
      '--mesh: a mesh of task:3 needs 3 devices, and there.* XLA_FLAGS=--xla_fo'
      'rce_host_platform_device_count=3',
    ),
    (['--mesh=model:8'], '--mesh: model:8 has no axis task'),
    (
      ['--tasks_per_step=12'],
      '--tasks_per_step: 12 cannot be divided over the 8 devices of the axis',
    ),
    (
      ['--tasks_per_step=8', '--shard=model'],
      "--shard: the mesh has no axis 'model'; it has task",
    ),
    (
      ['--tasks_per_step=8', '--shard=(=task'],
      "--shard: '\\(' is no regular expression",
    ),
    (
      ['--tasks_per_step=8', '--shard=kernel=task'],
      '--shard: .*kernel.* has the shape .*, of which .* cannot be divided',
    ),
    (
      ['--tasks_per_step=8', '--shard=kernle=task'],
      "--shard: 'kernle' is found in no path of the parameters; they are",
    ),
    (
      ['--tasks_per_step=8', '--shard=task'],
      '--shard: task divides arrays of 65,536 numbers and more, and there is',
    ),
    (['--num_processes=2'], '--num_processes: goes with --distributed=host:p'),
    (['--distributed=here'], '--distributed: a coordinator is host:port with'),
    (
      ['--distributed=localhost:1'],
      '--distributed: a coordinator goes with --num_processes and --process_',
    ),
    (
      ['--distributed=localhost:1', '--num_processes=2', '--process_id=2'],
      '--distributed: --process_id must be from 0 to 1, got 2',
    ),
    (['--dry_run=v9:1x1'], '--dry_run: .*v9:1x1.*it is not v4, v5e, v5p, v6e'),
    (['--images_on=host'], '--images_on: strokes are drawn on the device alo'),
  ):
    assert re.match(expected, refused(*flags, devices=8)), flags


@pytest.mark.in_ci
def test_a_single_device_cannot_be_divided(refused):
  assert refused('--shard=task') == '--shard: needs more than one device'


def test_flag_of_the_sinusoid(refused):
  line = refused('--algorithm=protonet', name='sinusoid')
  assert re.match(r'--algorithm=protonet: value should be .*<.*\|maml\|', line)
  line = refused('--ways=5', name='sinusoid')
  assert line.startswith('--ways: there is no such flag')


# Data of one's own


def test_more_ways_than_classes(refused, npz):
  line = refused(*npz(**images_and_labels()), '--ways=7')
  assert line == (
    '--ways=7: the data has 6 classes, so at most 6 ways are allowed (in the'
    ' train split); 6/2/2 classes are for train/validation/test: lower it, or'
    ' divide them otherwise, by --split_shares or --split_dir'
  )
  few = npz(**images_and_labels(classes=3))
  line = refused(*few, '--ways=2', '--train_ways=2')
  assert line == (
    '--ways=2: the data has 1 class, and a task tells two or more apart (in the'
    ' train split); 1/1/1 classes are for train/validation/test, where 2'
    ' are the least: give more, or divide them otherwise, by --split_shares'
  )
  line = refused(*npz(**images_and_labels()), '--algorithm=protonet')
  assert re.match('--train_ways=60: .* at most 6 ways are allowed', line)


def test_more_examples_than_a_class_has(refused, npz):
  arrays = images_and_labels()
  line = refused(*npz(**arrays), '--ways=2', '--shots=2', '--queries=3')
  assert re.match(r'--shots=2 and --queries=3: class .* has 4 examples', line)
  # Class 9 is one short.
  flags = npz(images=arrays['images'][:-1], labels=arrays['labels'][:-1])
  line = refused(*flags, '--ways=2', '--shots=2', '--queries=2')
  assert re.match(
    r"--shots=2 and --queries=2: class '9' has 3 examples, but 4 are needed",
    line,
  )
  line = refused(*flags, '--ways=2', '--train_shots=9')
  assert re.match(r'--train_shots=9 and --queries=1: class .* has \d ex', line)


def test_npz_file_that_is_no_such_data(refused, npz, tmp_path):
  good = images_and_labels()
  not_a_number = good['images'].copy()
  not_a_number[3, 2, 1] = np.nan
  for arrays, expected in (
    ({'images': good['images']}, 'there is no array labels'),
    (
      {'x': good['images'], 'y': good['labels']},
      'no array images and no labels',
    ),
    (good | {'images': not_a_number}, '1 values that are NaN or infinite'),
    (good | {'labels': np.zeros(40, int)}, 'two classes or more are needed'),
    (good | {'labels': good['labels'] % 2}, 'three or more are needed'),
    (good | {'labels': good['labels'][1:]}, '40 images but 39 labels'),
    (good | {'images': good['images'][:, 0]}, r'got shape \[40, 16\]'),
    (good | {'images': good['images'] * 999}, r'must lie in \[0, 1\] or in'),
  ):
    line = refused(*npz(**arrays), '--ways=2')
    assert re.match(rf'--data_file: {tmp_path}/mine.npz: .*{expected}', line)


def test_file_that_is_no_npz_file(refused, npz, tmp_path):
  whole = npz(**images_and_labels())
  path = tmp_path / 'mine.npz'
  content = path.read_bytes()
  for damaged in (
    content[: len(content) // 2],
    content[:2000] + b'flip' + content[2004:],
    b'no archive',
    b'',
  ):
    path.write_bytes(damaged)
    assert re.match(rf'--data_file: {path}: .', refused(*whole))
  path.unlink()
  assert re.match(
    f'--data_file: {path}: there is no such file', refused(*whole)
  )


def test_images_that_the_network_cannot_take(refused, npz, tmp_path):
  flags = npz(**images_and_labels(size=8))
  line = refused(*flags, '--algorithm=protonet', '--ways=2', '--train_ways=2',
                 '--queries=1', '--train_queries=1')  # fmt: skip
  assert re.match(
    f'--data_file: {tmp_path}/mine.npz: .*use larger images', line
  )
  arrays = images_and_labels()
  flags = npz(images=arrays['images'][:, :12], labels=arrays['labels'])
  line = refused(*flags, '--ways=2', '--rotate')
  assert re.match('--rotate: images of 12 x 16 pixels cannot be turned', line)


def test_split_files(refused, npz, tmp_path):
  flags = (*npz(**images_and_labels()), '--ways=2', f'--split_dir={tmp_path}')
  line = refused(*flags)
  assert re.match(f'--split_dir: {tmp_path}/train.txt: there is no such', line)
  for name, text in (('train', '0\n1'), ('val', '2\n3'), ('test', '4\n99')):
    (tmp_path / f'{name}.txt').write_text(text)
  line = refused(*flags)
  assert re.match(f'--split_dir: {tmp_path}/test.txt, line 2: unknown', line)
  (tmp_path / 'test.txt').write_text('4\n1')
  assert "class '1' is also in train.txt" in refused(*flags)


# Omniglot


def test_data_directory_without_omniglot(refused, tmp_path):
  flags = ('--dataset=omniglot', f'--data_dir={tmp_path / "tfds"}')
  assert re.match(
    f'--data_dir: {tmp_path}/tfds: no Omniglot here, it does not exist',
    refused(*flags),
  )
  (tmp_path / 'tfds').mkdir()
  assert 'no Omniglot here, it is empty' in refused(*flags)
  (tmp_path / 'tfds' / 'mnist' / '3.0.1').mkdir(parents=True)
  assert 'no Omniglot here, it holds mnist' in refused(*flags)
  # The directory of another data set, under the name of this one.
  directory = tmp_path / 'tfds' / 'omniglot' / '3.0.0'
  directory.mkdir(parents=True)
  (directory / 'dataset_info.json').write_text('{"name": "mnist"}')
  assert "this is the data set 'mnist', not Omniglot" in refused(*flags)


def test_damaged_record_file(refused, shared_data, tmp_path):
  original = shared_data / 'omniglot' / 'tfds'
  if not original.is_dir():
    pytest.skip(f'{original} is not here')
  flags = ('--dataset=omniglot', f'--data_dir={tmp_path}')
  shutil.copytree(original, tmp_path, dirs_exist_ok=True)
  for path in [tmp_path, *tmp_path.rglob('*')]:
    path.chmod(0o755)
  (record,) = tmp_path.rglob('omniglot-train.array_record*')
  content = record.read_bytes()
  middle = len(content) // 2
  for damaged in (
    content[:middle],
    content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    b'',
  ):
    record.write_bytes(damaged)
    line = refused(*flags, f'--cache_dir={tmp_path}')
    assert re.match(rf'--data_dir: {record}: truncated or damaged \(', line)
    assert 'prepare it again' in line


# Where results go


SINUSOID = (*TINY, '--steps=4', '--checkpoint_every=2')


@pytest.mark.in_ci
def test_directory_that_holds_a_run(launcher, refused, cache, tmp_path):
  workdir = f'--workdir={tmp_path / "run"}'
  launcher.succeed('sinusoid', *SINUSOID, cache, workdir)
  run = (*SINUSOID, cache, workdir)
  line = refused(*run, name='sinusoid')
  assert line == (
    f'--workdir: {tmp_path}/run already holds this run; add --resume to go on'
    ' with it, or name another'
  )
  for resume in ((), ('--resume',)):
    line = refused(*run, *resume, '--shots=3', '--inner_lr=0.5',
                   name='sinusoid')  # fmt: skip
    assert line == (
      f'--workdir: {tmp_path}/run holds a run with other settings: --inner_lr'
      ' was 0.01 and is 0.5; --shots was 10 and is 3; name another directory,'
      ' or set these as they were'
    )
  line = refused(*run, '--resume', '--precision=bfloat16', '--chunk_size=1',
                 name='sinusoid')  # fmt: skip
  assert (
    "--chunk_size was 'auto' and is 1; --precision was 'float32' and is"
    " 'bfloat16'; name another" in line
  )
  line = refused(*run, '--resume', '--steps=3', name='sinusoid')
  assert line == '--steps: the run is at step 4 already, beyond 3'
  annealed = (*run[:-1], '--outer_schedule=cosine', f'{workdir}_annealed')
  launcher.succeed('sinusoid', *annealed)
  line = refused(*annealed, '--resume', '--steps=8', name='sinusoid')
  assert 'with other settings: --steps was 4 and is 8;' in line
  # What it learned does not fit another network.
  line = refused(*TINY_IMAGES, cache, f'--load={tmp_path / "run"}',
                 f'--workdir={tmp_path / "other"}')  # fmt: skip
  assert re.match(
    r'--load: the state of step 4 in .* does not fit: expected but not saved'
    r'.*; .* had .*--inner_lr',
    line,
  )
  (tmp_path / 'run' / 'config.json').write_text('{')
  line = refused(*run, '--resume', name='sinusoid')
  assert re.match(r'--workdir: .*/config.json is not readable', line)


@pytest.mark.in_ci
def test_directory_that_another_run_is_using(launcher, tmp_path):
  flags = (*TINY, '--steps=100000', f'--workdir={tmp_path / "run"}')
  first = launcher.start('sinusoid', *flags)
  first.until((tmp_path / 'run' / 'metrics.jsonl').exists)
  second = launcher.run('sinusoid', *flags, '--resume')
  first.kill()
  first.wait()
  assert second.code == 2
  assert second.stdout == ''
  assert re.fullmatch(
    r'--workdir: .*/run is in use by another run \(process \d+ on .*\); wait'
    r' for it, stop it, or name another\n',
    second.stderr,
  )


@pytest.mark.in_ci
def test_nothing_to_resume(refused, tmp_path):
  line = refused('--resume', f'--workdir={tmp_path / "run"}')
  assert line == (
    f'--resume: {tmp_path}/run holds no run; check --workdir, or leave --resume'
    ' out to begin one'
  )


@pytest.mark.in_ci
def test_directory_that_holds_something_else(refused, tmp_path):
  (tmp_path / 'thesis.tex').write_text('precious')
  line = refused(f'--workdir={tmp_path}')
  assert line == (
    f'--workdir: {tmp_path} is not empty and holds no run; name another'
  )


@pytest.mark.in_ci
def test_directory_that_cannot_be_written(refused, tmp_path):
  (tmp_path / 'file').write_text('')
  for flag in ('workdir', 'cache_dir'):
    line = refused(f'--{flag}={tmp_path}/file/run')
    assert line == (
      f'--{flag}: {tmp_path}/file/run cannot be written (Not a directory); name'
      ' a directory that can'
    )
  line = refused(f'--workdir={tmp_path / "file"}')
  assert re.match(r'--workdir: .*/file cannot be written \(File exists\)', line)


@pytest.fixture
def small_disk(tmp_path):
  """A file system of one megabyte."""
  directory = tmp_path / 'disk'
  directory.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory]
  if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('this needs root, and the right to mount')
  yield directory
  subprocess.run(['umount', '--lazy', directory], check=True)


@pytest.mark.in_ci
def test_read_only_disk(refused, small_disk):
  remount = ['mount', '-o', 'remount,ro', small_disk]
  if subprocess.run(remount, capture_output=True).returncode:
    pytest.skip('this needs the right to remount')
  line = refused(f'--workdir={small_disk / "run"}')
  assert line == (
    f'--workdir: {small_disk}/run cannot be written (Read-only file system);'
    ' name a directory that can'
  )


@pytest.mark.in_ci
def test_full_disk(launcher, cache, small_disk):
  """What was saved stays good, and the run goes on once there is room."""
  ballast = small_disk / 'ballast'
  workdir = small_disk / 'run'
  flags = (*TINY, cache, f'--workdir={workdir}', '--checkpoint_every=1')
  launcher.succeed('sinusoid', *flags, '--steps=2')
  with pytest.raises(OSError, match='No space'):
    ballast.write_bytes(bytes(2**20))
  ended = launcher.run('sinusoid', *flags, '--steps=9', '--resume')
  assert ended.code == 2
  assert ended.stderr.count('\n') == 1, ended.stderr
  assert re.match(r'--workdir: .*No space left on device', ended.stderr)
  assert '--resume goes on' in ended.stderr
  ballast.unlink()
  ended = launcher.run('sinusoid', *flags, '--steps=9', '--resume')
  assert ended.code == 0, ended
  assert ended.stdout.startswith('resumed from step 2\n')
