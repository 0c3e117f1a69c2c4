"""Runs together: what is tested, and what is refused in one line."""

import json

import numpy as np
import pytest

from experiments import combine, sinusoid, tables
from experiments.recipes import images
from experiments.recipes.kinds import published
from experiments.runner import combined
from experiments.runner.combined import check_evaluation
from experiments.runner.errors import UsageError
from metajax.metric import MEAN_SQUARED_ERROR


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs')
  for name, changes in {
    'maml': {'algorithm': 'maml'},
    'ridge': {'algorithm': 'r2d2'},
    'few': {'algorithm': 'maml', 'shots': 5},
  }.items():
    given = {
      'shots': 10, 'queries': 8, 'steps': 1, 'width': 8, 'tasks_per_step': 1,
      'eval_inner_steps': 1, 'eval_tasks': 4, 'validation_tasks': 4,
      'checkpoint_every': 1, 'log_every': 1, 'workdir': str(folder / name),
    } | changes  # fmt: skip
    sinusoid.run(sinusoid.Settings(**given))
  return folder


@pytest.mark.in_ci
def test_runs_are_tested_alone_and_together(runs, tmp_path):
  names = f'{runs / "maml"},{runs / "ridge"}'
  combine.run(
    combine.Settings(
      runs=names, experiment='sinusoid', eval_tasks=6, validation_tasks=4,
      workdir=str(tmp_path),
    )
  )  # fmt: skip
  found = json.loads((tmp_path / 'combine.json').read_text())
  rows = {row['name']: row for row in found['rows']}
  assert set(rows) == {
    'maml', 'ridge', 'alike', 'weights of validation', 'stacked by support',
    'chosen by support',
  }  # fmt: skip
  assert sum(found['weights_of_validation']) == pytest.approx(1)
  assert rows[rows['maml']['than']]['difference'] == 0
  with pytest.raises(UsageError, match='--runs: maml and few have other tasks'):
    combine.run(
      combine.Settings(
        runs=f'{runs / "maml"},{runs / "few"}', experiment='sinusoid',
        workdir=str(tmp_path),
      )
    )  # fmt: skip


def test_a_run_by_other_statistics_is_refused(tmp_path):
  recipe = published(images, 'reptile')._replace(evaluation='support')
  with pytest.raises(
    UsageError, match=r'^--runs: .* --evaluation=support, and'
  ):
    check_evaluation(tmp_path, recipe)


@pytest.mark.in_ci
def test_a_place_that_cannot_be_written_is_told_before_anything_is_tested(
  runs, tmp_path, monkeypatch
):
  (tmp_path / 'file').touch()
  monkeypatch.setattr(combine, '_values', None)
  with pytest.raises(UsageError, match='cannot be written'):
    combine.run(
      combine.Settings(
        runs=f'{runs / "maml"},{runs / "ridge"}', experiment='sinusoid',
        workdir=str(tmp_path / 'file' / 'x'),
      )
    )  # fmt: skip


@pytest.mark.parametrize('name', sorted(combine.REFUSED))
def test_what_makes_no_sense_is_one_line_with_its_reason(name):
  with pytest.raises(UsageError, match=f'--experiment: {name}: ') as refused:
    combine.run(combine.Settings(experiment=name, runs='a,b'))
  assert '\n' not in str(refused.value)


def test_what_is_no_run_is_one_line(tmp_path):
  for runs, message in (('a', 'two workdirs'), ('a,b', 'a is no run that')):
    with pytest.raises(UsageError, match=message):
      combine.run(combine.Settings(runs=runs))


def table_run(folder, name, **changes):
  """A run on a table of ten tasks, two of which are for the test."""
  path = folder / 'table.csv'
  if not path.exists():
    rng = np.random.default_rng(0)
    lines = ['task,a,b,y,late']
    for task in range(10):
      for row in range(16):
        a, b = rng.normal(size=2)
        lines.append(f'{task},{a},{b},{a + task * b},{row % 2}')
    path.write_text('\n'.join(lines))
  given = {
    'data_file': str(path), 'feature_columns': 'a,b', 'shots': 4, 'queries': 5,
    'train_queries': 5, 'steps': 1, 'width': 8, 'tasks_per_step': 1,
    'eval_inner_steps': 1, 'eval_tasks': 8, 'validation_tasks': 4,
    'rivals': False, 'workdir': str(folder / name),
  } | changes  # fmt: skip
  tables.run(tables.Settings(**given))
  return folder / name


@pytest.mark.in_ci
def test_runs_on_a_table_are_judged_over_tasks_that_differ(tmp_path, capsys):
  one = table_run(tmp_path, 'maml')
  two = table_run(tmp_path, 'ridge', algorithm='r2d2')
  together = tmp_path / 'together'
  combine.run(
    combine.Settings(
      runs=f'{one},{two}', eval_tasks=6, validation_tasks=4,
      workdir=str(together),
    )
  )  # fmt: skip
  found = json.loads((together / 'combine.json').read_text())
  assert found['protocol']['test_tasks'] == 6  # and not the 8 of the runs
  assert found['protocol']['validation_tasks'] == 4
  assert found['protocol']['test_tasks_that_differ'] == 2
  said = 'over the 2 test tasks that differ, which are few (6 draws;'
  assert said in (together / 'combine.md').read_text()
  assert said in ' '.join(capsys.readouterr().out.split())
  rows = {row['name']: row for row in found['rows']}
  assert rows['maml']['ci95'] > 0
  classes = table_run(
    tmp_path, 'classes', target_type='classes', target_columns='late'
  )
  with pytest.raises(
    UsageError, match='other tasks: --target_type is numbers and classes'
  ):
    combine.run(combine.Settings(runs=f'{one},{classes}'))
  other = table_run(tmp_path, 'other', split_seed=1)
  with pytest.raises(
    UsageError, match='tested on other data: --split_seed is 0 and 1'
  ):
    combine.run(combine.Settings(runs=f'{one},{other}'))


@pytest.mark.parametrize('remembered', [True, False])
def test_a_run_of_another_experiment_is_told_before_any_is_made_again(
  remembered, tmp_path, monkeypatch
):
  for name, of in (('a', 'tables'), ('b', 'control')):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'result.json').write_text('{}')
    record = {'data_file': None} if of == 'tables' else {'environment': 'x'}
    (tmp_path / name / 'config.json').write_text(json.dumps(record))
    if remembered:
      (tmp_path / name / 'report.json').write_text(
        json.dumps({'experiment': f'experiments.{of}'})
      )
  monkeypatch.setattr(combined, 'load_teacher', None)
  monkeypatch.setattr(combined, 'settings_of', None)
  of = 'control' if remembered else 'another binary'
  with pytest.raises(
    UsageError, match=f'b is a run of {of}, and runs of tables are wanted'
  ) as refused:
    combine.run(combine.Settings(runs=f'{tmp_path / "a"},{tmp_path / "b"}'))
  assert '\n' not in str(refused.value)


def test_of_one_task_there_is_no_interval():
  values = {'a': np.array([1.0, 3.0]), 'b': np.array([2.0, 6.0])}
  rows = combine._rows(values, ['a', 'b'], MEAN_SQUARED_ERROR, np.array([0, 0]))
  assert [(row['mean'], row['ci95']) for row in rows] == [(2, None), (4, None)]
  assert rows[1]['difference_ci95'] is None
