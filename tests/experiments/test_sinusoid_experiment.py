"""Whole runs of the sinusoid experiment, as small as they can be."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from processes import REPOSITORY, TINY

from experiments.recipes import regression
from experiments.recipes.kinds import published
from metajax.runs.writers import read_json_lines

pytestmark = pytest.mark.in_ci  # the run of images is in the quick tests


@pytest.fixture(scope='module')
def maml(cache, tmp_path_factory):
  """What the user types: its output and its workdir."""
  workdir = tmp_path_factory.mktemp('maml') / 'run'
  ended = subprocess.run(
    [
      sys.executable, '-m', 'experiments.sinusoid', *TINY, cache,
      f'--workdir={workdir}', '--steps=4', '--checkpoint_every=4',
    ],
    cwd=REPOSITORY,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )  # fmt: skip
  assert ended.returncode == 0, ended
  assert ended.stderr == ''
  return ended.stdout, workdir


def test_result(maml):
  _, workdir = maml
  outcome = json.loads((workdir / 'result.json').read_text())
  assert outcome['dataset'] == 'sinusoid'
  assert outcome['steps'] == 4
  test = outcome['test']
  assert len(test['mse_by_step']) == 10 + 1
  assert test['mse_by_step'][0] == test['mse_before']
  assert test['mse_by_step'][-1] == test['mse']
  assert all(value > 0 for value in test['mse_by_step'])
  assert 'accuracy' not in test
  # Of all tasks it is 4.25, and there are only eight.
  assert 1 < outcome['baseline']['zero_mse'] < 10
  assert {'protocol', 'config', 'versions', 'tasks_per_second'} <= set(outcome)


def test_files(maml):
  _, workdir = maml
  for name in ('learning_curve', 'mse_by_inner_step', 'test_task'):
    with Image.open(workdir / f'{name}.png') as image:
      assert image.format == 'PNG'
      assert np.asarray(image.convert('L')).std() > 5
  page = (workdir / 'report.html').read_text()
  assert page.count('data-text="before adaptation, x ') == 3 * 100
  assert 'The worst of all' in page
  records = read_json_lines(workdir / 'metrics.jsonl')
  assert [record['step'] for record in records] == [1, 2, 3, 4, 4]
  assert 'validation/mse' in records[-1]


def test_table(maml):
  printed, workdir = maml
  test = json.loads((workdir / 'result.json').read_text())['test']
  for name, value in (('before', test['mse_before']), ('10', test['mse'])):
    assert re.search(rf'│ +{name} │ +{value:.3f} │ +± \d', printed)
  assert re.search(r'│ zero baseline │ +\d\.\d{3} │', printed)
  in_one_line = ' '.join(printed.split())
  assert 'shots 10; queries 100; test tasks 8' in in_one_line
  assert f'next: open {workdir}/report.html' in in_one_line
  assert f'experiments.predict --run={workdir} --support' in in_one_line


# Every row is traced with its published setting by the conformance test.
@pytest.mark.parametrize('algorithm', ['reptile', 'scratch'])
def test_algorithm(launcher, cache, tmp_path, algorithm):
  recipe = published(regression, algorithm)
  trained = ['--steps=2'] if recipe.steps else []
  outcome = launcher.succeed(
    'sinusoid', *TINY, *trained, cache, f'--algorithm={algorithm}',
    '--eval_inner_steps=2', f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert outcome['algorithm'] == algorithm
  assert len(outcome['test']['mse_by_step']) == 3
  assert all(map(math.isfinite, outcome['test']['mse_by_step']))


def test_in_bfloat16(maml, launcher, cache, tmp_path):
  """The same run, but for a few digits."""
  exact = json.loads((maml[1] / 'result.json').read_text())
  rounded = launcher.succeed(
    'sinusoid', *TINY, cache, '--precision=bfloat16', '--steps=4',
    '--checkpoint_every=4', f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert rounded['protocol']['precision'] == 'bfloat16'
  assert exact['protocol']['precision'] == 'float32'
  difference = abs(rounded['test']['mse'] / exact['test']['mse'] - 1)
  assert 1e-6 < difference < 0.05
