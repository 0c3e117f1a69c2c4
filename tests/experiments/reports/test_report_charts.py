"""Charts have all values at their places, and say them."""

import math

import pytest
from reading import Read

from experiments.reports import shown_tasks
from experiments.reports.charts import Point, Series, intervals, lines
from experiments.reports.histograms import bars, reliability
from experiments.reports.scales import fitting, plain_number, shortened
from metajax.metric import ACCURACY, Metric


@pytest.mark.parametrize(
  ('values', 'ticks'),
  [
    ([0, 10], (0, 2, 4, 6, 8, 10)),
    ([0.001, 0.0042], (0.001, 0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004)),
    ([-3, 3], (-3, -2, -1, 0, 1, 2, 3)),
    ([7], (6.4, 6.6, 6.8, 7, 7.2, 7.4, 7.6)),
  ],
)
def test_ticks_are_round_and_few(values, ticks):
  assert fitting(values, 0, 100).ticks == pytest.approx(ticks)


def test_a_wide_scale_is_logarithmic_where_it_may_be():
  scale = fitting([0.01, 10], 0, 100, may_be_log=True)
  assert scale.is_log
  middle = math.sqrt(scale.low * scale.high)
  assert scale(middle) == pytest.approx(50, abs=0.01)
  assert set(scale.ticks) >= {0.01, 0.1, 1, 10}
  assert not fitting([0.01, 10], 0, 100).is_log
  assert not fitting([-1, 10], 0, 100, may_be_log=True).is_log


@pytest.mark.parametrize('values', [[0.011, 0.018], [0.01, 0.2], [5, 5]])
def test_a_scale_that_is_logarithmic_has_ticks(values):
  scale = fitting(values, 0, 100, is_log=True)
  assert scale.is_log
  assert len(scale.ticks) > 1
  assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
  assert not fitting([0, *values], 0, 100, is_log=True).is_log


def test_numbers_of_ticks_are_short():
  shown = [plain_number(each) for each in (1000, 0.30000000000000004, 2.5)]
  assert shown == ['1,000', '0.3', '2.5']


def test_a_line_has_a_dot_with_a_text_for_every_finite_point():
  points = [Point(0, 1.0), Point(1, math.nan), Point(2, 3.0, 2.5, 3.5)]
  chart = lines(
    'a <title>', [Series('<b>', points)], 'x', 'y', levels={'old': 2.0}
  )
  read = Read(chart)
  assert not read.faults
  dots = [dot for dot in read.named('circle') if 'data-text' in dot]
  assert [dot['data-text'] for dot in dots] == [
    '<b>, x 0: 1', '<b>, x 2: 3 ± 0.5',
  ]  # fmt: skip
  assert float(dots[0]['cy']) > float(dots[1]['cy'])  # downwards is less
  assert '<b>' not in chart
  assert 'nan' not in chart
  assert 'old, 2' in read.text


def test_intervals_bars_and_reliability_are_whole():
  for chart in (
    intervals('t', [('one', Point(3, 0, 2, 4, '3 ± 1'))], 'x', level=('l', 1)),
    intervals('t', [], 'x'),
    bars('t', [('0', 3, '3 of it'), ('1', 0, 'none')], 'x', 'y'),
    reliability('t', [(0.2, 0.4, 0.5, 10)]),
    lines('t', [Series('s', [])], 'x', 'y', diagonal='same'),
    lines('t', [Series('s', [Point(1, 1)], 9, 'dots')], 'x', 'y'),
  ):
    assert not Read(chart).faults
    assert 'nan' not in chart


def _spread(values, metric):
  """Texts of the bars, and ticks below, of a page of these values."""
  data = {'values': values, 'tasks': []}
  made = shown_tasks.sections(data, metric, {})[0]
  read = Read(made.body)
  assert not read.faults
  ticks = [
    text
    for text in read.texts
    if text.replace('.', '', 1).replace(',', '').isdigit()
  ]
  return [each['data-text'] for each in read.named('rect')], ticks


