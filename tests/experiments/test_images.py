"""Whole runs of the image experiment, as small as they can be."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from processes import REPOSITORY, TINY_IMAGES, result

from experiments.recipes import images
from experiments.recipes.kinds import published
from metajax.runs.writers import read_json_lines

NETWORK = ('--network=mlp', '--depth=1')
PICTURES = {'learning_curve.png', 'accuracy_by_inner_step.png', 'test_task.png'}


def run_module(*arguments):
  """What the user types; on a CPU, where the compiler of TPUs is installed."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.images', *arguments],
    cwd=REPOSITORY,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )


def described_flags(text):
  """The names of the flags in the output of --help."""
  return set(re.findall(r'^  --(?:\[no\])?(\w+):', text, re.MULTILINE))


def test_help():
  ended = run_module('--help')
  assert ended.returncode == 0
  assert ended.stderr == ''
  assert ended.stdout.startswith('Few-shot image classification.\n')
  assert 'python -m experiments.images' in ended.stdout
  flags = described_flags(ended.stdout)
  assert {'algorithm', 'dataset', 'ways', 'steps', 'resume', 'width'} <= flags
  assert not {'verbosity', 'logtostderr', 'pdb', 'flagfile'} & flags
  assert '[default: strokes]' in ended.stdout
  assert str(REPOSITORY) not in ended.stdout
  assert max(map(len, ended.stdout.splitlines())) <= 80


@pytest.mark.in_ci
def test_full_help(launcher):
  ended = launcher.run('images', '--helpfull')
  assert ended.code == 0
  assert ended.stderr == ''
  assert {'algorithm', 'log_dir'} <= described_flags(ended.stdout)
  assert max(map(len, ended.stdout.splitlines())) <= 80


@pytest.fixture(
  scope='module',
  params=['npz', pytest.param('strokes', marks=pytest.mark.in_ci)],
)
def finished(request, cache, npz, tmp_path_factory):
  """A run, on procedural handwriting by default: output and workdir."""
  workdir = tmp_path_factory.mktemp(request.param) / 'run'
  data = npz if request.param == 'npz' else ()
  ended = run_module(
    *TINY_IMAGES, *NETWORK, *data, cache, f'--workdir={workdir}',
    '--steps=6', '--checkpoint_every=3', '--test_checkpoint=best',
  )  # fmt: skip
  assert ended.returncode == 0, ended
  # No word from any library.
  assert ended.stderr == ''
  return ended.stdout, workdir


def test_result(finished):
  _, workdir = finished
  outcome = json.loads((workdir / 'result.json').read_text())
  assert outcome['algorithm'] == 'maml'
  assert outcome['dataset'] in ('npz', 'strokes')
  protocol = outcome['protocol']
  assert protocol['ways'] == 2
  assert protocol['evaluation'] == 'transductive'
  assert protocol['precision'] == 'float32'
  assert protocol['test_tasks'] == 8
  assert {'split', 'rotation', 'shots', 'queries_per_class'} <= protocol.keys()
  test = outcome['test']
  # MAML is tested after three steps.
  assert len(test['accuracy_by_step']) == 3 + 1
  assert test['accuracy_by_step'][0] == test['accuracy_before']
  assert test['accuracy_by_step'][-1] == test['accuracy']
  assert all(0 <= value <= 1 for value in test['accuracy_by_step'])
  assert 0 <= test['ci95'] <= 0.5
  assert 0 < outcome['baseline']['pixel_accuracy'] <= 1
  assert outcome['tasks_per_second'] > 0
  assert outcome['seconds_to_first_step'] > 0
  assert set(outcome['devices']) == {'cpu'}
  assert outcome['versions'].keys() >= {'python', 'jax', 'metajax', 'backend'}


def test_result_holds_all_flags_and_what_they_stood_for(finished, launcher):
  _, workdir = finished
  config = json.loads((workdir / 'result.json').read_text())['config']
  flags = described_flags(launcher.run('images', '--help').stdout)
  # Of data that no program has drawn there is a digest.
  assert config.keys() - {'data_digest'} == flags - {'help', 'helpfull'}
  assert config['workdir'] == str(workdir)
  assert config['inner_lr'] == 0.4  # of the recipe
  assert config['chunk_size'] == 'auto'
  assert config['precision'] == 'float32'
  assert config['width'] == 4


