"""The page of a run says what its files say, and nothing from outside runs."""

import json
import re

import pytest
from made_up import DATA, NASTY, OUTCOME, changed, workdir
from reading import Read

from experiments import report
from experiments.reports import of_run, of_runs
from experiments.runner.errors import UsageError


def page_of(folder):
  return of_run.write(folder).read_text()


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return page_of(workdir(tmp_path_factory.mktemp('run')))


def test_it_is_whole_html_and_small(text):
  read = Read(text)
  assert not read.faults
  assert len(text) < 200_000
  assert [attrs['lang'] for attrs in read.named('html')] == ['en']
  for image in read.named('img'):
    assert image['alt']
  for svg in read.named('svg'):
    assert svg.get('aria-label') or svg.get('aria-hidden')


def test_it_asks_for_nothing_from_anywhere(text):
  read = Read(text)
  sources = [
    value
    for _, attrs in read.tags
    for name, value in attrs.items()
    if name in ('src', 'href', 'data', 'action', 'srcset')
  ]
  assert sources
  assert all(each.startswith(('#', 'data:image/')) for each in sources)
  assert not re.search(r'https?:|@import|url\(', text)
  assert "default-src 'none'" in text


def test_what_comes_from_outside_is_text(text):
  read = Read(text)
  assert len(read.named('script')) == 1
  assert '<script>alert' not in text
  assert NASTY in read.text  # as a reader sees it
  assert NASTY in [cell.get('title', '')[: len(NASTY)] for _, cell in read.tags]


def test_tables_of_a_problem_are_on_the_page(tmp_path):
  tables = {'made of cheese': [['moon', 'holes'], ['Io', '<17>']]}
  read = Read(page_of(workdir(tmp_path, {**OUTCOME, 'tables': tables})))
  for text in ('Made of cheese', 'holes', 'Io', '<17>'):
    assert text in read.text


def test_its_numbers_are_those_of_the_result(text):
  read, test = Read(text), OUTCOME['test']
  (value,) = read.named('data')
  assert float(value['value']) == test['accuracy']
  for number in ('87.7', '± 1.2', '50.0 %', '43.2 ± 1.0 %', '1,234,567'):
    assert number in read.text
  dots = [dot.get('data-text') for dot in read.named('circle')]
  assert 'mean, inner steps 2: 87.7% ± 1.2%' in dots
  assert 'validation, outer steps 30: 65.0% ± 5.0%' in dots
  assert 'experiments.images --steps=30' in read.text
  assert "--workdir='it is' --norotate" in read.text
  assert 'without a temperature: expected calibration error 22.5 %' in read.text
  assert 'by itself' not in read.text  # which nobody has measured


def test_what_newer_results_have_is_shown(tmp_path):
  outcome = changed(
    OUTCOME,
    seeds=[3, 4],
    ci95_over_seeds=0.0234,
    calibration={
      'temperature': 1.75,
      'expected_calibration_error': 0.031,
      'expected_calibration_error_before': 0.225,
    },
  )
  read = Read(page_of(workdir(tmp_path / 'a', outcome)))
  for part in ('± 2.3 %', '3, 4', '1.75', '3.1 %', '22.5 %'):
    assert part in read.text
  metrics = {'ece': {'mean': 0.321, 'ci95': 0.01}}
  outcome = changed(OUTCOME, test__metrics=metrics)
  read = Read(page_of(workdir(tmp_path / 'c', outcome)))
  assert 'by itself it is 32.1 %' in read.text
  seeds = [{'seed': 3, 'accuracy': 0.875, 'ci95': 0.01}]
  read = Read(page_of(workdir(tmp_path / 'b', changed(OUTCOME, seeds=seeds))))
  assert '87.5 ± 1.0 %' in read.text


def test_of_several_seeds_it_says_what_is_of_one(tmp_path):
  outcome = changed(OUTCOME, config__seeds=4, tasks_per_second=32.0)
  read = Read(page_of(workdir(tmp_path / 'a', outcome, DATA | {'seed': 5})))
  assert 'Of seed 5 alone' in read.text
  # 4 tasks of each of 4 seeds, of which there are 32 a second.
  _, _, after = read.text.partition('an outer step of all 4 seeds')
  assert after.split()[:2] == ['500', 'ms']


