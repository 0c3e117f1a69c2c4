"""The page of a search: each setting on its scale, trials by their numbers."""

import json

import pytest
from reading import Read

from experiments import sweep
from experiments.reports import of_sweep
from metajax.metric import Metric

TRIALS = [
  ({'inner_lr': 0.04, 'width': 30}, 1.0),
  ({'inner_lr': 0.01, 'width': 10}, 2.0),
  ({'inner_lr': 0.16, 'width': 20}, 3.0),
]


@pytest.fixture
def read(tmp_path):
  known = [
    {'number': number, 'state': state, 'value': value, 'settings': settings}
    for number, state, (settings, value) in (
      (0, 'complete', TRIALS[2]),
      (4, 'pruned', TRIALS[0]),
      (7, 'complete', TRIALS[0]),
      (11, 'complete', TRIALS[1]),
    )
  ]
  (tmp_path / 'sweep.json').write_text(json.dumps({'trials': known}))
  settings = sweep.settings_of('sinusoid')(search='inner_lr=log:0.01:1')
  path = of_sweep.write(
    tmp_path, settings, title='a title', trials=TRIALS, importance={},
    logarithmic={'inner_lr': True, 'width': False},
    metric=Metric('mse', higher_is_better=False), best='python', folds=1,
  )  # fmt: skip
  return Read(path.read_text())


def test_what_was_searched_by_its_logarithm_is_drawn_so(read):
  def places(name):
    dots = [each for each in read.named('circle') if 'data-text' in each]
    return [
      float(each['cx']) for each in dots if each['data-text'].startswith(name)
    ]

  first, second, third = places('inner_lr')
  assert second - first == pytest.approx(third - second, abs=0.1)
  first, second, third = places('width')
  assert second - first == pytest.approx(third - second, abs=0.1)


def test_trials_have_the_numbers_of_the_study(read):
  rows = read.text.partition('by their numbers')[2].split()
  table = ' '.join(rows)
  places = [table.index(f'{n} {value}') for n, value in (
    (7, '1.000'), (11, '2.000'), (0, '3.000'))]  # fmt: skip
  assert places == sorted(places)