def test_files(finished):
  _, workdir = finished
  names = {path.name for path in workdir.iterdir()}
  assert names == PICTURES | {
    '.lock', 'checkpoints', 'config.json', 'metrics.jsonl', 'report.html',
    'report.json', 'result.json', 'tensorboard', 'learner', 'learner.json'
  }  # fmt: skip
  for name in PICTURES:
    with Image.open(workdir / name) as image:
      assert image.format == 'PNG'
      pixels = np.asarray(image.convert('L'))
    assert pixels.std() > 5  # something is drawn
  (events,) = (workdir / 'tensorboard').iterdir()
  assert events.name.startswith('events.out.tfevents.')
  assert b'validation/accuracy' in events.read_bytes()


def test_its_page_is_about_the_tasks_that_were_tested(finished):
  _, workdir = finished
  outcome = json.loads((workdir / 'result.json').read_text())
  data = json.loads((workdir / 'report.json').read_text())
  test = outcome['test']
  assert np.mean(data['values']) == pytest.approx(test['accuracy'], abs=1e-5)
  for task in data['tasks']:
    assert task['value'] == pytest.approx(data['values'][task['number']])
    asked = [each for row in task['classes'] for each in row['queries']]
    right = [
      each['after'] == row['label']
      for row in task['classes']
      for each in row['queries']
    ]
    assert len(asked) == 2  # of two ways
    assert np.mean(right) == pytest.approx(task['value'])
  values = [task['value'] for task in data['tasks'][1:]]
  assert values == [min(data['values']), max(data['values'])]
  named = 'confusion' in data
  assert named == (outcome['dataset'] == 'npz')
  assert data['calibration']['tasks'] == 8
  page = (workdir / 'report.html').read_text()
  assert f'<data value="{test["accuracy"]}">' in page
  assert 'python -m experiments.images' in page
  assert page.count('data:image/png') == 3 * 4  # support and queries


def test_best_checkpoint_is_tested(finished):
  _, workdir = finished
  records = read_json_lines(workdir / 'metrics.jsonl')
  validation = {
    record['step']: record['validation/accuracy']
    for record in records
    if 'validation/accuracy' in record
  }
  training = [record['step'] for record in records if 'accuracy' in record]
  assert training == [1, 2, 3, 4, 5, 6]
  assert list(validation) == [3, 6]
  tested = json.loads((workdir / 'result.json').read_text())['steps']
  assert validation[tested] == max(validation.values())


def test_table(finished):
  printed, workdir = finished
  outcome = json.loads((workdir / 'result.json').read_text())
  rows = {
    cells[1].strip(): cells[2].strip()
    for line in printed.splitlines()
    if len(cells := re.split('[│┃]', line)) == 5
  }
  by_step = outcome['test']['accuracy_by_step']
  expected = dict(zip(['before', '1', '2', '3'], by_step, strict=True))
  expected['pixel baseline'] = outcome['baseline']['pixel_accuracy']
  assert rows.pop('inner steps') == 'accuracy %'
  assert rows == {
    name: f'{100 * value:.1f}' for name, value in expected.items()
  }
  protocol = ' '.join(printed.rpartition('┘')[2].split())
  for part in (
    outcome['dataset'],
    'ways 2',
    'transductive',
    'test tasks 8',
    'rotation',
  ):
    assert part in protocol
  assert re.search(r'^step 3/6  loss ', printed, re.MULTILINE)
  assert '\x1b' not in printed  # no colours, no bar: not a terminal