def test_an_older_run_has_a_page_that_says_what_is_missing(tmp_path):
  folder = workdir(tmp_path, data=None, metrics=None)
  text = page_of(folder)
  assert 'What is missing' in text
  assert 'report.json' in text
  assert 'metrics.jsonl' in text
  assert '87.7' in text
  assert sorted(path.name for path in folder.iterdir()) == [
    'config.json', 'report.html', 'result.json',
  ]  # fmt: skip


def test_a_result_that_is_not_finite_is_said(tmp_path):
  outcome = changed(
    OUTCOME,
    test__accuracy=None,
    test__ci95=None,
    test__accuracy_by_step=[0.5, None, None],
    test__ci95_by_step=[0.1, None, None],
  )
  assert 'not finite' in Read(page_of(workdir(tmp_path, outcome))).text


DAMAGED = [
  ('report.json', json.dumps(changed(DATA, tasks=[{'kind': 'classes'}]))),
  ('report.json', json.dumps(changed(DATA, values='many'))),
  ('report.json', json.dumps(changed(DATA, confusion={'wrong': 3}))),
  ('report.json', '{'),
  ('report.json', '[]'),
  ('result.json', '{}'),
  ('result.json', json.dumps(changed(OUTCOME, test__accuracy_by_step=3))),
  ('metrics.jsonl', 'nothing\n{"step": 1}\n'),
  ('metrics.jsonl', '{"step": 1, "accuracy": "y"}\n{"step": 2}\n'),
  ('config.json', '{"a": NaN}'),
]


@pytest.mark.parametrize(('name', 'content'), DAMAGED)
def test_what_is_damaged_is_refused_in_one_line(tmp_path, name, content):
  folder = workdir(tmp_path)
  (folder / name).write_text(content)
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  with pytest.raises(UsageError, match=r'damaged|readable') as refused:
    report.run(report.Settings(runs=(str(folder),)))
  assert '\n' not in str(refused.value)
  assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_picture_is_a_picture(tmp_path):
  data = json.dumps(DATA).replace('data:image/png', 'https://example.org/')
  folder = workdir(tmp_path, data=json.loads(data))
  with pytest.raises(UsageError, match='damaged'):
    of_run.write(folder)


def test_what_is_no_run_that_has_ended_is_refused(tmp_path):
  folder = workdir(tmp_path / 'run')
  (folder / 'result.json').unlink()
  (tmp_path / 'compared').mkdir()
  for name in ('config.json', 'compare.json'):
    (tmp_path / 'compared' / name).write_text('{}')
  for path, reason in (
    (folder, 'not come to its end'),
    (tmp_path, 'no workdir of a run'),
    (tmp_path / 'nowhere', 'no workdir of a run'),
    (tmp_path / 'compared', 'several runs'),
  ):
    with pytest.raises(UsageError, match=reason):
      report.run(report.Settings(runs=(str(path),)))
    assert not (path / 'report.html').exists()


def test_before_and_after_one_step_is_no_curve(tmp_path):
  outcome = changed(
    OUTCOME, test__accuracy_by_step=[0.2, 0.87654321],
    test__ci95_by_step=[0.0, 0.012345678], test__accuracy_before=0.2,
  )  # fmt: skip
  folder = workdir(tmp_path / 'one', outcome, metrics=None)
  assert 'By inner step' not in page_of(folder)
  assert 'before adaptation 20.0 %' in Read(page_of(folder)).text
  other = workdir(tmp_path / 'other', outcome, metrics=None)
  both = of_runs.write([folder, other], tmp_path / 'both').read_text()
  assert 'By inner step' not in both


def test_few_predictions_of_a_bin_are_said(tmp_path):
  bins = [
    {'low': 0.0, 'high': 0.5, 'confidence': 0.4, 'accuracy': 1.0, 'queries': 1},
    {'low': 0.5, 'high': 1, 'confidence': 0.9, 'accuracy': 0.9, 'queries': 999},
  ]
  data = changed(DATA, calibration__bins=bins)
  assert 'less than 1 % of' in page_of(workdir(tmp_path / 'few', data=data))
  data = changed(DATA, calibration__bins=bins[1:])
  assert 'less than 1 % of' not in page_of(workdir(tmp_path / 'no', data=data))