@pytest.mark.parametrize(
  'values',
  [
    # Those of a run, whose least value was below the first edge.
    [3.005844, 3.370506, 3.37064, 1.69935, 4.225815, 0.077332, 1.783338,
     7.369702, 7.929282, 1.129677],
    [0.00194, 0.0431, 0.9, 12.34567, 12.34567, None],  # logarithmic
    [0.123456, 1.0, 1.2, 1.45678, 1.654321],  # not
    [1e-6, 3e-6, 4.4e-6, 2e-4],
    [-1.5, 0.25, 3.3333333, 100.0],
    [2.5, 2.5, 2.5],
    [0.0, 0.0],
    [7.0],
  ],
)  # fmt: skip
@pytest.mark.parametrize('scale', [1, 1 / 3, 1.00004])
def test_every_task_is_in_a_bar_of_the_spread(values, scale):
  values = [each and each * scale for each in values]
  texts, _ = _spread(values, Metric('mse', higher_is_better=False))
  numbers = [int(each.split(': ')[1].split()[0]) for each in texts]
  assert sum(numbers) == sum(each is not None for each in values)


@pytest.mark.parametrize('queries', [3, 10, 75, 1000])
def test_every_task_is_in_a_bar_of_shares(queries):
  values = [round(place / queries, 6) for place in range(queries + 1)]
  texts, _ = _spread(values, ACCURACY)
  numbers = [int(each.split(': ')[1].split()[0]) for each in texts]
  assert sum(numbers) == queries + 1


def test_a_logarithmic_spread_has_round_ticks():
  values = [0.0019, 0.0043, 0.03, 0.1, 2.0]
  _, ticks = _spread(values, Metric('mse', higher_is_better=False))
  assert {'0.01', '0.1', '1'} <= {*ticks}
  assert not {'0.0019', '0.0043'} & {*ticks}


@pytest.mark.parametrize(
  'name', ['strokes-maml-5way-1shot-' * 4 + 'seed0', 'W' * 90, '漢' * 90]
)
def test_a_long_name_is_shortened_and_whole_when_pointed_at(name):
  read = Read(
    intervals('t', [(name, Point(3, 0)), ('short', Point(3, 0))], 'x')
  )
  assert not read.faults
  whole, shown = read.texts[read.texts.index(name) :][:2]
  assert (whole, shown.count('…')) == (name, 1)
  first, last = shown.split('…')
  assert name.startswith(first)
  assert name.endswith(last)
  assert len(first) + len(last) >= 10
  assert 'short' in read.texts


def test_a_name_with_room_is_left_as_it_is():
  assert shortened('protonet', 12) == 'protonet'
  assert len(shortened('i' * 50, 12)) > len(shortened('w' * 50, 12))


def test_names_that_are_too_long_for_their_place_stand_above():
  names = [f'sinusoid-maml-10shot-{steps}-steps' for steps in (10, 20)]
  read = Read(intervals('t', [(name, Point(3, 0)) for name in names], 'x'))
  assert {*names} <= {*read.texts}  # which a middle left out makes the same
  places = [
    float(each['y'])
    for each in read.named('text')
    if each['class'] == 'name above'
  ]
  dots = [float(each['cy']) for each in read.named('circle')]
  assert places[0] < dots[0] < places[1] < dots[1]


def test_bins_of_hardly_any_predictions_are_faint_and_it_is_said():
  bins = [(0.2, 0.4, 1.0, 5), (0.4, 0.6, 0.5, 95), (0.8, 1.0, 0.9, 900)]
  styles = [
    each['class'] for each in Read(reliability('t', bins)).named('rect')
  ]
  assert [style for style in styles if 'pale' not in style] == [
    'bar faint tip', 'bar tip', 'bar tip', 'bar ',
  ]  # fmt: skip
