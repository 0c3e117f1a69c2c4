"""Whole runs on a table of the user's, as small as they can be."""

import csv

import numpy as np
import pytest
from PIL import Image
from processes import TINY

from experiments import tables
from experiments.data.regression import read_table
from experiments.runner.errors import UsageError

TASKS, ROWS = 10, 12


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """Every task is a line of its own through the same features; two targets."""
  rng = np.random.default_rng(0)
  path = tmp_path_factory.mktemp('table') / 'lines.csv'
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['patient', 'a', 'b', 'dose', 'response'])
    for task in range(TASKS):
      slope = rng.normal(size=2)
      for _ in range(ROWS):
        x = rng.normal(size=2)
        y = slope @ x
        writer.writerow([f'p{task}', *x, 3 * y + 100, -y])
  return path


def given(table, **changes):
  return {
    'data_file': str(table), 'task_column': 'patient',
    'target_columns': 'dose,response', 'shots': 4, 'queries': 5,
    'train_queries': 5,
  } | changes  # fmt: skip


@pytest.mark.in_ci
def test_a_run_on_a_table_with_two_targets(launcher, cache, table, tmp_path):
  flags = [f'--{name}={value}' for name, value in given(table).items()]
  workdir = tmp_path / 'run'
  ended = launcher.run(
    'tables', *TINY, *flags, cache, '--steps=2', '--checkpoint_every=2',
    f'--workdir={workdir}',
  )  # fmt: skip
  assert (ended.code, ended.stderr) == (0, ''), ended
  assert 'mean baseline' in ended.stdout
  assert 'by seed 0' in ended.stdout
  for name in ('learning_curve', 'mse_by_inner_step', 'test_task'):
    with Image.open(workdir / f'{name}.png') as image:
      assert np.asarray(image.convert('L')).std() > 5
  page = (workdir / 'report.html').read_text()
  assert 'predicted against true values of dose' in page
  assert 'predicted against true values of response' in page


@pytest.mark.in_ci
def test_the_error_is_in_deviations_of_the_training_tasks(table):
  outcome = tables.run(
    tables.Settings(
      **given(table), algorithm='r2d2', steps=1, tasks_per_step=1,
      eval_tasks=8, validation_tasks=2,
    )
  )  # fmt: skip
  assert outcome['protocol']['split'].startswith('6/2/2 train/validation/test')
  assert outcome['protocol']['targets'] == ['dose', 'response']
  assert outcome['protocol']['features'] == 2
  # Targets of means far from 0 and of other units are of one size.
  assert 0.05 < outcome['baseline']['mean_mse'] < 5
  assert outcome['metric']['higher_is_better'] is False


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data_file': None}, '--data_file: name a CSV or Parquet file with a col'),
    ({'data_file': 'nowhere.csv'}, '--data_file: nowhere.csv: '),
    ({'task_column': 'patients'}, "--task_column: .*patients.*patient"),
    ({'target_columns': 'doze'}, "--target_columns: .*doze.*dose"),
    ({'target_columns': ''}, '--target_columns: target_columns is empty'),
    ({'target_columns': 'dose,patient'}, '--target_columns: .*asked for 2 tim'),
    ({'feature_columns': 'a,c'}, "--feature_columns: .*no column 'c'"),
    ({'feature_columns': 'a,dose'}, '--feature_columns: .*asked for 2 times'),
    ({'shots': 8}, '--shots=8 and --(train_)?queries=5: task .* has 12 rows'),
  ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_one_line(table, changes, message):
  with pytest.raises(UsageError, match=message) as refused:
    tables.run(tables.Settings(**given(table, **changes)))
  assert '\n' not in str(refused.value)


def test_tasks_of_a_table_are_divided_by_shares(table):
  settings = tables.Settings(**given(table, split_shares='0.4,0.3,0.3'))
  data = read_table(settings, tables.make_recipe(settings))
  assert data.protocol['split'].startswith('4/3/3 train/validation/test tasks')
