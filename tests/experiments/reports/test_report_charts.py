"""Charts have all values at their places, and say them."""

import math

import pytest
from reading import Read

from experiments.reports.charts import (
  Point,
  Series,
  bars,
  intervals,
  lines,
  reliability,
)
from experiments.reports.scales import fitting, plain_number


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
