"""Runs together: what is tested, and what is refused in one line."""

import json

import pytest

from experiments import combine, sinusoid
from experiments.recipes import images
from experiments.recipes.kinds import published
from experiments.runner.errors import UsageError


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
    combine._check_evaluation(tmp_path, recipe)


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
