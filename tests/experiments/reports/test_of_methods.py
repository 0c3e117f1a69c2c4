"""The pages of comparisons: what they have measured, and links to each run."""

import math
from pathlib import Path

from made_up import NASTY
from reading import Read

from experiments import by_shots, compare
from experiments.reports import of_methods
from experiments.runner.compared import Compared
from metajax.metric import ACCURACY

ROW = Compared(
  'maml', 5, 1, 'transductive', ACCURACY, 0.9123, 0.0101, math.nan, 60.0,
  1000, 0.06, 112005,
)  # fmt: skip


def test_a_comparison_has_its_methods_the_best_first_and_links(tmp_path: Path):
  for name in ('maml', 'protonet'):
    (tmp_path / name).mkdir()
  (tmp_path / 'maml' / 'report.html').write_text('a page')
  rows = {
    'maml': ROW,
    'protonet': ROW._replace(method='protonet', value=0.9456),
    'strange': ROW._replace(method=NASTY, value=0.5, seconds_per_step=None),
  }
  settings = compare.Settings(methods=('maml', 'protonet'), minutes_each=1)
  path = of_methods.compared(
    tmp_path, settings, 'strokes, <b>', rows, {'maml': [(1.0, 0.5)]},
    {'r2d2': 'exit code 1: <i>'},
  )  # fmt: skip
  text = path.read_text()
  read = Read(text)
  assert not read.faults
  assert '<b>' not in text.partition('<h1>')[2].partition('</h1>')[0]
  assert '<script>alert' not in text
  assert '<i>' not in text
  (headline,) = read.named('data')
  assert float(headline['value']) == 0.9456
  assert [each['href'] for each in read.named('a') if '/' in each['href']] == [
    './maml/report.html'
  ]
  texts = [each.get('data-text') for each in read.named('circle')]
  assert 'maml: 91.2 ± 1.0 %' in texts
  assert 'maml, seconds of training 1: 50.0%' in texts
  assert 'protonet, test: 94.6 ± 1.0 %' in texts
  assert 'exit code 1: <i>' in read.text
  assert 'python -m experiments.compare' in read.text
  assert '--methods=maml,protonet' in read.text


def test_a_comparison_by_shots_has_a_curve_a_run(tmp_path: Path):
  results = {'one': [(1, 0.5, 0.1), (5, 0.75, 0.05)], 'two': [(1, 0.4, 0.1)]}
  path = of_methods.by_shots(
    tmp_path, by_shots.Settings(runs=('runs/one',)), 'a title', results, {},
    [['run', '1-shot %', '5-shot %'], ['one', '50.0', '75.0'], ['two', '', '']],
    ACCURACY, {},
  )  # fmt: skip
  read = Read(path.read_text())
  assert not read.faults
  (headline,) = read.named('data')
  assert float(headline['value']) == 0.75
  texts = [each.get('data-text') for each in read.named('circle')]
  assert 'one, support examples per class 5: 75.0% ± 5.0%' in texts
  assert 'python -m experiments.by_shots --runs=runs/one' in read.text
