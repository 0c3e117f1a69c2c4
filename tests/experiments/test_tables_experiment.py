"""Whole runs on a table of the user's, as small as they can be."""

import csv

import jax
import numpy as np
import pytest
from PIL import Image
from processes import TINY

from experiments import tables
from experiments.data.tables import read_table
from experiments.runner.errors import UsageError
from experiments.runner.report import show

TASKS, ROWS = 10, 12


# The other target is the same, turned round.
ONE = {'target_columns': 'dose', 'feature_columns': 'a,b'}


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
    (
      {
        'data_file': None, 'task_column': 'task', 'target_columns': 'y',
        'order_column': 'a',
      },
      '--order_column: is of a table',
    ),
    (
      {'data_file': None, 'target_columns': 'y', 'task_column': 'foo'},
      '--task_column: is of a table',
    ),
    (
      {'data_file': None, 'task_column': 'task', 'target_columns': 'z'},
      '--target_columns: is of a table',
    ),
    (
      {
        'data_file': None, 'task_column': 'task', 'target_columns': 'y',
        'split_shares': '0.4,0.3,0.3',
      },
      '--split_shares: is of a table',
    ),
    ({'synthetic_features': 3}, '--synthetic_features: is of random functions'),
    ({'data_file': '.'}, '--data_file: .: is a directory; name a file that'),
    ({'data_file': 'nowhere.csv'}, '--data_file: nowhere.csv: '),
    ({'task_column': 'patients'}, "--task_column: .*patients.*patient"),
    ({'target_columns': 'doze'}, "--target_columns: .*doze.*dose"),
    ({'target_columns': ''}, '--target_columns: target_columns is empty'),
    ({'target_columns': 'dose,patient'}, '--target_columns: .*asked for 2 tim'),
    ({'feature_columns': 'a,c'}, "--feature_columns: .*no column 'c'"),
    ({'feature_columns': 'a,dose'}, '--feature_columns: .*asked for 2 times'),
    ({'order_column': 'time'}, "--order_column: .*no column 'time'"),
    ({'order_column': 'a', 'feature_columns': 'a'}, '--order_column: .*asked'),
    ({'feature_columns': 'a,patient'}, '--feature_columns: .*asked for 2 tim'),
    ({'target_type': 'classes'}, '--target_columns: .*classes are those of on'),
    (
      {'target_type': 'classes', **ONE},
      "--target_columns: column 'dose' has .* values",
    ),
    ({'prior_column': 'c', **ONE}, "--prior_column: 'c' is"),
    ({'prior_column': 'a'}, '--prior_column: predicts one target'),
    (
      {'target_type': 'classes', 'algorithm': 'reptile'},
      '--algorithm: reptile has no recipe for tables of classes; there are',
    ),
    ({'algorithm': 'protonet'}, '--algorithm: protonet has no recipe for tab'),
    ({'shots': 8}, '--shots=8 and --(train_)?queries=5: task .* has 12 rows'),
  ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_one_line(table, changes, message):
  with pytest.raises(UsageError, match=message) as refused:
    tables.run(tables.Settings(**given(table, **changes)))
  assert '\n' not in str(refused.value)


def test_a_test_task_that_is_a_copy_of_another_is_refused(table, tmp_path):
  """It would be tested on what it was trained on."""
  with open(table, newline='') as file:
    header, *rows = csv.reader(file)
  path = tmp_path / 'twice.csv'
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerows([header, *rows])
    # The same rows in another order, under another name.
    writer.writerows([f'{task}_copy', *cells] for task, *cells in rows[::-1])
  with pytest.raises(UsageError, match=r"task 'p\d\w*' of \w+ has the rows of"):
    tables.run(tables.Settings(**given(path)))


def test_tasks_of_a_table_are_divided_by_shares(table):
  settings = tables.Settings(**given(table, split_shares='0.4,0.3,0.3'))
  data, _ = read_table(settings, tables.make_recipe(settings))
  assert data.protocol['split'].startswith('4/3/3 train/validation/test tasks')