def long(*values):
  return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
  ('algorithm', 'flags', 'evaluation'),
  [
    long('fomaml', ['--evaluation=support'], 'support'),
    long('anil', ['--evaluation=population'], 'population'),
    long('reptile', ['--train_shots=3', '--eval_inner_steps=2'],
         'transductive'),
    pytest.param(
      'protonet', ['--queries=2', '--train_ways=3', '--train_queries=2'],
      'population', marks=pytest.mark.in_ci,
    ),
    pytest.param('pixels', [], 'transductive', marks=pytest.mark.in_ci),
    long('scratch', ['--eval_inner_steps=2'], 'transductive'),
  ],
)  # fmt: skip
def test_algorithm_on_images_of_ones_own(
  launcher, cache, npz, tmp_path, algorithm, flags, evaluation
):
  recipe = published(images, algorithm, 2, 1)
  trained = ['--steps=2'] if recipe.steps else []
  outcome = launcher.succeed(
    'images', *TINY_IMAGES, *npz, cache, *flags, *trained,
    f'--algorithm={algorithm}', f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert outcome['algorithm'] == algorithm
  assert outcome['dataset'] == 'npz'
  assert outcome['steps'] == len(trained) * 2
  protocol = outcome['protocol']
  assert protocol['evaluation'] == evaluation
  assert protocol['split'] == '8/2/2 train/validation/test classes by seed 0'
  steps = outcome['config']['eval_inner_steps']
  accuracies = outcome['test']['accuracy_by_step']
  assert len(accuracies) == steps + 1
  assert all(0 <= value <= 1 for value in accuracies)
  # The squares lie apart, which pixels see at once.
  assert outcome['baseline']['pixel_accuracy'] == 1
  if algorithm == 'pixels':
    assert accuracies[-1] == 1
  names = {path.name for path in (tmp_path / 'run').iterdir()}
  assert PICTURES - names == (set() if trained else {'learning_curve.png'})


@pytest.mark.long
def test_images_on_the_host_give_the_same_run(launcher, cache, npz, tmp_path):
  records = []
  for place in ('device', 'host'):
    arguments = (
      *TINY_IMAGES, *npz, cache, '--steps=2', f'--images_on={place}',
      f'--workdir={tmp_path / place}',
    )  # fmt: skip
    launcher.succeed('images', *arguments)
    records.append(
      [
        {name: value for name, value in record.items() if name != 'time'}
        for record in read_json_lines(tmp_path / place / 'metrics.jsonl')
      ]
    )
  for device, host in zip(*records, strict=True):
    assert device == pytest.approx(host, rel=1e-5)


@pytest.mark.in_ci
@pytest.mark.parametrize('finished', ['strokes'], indirect=True)
def test_model_of_another_run(launcher, cache, squares, finished, tmp_path):
  """What was trained on strokes is tested on something else."""
  _, source = finished
  data = np.load(squares)
  padded = np.pad(data['images'], ((0, 0), (6, 6), (6, 6)))  # as large
  np.savez(tmp_path / 'padded.npz', images=padded, labels=data['labels'])
  flags = (
    *TINY_IMAGES, *NETWORK, '--dataset=npz', cache, '--test_only',
    f'--data_file={tmp_path / "padded.npz"}', f'--load={source}',
    f'--workdir={tmp_path / "run"}', '--eval_inner_steps=1',
  )  # fmt: skip
  ended = launcher.run('images', *flags)
  assert ended.code == 0, ended
  assert ended.stdout.startswith('loaded step 6\n')
  outcome = result(flags)
  assert outcome['steps'] == 0
  assert outcome['config']['load'] == str(source)
  assert len(outcome['test']['accuracy_by_step']) == 2
  assert not (tmp_path / 'run' / 'checkpoints').exists()


@pytest.mark.in_ci
@pytest.mark.parametrize('finished', ['strokes'], indirect=True)
def test_omniglot(launcher, cache, finished, shared_data, tmp_path):
  data_dir = shared_data / 'omniglot' / 'tfds'
  if not data_dir.is_dir():
    pytest.skip(f'{data_dir} is not here')
  _, source = finished
  outcome = launcher.succeed(
    'images', *TINY_IMAGES, *NETWORK, cache, '--dataset=omniglot',
    f'--data_dir={data_dir}', f'--load={source}', '--test_only',
    f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert outcome['protocol']['split'] == (
    '4400/100/423 train/validation/test classes by seed 0'
  )
  assert outcome['protocol']['rotation'] == (
    'as new training classes, none at test'
  )
  assert outcome['config']['rotate'] is True
  assert math.isfinite(outcome['test']['accuracy'])
