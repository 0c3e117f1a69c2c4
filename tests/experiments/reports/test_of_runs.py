"""Several runs on one page: the same tasks, what differs, and links."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import DATA, METRICS, NASTY, OUTCOME, changed, workdir
from reading import Read

from experiments import report
from experiments.reports import of_run, of_runs
from experiments.runner.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def better(tmp_path):
  outcome = changed(
    OUTCOME, test__accuracy=0.95, test__accuracy_by_step=[0.5, 0.9, 0.95]
  )
  values = {'values': [0.9, 1.0, 1.0, 0.95]}
  return workdir(tmp_path / 'better', outcome, DATA | values)


@pytest.fixture
def worse(tmp_path):
  values = {'values': [0.5, 0.9, 1.0, 0.6]}
  return workdir(tmp_path / 'worse & <b>', data=DATA | values)


def test_runs_stand_side_by_side_the_best_first(better, worse, tmp_path):
  of_run.write(better)
  path = of_runs.write([worse, better], tmp_path / 'both')
  assert path == tmp_path / 'both' / 'report.html'
  text = path.read_text()
  read = Read(text)
  assert not read.faults
  assert '<b>' not in text
  (headline,) = read.named('data')
  assert float(headline['value']) == 0.95
  rows = read.text.partition('the best first')[2]
  assert rows.index('95.0 ±') < rows.index('87.7 ±')
  links = [each['href'] for each in read.named('a')]
  assert './../better/report.html' in links
  assert not any('worse' in each for each in links)  # which has no page


def test_the_difference_is_that_on_each_task(better, worse, tmp_path):
  text = Read(of_runs.write([worse, better], tmp_path / 'a').read_text()).text
  differences = np.array([0.4, 0.1, 0.0, 0.35])
  half = 1.96 * differences.std(ddof=1) / 2
  assert f'+{100 * differences.mean():.1f} ± {100 * half:.1f}' in text
  # Of several seeds the values of one are known.
  several = workdir(
    tmp_path / 'several',
    data=DATA | {'seed': 5} | {'values': [0.5, 0.9, 1.0, 0.6]},
  )
  text = Read(of_runs.write([several, better], tmp_path / 's').read_text()).text
  assert 'better minus several (seed 5 alone)' in text
  # Of other tasks there is none.
  outcome = changed(OUTCOME, protocol__test_seed=7)
  other = workdir(tmp_path / 'other', outcome)
  text = Read(of_runs.write([better, other], tmp_path / 'b').read_text()).text
  assert (
    'There is none of other minus better, as their test tasks are not the same'
    ' (test seed: 1 against 7).'
  ) in text
  assert 'more than chance' not in text
  assert 'not tested alike, but with another test seed.' in text


def test_settings_that_differ_are_shown_alone(better, tmp_path):
  outcome = changed(OUTCOME, config__inner_lr=0.25)
  other = workdir(tmp_path / 'other', outcome, METRICS and None)
  text = Read(
    of_runs.write([better, other], tmp_path / 'both').read_text()
  ).text
  rows = text.partition('Of all settings')[2]
  assert '--inner_lr' in rows
  assert '0.25' in rows
  assert '--seed' not in rows
  assert NASTY not in rows


def test_the_command_takes_runs_without_a_flag(
  better, worse, tmp_path, monkeypatch, capsys
):
  folder = tmp_path / 'both'
  settings = report.Settings(runs=(str(better), str(worse)), workdir=folder)
  assert report.run(settings) == 0
  assert capsys.readouterr().out == f'{folder}/report.html\n'
  assert report.run(report.Settings(runs=(str(better),))) == 0
  assert capsys.readouterr().out == f'{better}/report.html\n'


@pytest.mark.in_ci
def test_the_command_line_takes_names_and_flags_in_any_order(
  better, worse, tmp_path
):
  def ended(*given):
    return subprocess.run(
      [sys.executable, '-m', 'experiments.report', *given],
      cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip

  one = ended(str(better), str(worse), f'--workdir={tmp_path}/both')
  assert (one.returncode, one.stderr) == (0, '')
  assert one.stdout == f'{tmp_path}/both/report.html\n'
  other = ended(f'--workdir={tmp_path}/again', f'--runs={better},{worse}')
  assert other.returncode == 0
  pages = [tmp_path / name / 'report.html' for name in ('both', 'again')]
  assert pages[0].read_text() == pages[1].read_text()
  bad = ended(str(better), str(tmp_path))
  assert bad.returncode == 2
  assert (
    bad.stderr == f'--runs: {tmp_path} is no workdir of a run; name others\n'
  )


def test_what_cannot_be_compared_is_refused(better, worse, tmp_path):
  error = {**OUTCOME['metric'], 'name': 'mse', 'unit': ''}
  test = {
    'mse': 1.0, 'mse_before': 2.0, 'ci95': 0.1, 'mse_by_step': [2.0, 1.0],
    'ci95_by_step': [0.1, 0.1],
  }  # fmt: skip
  outcome = changed(OUTCOME, metric=error, test=test)
  other = workdir(tmp_path / 'other', outcome)
  for runs, folder, reason in (
    ((better, other), 'new', 'judged by accuracy, and .* by mse'),
    ((better, better), 'new', 'names one twice'),
    ((better, worse), 'better', 'holds a run, with a page of its own'),
    ((better, tmp_path), 'new', 'no workdir of a run'),
    ((), 'new', 'names no run'),
  ):
    settings = report.Settings(
      runs=tuple(map(str, runs)), workdir=tmp_path / folder
    )
    with pytest.raises(UsageError, match=reason):
      report.run(settings)
  assert not (tmp_path / 'new').exists()
  assert not (better / 'report.html').exists()


@pytest.mark.parametrize(
  ('name', 'command'),
  [
    ('compare.json', 'compare'), ('by_shots.json', 'by_shots'),
    ('study.db', 'sweep'),
  ],
)  # fmt: skip
def test_what_holds_several_runs_names_its_command(tmp_path, name, command):
  for each in ('config.json', name):
    (tmp_path / each).write_text('{}')
  with pytest.raises(UsageError, match=f'several runs; experiments.{command} '):
    report.run(report.Settings(runs=(str(tmp_path),)))


def test_the_best_of_other_numbers_of_tasks_is_said_to_be_so(better, tmp_path):
  outcome = changed(OUTCOME, protocol__test_tasks=2)
  other = workdir(tmp_path / 'other', outcome, DATA | {'values': [0.5, 1.0]})
  page = of_runs.write([better, other], tmp_path / 'both').read_text()
  text = Read(page).text
  headline = text.partition('the best of 2 runs')[2]
  assert 'not tested alike (test tasks: 4 against 2), so that' in headline
  assert 'none of other minus better, as their test tasks are not the' in text
  same = workdir(tmp_path / 'same', data=None)
  page = of_runs.write([better, same], tmp_path / 'same_tasks').read_text()
  text = Read(page).text
  assert 'not tested alike' not in text
  assert 'same minus better, as a workdir lacks report.json' in text