@pytest.fixture(scope='module')
def clients(tmp_path_factory):
  """Whether a client pays; in the second file the answer stands twice."""
  rng = np.random.default_rng(0)
  folder = tmp_path_factory.mktemp('clients')
  for name, leak in (('clients', False), ('leak', True)):
    with open(folder / f'{name}.csv', 'w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow(['segment', 'day', 'a', 'b', 'paid', 'default'])
      for segment in range(12):
        for day in range(20):
          a, b = rng.normal(size=2)
          bad = int(a + 0.5 * rng.normal() > 0)
          paid = 1 - bad if leak else b + rng.normal()
          writer.writerow([segment, 20 - day, a, b, paid, bad])
  return folder


def of_classes(folder, **changes):
  return {
    'data_file': str(folder / 'clients.csv'), 'task_column': 'segment',
    'target_columns': 'default', 'target_type': 'classes', 'shots': 6,
    'queries': 8, 'train_queries': 8, 'algorithm': 'lr_d2', 'width': 8,
    'steps': 2, 'tasks_per_step': 2, 'eval_tasks': 12, 'validation_tasks': 4,
  } | changes  # fmt: skip


@pytest.mark.in_ci
@pytest.mark.parametrize('name', ['lr_d2', 'maml', 'protonet', 'scratch'])
def test_a_method_of_classes_runs_beside_its_rivals(name, clients):
  given = of_classes(clients, algorithm=name)
  if name == 'scratch':  # nothing is trained
    given.pop('steps')
  outcome = tables.run(tables.Settings(**given))
  beside = outcome['rivals']
  assert beside['draws'] == 12
  assert beside['tasks'] <= 3  # those of the test are so few
  rows = {row['name']: row for row in beside['rows']}
  assert next(iter(rows)) == name
  # The log loss of the headline is that of the table, drawn for drawn.
  assert rows['global linear']['auc']['mean'] > 0.8
  assert 'difference' not in rows[name]['auc']
  assert 0 <= rows[name]['calibration'] <= 1


@pytest.mark.in_ci
def test_what_was_last_is_never_known(clients):
  """The first rows by the order are the support set, of test tasks."""
  given = of_classes(
    clients, target_type='numbers', algorithm='alpaca', order_column='day',
    prior_column='a', target_columns='b',
  )  # fmt: skip
  settings = tables.Settings(**given)
  data, known = read_table(settings, tables.make_recipe(settings))
  task = data.test(jax.random.key(0))
  assert 'day' not in data.inputs['names']
  assert known.column == data.inputs['names'].index('a')
  whole = task.query.targets[:, 0] + known.of_column(
    np.array(task.query.inputs)
  )
  assert np.isfinite(whole).all()
  outcome = tables.run(settings)
  assert outcome['protocol']['support'].startswith('the first rows by day')
  assert outcome['protocol']['learned'] == 'what a leaves'


@pytest.mark.in_ci
@pytest.mark.parametrize('target_type', ['numbers', 'classes'])
def test_without_a_file_tasks_are_random_functions(target_type):
  outcome = tables.run(
    tables.Settings(
      target_type=target_type, algorithm='in_context', steps=1, width=8,
      shots=6, queries=8, train_queries=8, tasks_per_step=1, eval_tasks=8,
      validation_tasks=4, synthetic_features=3,
    )
  )  # fmt: skip
  assert outcome['dataset'] == 'synthetic'
  assert outcome['rivals']['tasks'] == 8


@pytest.mark.in_ci
def test_training_on_random_functions_is_for_the_columns_of_a_table(clients):
  given = of_classes(clients, algorithm='in_context', train_on='synthetic')
  outcome = tables.run(tables.Settings(**given))
  assert outcome['protocol']['trained_on'] == 'random functions'


def test_a_copy_of_the_target_is_no_feature(clients):
  given = of_classes(clients, data_file=str(clients / 'leak.csv'))
  with pytest.raises(UsageError, match="--feature_columns: 'paid' says what"):
    tables.run(tables.Settings(**given))


@pytest.mark.parametrize('change', ['{}', '{} * 1000 - 0.1', '3 - {} / 7'])
def test_a_target_that_is_scaled_and_shifted_is_no_feature(change, clients):
  """To what 32 bits keep of it; with noise of a thousandth it is one."""
  header, *lines = (clients / 'clients.csv').read_text().splitlines()
  place = header.split(',').index('b')
  path = clients / 'line.csv'
  settings = tables.Settings(
    **of_classes(
      clients, data_file=str(path), target_type='numbers', target_columns='b',
      algorithm='maml',
    )
  )  # fmt: skip

  def read(noise):
    draws = np.random.default_rng(0).normal(size=len(lines)) * noise
    rows = [
      f'{line},{eval(change.format(float(line.split(",")[place]) + draw))}'
      for line, draw in zip(lines, draws, strict=True)
    ]
    path.write_text('\n'.join([f'{header},again', *rows]))
    return read_table(settings, tables.make_recipe(settings))

  read(1e-3)
  with pytest.raises(UsageError, match="'again' says what the target 'b'"):
    read(0.0)


def test_first_rows_of_one_class_are_refused(clients):
  """In each split: by those of training rivals are judged."""
  lines = (clients / 'clients.csv').read_text().splitlines()
  header, rows = lines[0], [line.split(',') for line in lines[1:]]
  task, target = (header.split(',').index(x) for x in ('segment', 'default'))
  path, blamed = clients / 'sorted.csv', set()
  for name in sorted({row[task] for row in rows}):
    own = sorted((r for r in rows if r[task] == name), key=lambda r: r[target])
    others = [row for row in rows if row[task] != name]
    ordered = [','.join([*r, str(n)]) for n, r in enumerate(own + others)]
    path.write_text('\n'.join([f'{header},number', *ordered]))
    settings = tables.Settings(
      **of_classes(clients, data_file=str(path), order_column='number', shots=5)
    )
    with pytest.raises(UsageError, match=r'first 5 .* of one class') as told:
      read_table(settings, tables.make_recipe(settings))
    blamed.add(str(told.value).rsplit('(', 1)[-1])
  assert blamed == {
    f'in the {x} split)' for x in ('train', 'validation', 'test')
  }


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('target_type', 'rivals'),
  [('numbers', True), ('classes', True), ('numbers', False)],
)
def test_the_headline_is_over_tasks_that_differ(
  target_type, rivals, clients, tmp_path
):
  """As the table beside rivals: one method has one figure."""
  given = of_classes(
    clients, target_type=target_type, rivals=rivals, eval_tasks=7, seeds=1,
    algorithm='r2d2', workdir=str(tmp_path / 'run'),
    target_columns='default' if target_type == 'classes' else 'paid',
  )  # fmt: skip
  outcome = tables.run(tables.Settings(**given))
  name, test = outcome['metric']['name'], outcome['test']
  assert test['tasks'] == outcome['protocol']['test_tasks_that_differ'] < 7
  assert test['ci95'] > 0
  if not rivals:
    return
  own = outcome['rivals']['rows'][0][name]
  unit = 1.0
  if target_type == 'numbers':
    _, known = read_table(
      tables.Settings(**given), tables.make_recipe(tables.Settings(**given))
    )
    unit = known.unit**2
    (title,) = outcome['tables']
    assert 'in the unit of the target' in title
  assert own['mean'] == pytest.approx(unit * test[name], rel=1e-4)
  assert own['ci95'] == pytest.approx(unit * test['ci95'], rel=1e-4)
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert f'7 draws of {test["tasks"]} test tasks' in page
  assert 'each counted by itself, so that the mean may be another' in page


@pytest.mark.in_ci
@pytest.mark.parametrize('seeds', [1, 2])
def test_of_one_test_task_there_is_no_interval(
  seeds, clients, tmp_path, capsys
):
  given = of_classes(
    clients, split_shares='0.84,0.08,0.08', target_type='numbers', steps=1,
    target_columns='paid', algorithm='r2d2', rivals=False, eval_tasks=4,
    workdir=str(tmp_path / 'run'), seeds=seeds,
  )  # fmt: skip
  settings = tables.Settings(**given)
  outcome = tables.run(settings)
  test = outcome['test']
  assert (test['tasks'], test['ci95']) == (1, None)
  assert test['ci95_by_step'] == [None, None]
  problem = tables.make_problem(settings, tables.make_recipe(settings))
  show(problem, outcome)
  said = ' '.join(capsys.readouterr().out.split())
  assert 'all 4 draws of the test are of 1 task, so there is no 95%' in said
  assert 'no interval of 1 task' in said
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'of 1 task there is no interval' in page
  assert '± nan' not in page
