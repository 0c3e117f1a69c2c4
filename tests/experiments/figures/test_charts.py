"""Charts: what is in the files and in the figures."""

import itertools

import numpy as np
import pytest
from drawn import TITLE, assert_nothing_is_cut, count, pixels, texts
from matplotlib.collections import LineCollection

from experiments.figures import canvas, charts
from metajax.metric import (
  ACCURACY,
  EXPECTED_CALIBRATION_ERROR,
  LOSS,
  MACRO_F1,
  MEAN_SQUARED_ERROR,
  NEGATIVE_LOG_LIKELIHOOD,
  Metric,
)


def on_paper(line):
  """Where the points of a line are drawn."""
  return line.get_transform().transform(line.get_xydata())


def records(num=100):
  rows = [
    {'step': 10 * i, 'accuracy': i / num, 'loss': 0.01 + num - i}
    for i in range(1, num + 1)
  ]
  for row in rows[9::10]:
    row['validation/accuracy'] = row['accuracy'] - 0.05
    row['validation/accuracy_ci95'] = 0.02
  return rows


def test_learning_curve_draws_training_validation_and_baseline(tmp_path):
  path = tmp_path / 'curve.png'
  figure = charts.learning_curve(
    path, records(), ACCURACY, TITLE, 0.4, 'pixel baseline'
  )
  image = pixels(path)
  assert image.shape == (690, 1050, 3)
  assert_nothing_is_cut(image)
  for color in (canvas.BLUE, canvas.ORANGE, canvas.GREY):
    assert count(image, color) > 100
  drawn = texts(figure)
  for text in (
    TITLE,
    'accuracy (%)',
    'outer steps',
    'training, smoothed',
    'validation',
    '95% interval',
    'pixel baseline, 40.0%',
  ):
    assert text in drawn
  assert list(tmp_path.iterdir()) == [path]


def test_learning_curve_leaves_out_what_is_not_finite(tmp_path):
  rows = [*records(), {'step': 1010, 'loss': float('inf')}]
  figure = charts.learning_curve(tmp_path / 'a.png', rows, LOSS, TITLE)
  raw = figure.axes[0].get_lines()[0]
  assert len(raw.get_xdata()) == 100
  assert figure.axes[0].get_yscale() == 'log'
  only_bad = [{'step': 1, 'loss': float('nan')}]
  with pytest.raises(ValueError, match=r"none of the 1 records has .* 'loss'"):
    charts.learning_curve(tmp_path / 'b.png', only_bad, LOSS, TITLE)
  assert not (tmp_path / 'b.png').exists()


def test_smoothing_keeps_a_constant_and_does_not_lag(tmp_path):
  rows = [{'step': i, 'mse': abs(i - 50.0)} for i in range(101)]
  figure = charts.learning_curve(
    tmp_path / 'a.png', rows, MEAN_SQUARED_ERROR, TITLE
  )
  smooth = figure.axes[0].get_lines()[1].get_ydata()
  assert np.argmin(smooth) == 50
  rows = [{'step': i, 'mse': 3.0} for i in range(101)]
  figure = charts.learning_curve(
    tmp_path / 'b.png', rows, MEAN_SQUARED_ERROR, TITLE
  )
  smooth = figure.axes[0].get_lines()[1].get_ydata()
  np.testing.assert_allclose(smooth, 3.0)


@pytest.mark.parametrize('steps', [0, 1, 10])
def test_metric_by_step_shows_the_last_value_and_its_interval(tmp_path, steps):
  path = tmp_path / 'steps.png'
  mean = np.linspace(0.2, 0.975, steps + 1)
  figure = charts.metric_by_step(
    path, mean, [0.004] * (steps + 1), ACCURACY, TITLE, 0.45
  )
  assert_nothing_is_cut(pixels(path))
  expected = f'{100 * mean[-1]:.1f} \N{PLUS-MINUS SIGN} 0.4%'
  assert any(text.endswith(expected) for text in texts(figure))


def test_metric_by_step_refuses_lists_that_do_not_fit(tmp_path):
  for mean, ci95 in (([0.1, 0.2], [0.1]), ([], []), ([[0.1]], [[0.1]])):
    with pytest.raises(ValueError, match='two lists of one length'):
      charts.metric_by_step(
        tmp_path / 'a.png', mean, ci95, MEAN_SQUARED_ERROR, TITLE
      )
  assert not list(tmp_path.iterdir())


def test_a_comparison_shows_every_method_and_the_best_first(tmp_path):
  path = tmp_path / 'comparison.png'
  figure = charts.comparison(
    path,
    {'maml': [(1, 0.5), (2, 0.7)], 'pixels': []},
    {'maml': (3, 0.9, 0.01), 'pixels': (0, 0.4, 0.02)},
    ACCURACY,
    TITLE,
  )
  _, at_end = figure.axes
  names = [label.get_text() for label in at_end.get_yticklabels()]
  assert names == ['maml', 'pixels']
  assert TITLE in texts(figure)
  # As far from 80% to 90% of accuracy as from 90% to 95%, or nearly.
  places = at_end.transData.transform([(x, 0) for x in (0.8, 0.9, 0.95)])[:, 0]
  first, second = np.diff(places)
  assert 0.9 < second / first < 1.1
  assert_nothing_is_cut(pixels(path))


def test_a_comparison_of_methods_without_a_mistake_can_be_drawn(tmp_path):
  """Where all is 100% a logit scale has nothing to go by."""
  figure = charts.comparison(
    tmp_path / 'comparison.png',
    {'maml': [(1, 1.0)]},
    {'maml': (3, 1.0, 0.0)},
    ACCURACY,
    TITLE,
  )
  for low, high in (figure.axes[0].get_ylim(), figure.axes[1].get_xlim()):
    assert 0.9 < low < high < 1


def test_all_and_nothing_have_their_places_on_a_stretched_axis(tmp_path):
  """What is 100% stands there, and a curve slopes on its way to it."""
  figure = charts.comparison(
    tmp_path / 'a.png',
    {'maml': [(1, 0.8), (2, 1.0), (3, 1.0), (4, 0.9)], 'none': [(1, 0.0)]},
    {'maml': (5, 0.99, 0.02), 'none': (5, 0.1, 0.2)},
    ACCURACY,
    TITLE,
  )
  over_time, at_end = figure.axes
  curve = next(x for x in over_time.get_lines() if len(x.get_xdata()) == 4)
  top = on_paper(curve)[:, 1]
  low, high = over_time.get_window_extent().intervaly
  assert low < top.min() < top.max() < high
  assert top[1] == top[2]
  for each, labels in (
    (over_time, over_time.get_yticklabels()),
    (at_end, at_end.get_xticklabels()),
  ):
    shown = [label.get_text() for label in labels]
    assert (shown[0], shown[-1]) == ('100', '0')
    inside = each.get_window_extent()
    for line in each.get_lines():
      assert all(inside.contains(*xy) for xy in on_paper(line))
    for bars in each.collections:
      for segment in bars.get_segments():
        places = each.transData.transform(segment)
        assert all(inside.contains(*xy) for xy in places)


def test_ticks_of_a_stretched_axis_do_not_overlap(tmp_path):
  results = {f'm{i}': (5, share, 0.0) for i, share in enumerate((0.0, 0.5, 1))}
  figure = charts.comparison(
    tmp_path / 'a.png', dict.fromkeys(results, ()), results, ACCURACY, TITLE
  )
  figure.draw_without_rendering()
  for axis in (figure.axes[0].yaxis, figure.axes[1].xaxis):
    boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
    assert len(boxes) > 5
    for one, other in itertools.pairwise(boxes):
      assert not one.overlaps(other)


def test_intervals_at_the_same_number_of_examples_stand_side_by_side(tmp_path):
  points = [(1, 0.9, 0.05), (2, 0.95, 0.02), (10, 0.97, 0.01)]
  for number, points_of in ((1, points), (5, points), (3, points[:1])):
    figure = charts.by_shots(
      tmp_path / 'a.png', {f'run {i}': points_of for i in range(number)},
      ACCURACY, TITLE,
    )  # fmt: skip
    (axes,) = figure.axes
    bars = [x for x in axes.collections if isinstance(x, LineCollection)]
    assert len(bars) == number
    places = np.array([[s[0, 0] for s in bar.get_segments()] for bar in bars])
    pixels_of = axes.transData.transform(
      np.stack([places.ravel(), np.full(places.size, 0.9)], axis=1)
    )[:, 0].reshape(places.shape)
    for at_one in np.diff(pixels_of, axis=0).T:
      assert (at_one > 4).all()  # more than the caps are wide
    low, high = axes.get_xlim()
    assert low < places.min() < places.max() < high
    # Each is nearest to its own number.
    numbers = np.array([point[0] for point in points_of])
    nearest = np.abs(np.log(places[..., None] / numbers)).argmin(axis=-1)
    assert (nearest == np.arange(len(numbers))).all()


def test_accuracies_by_shots_show_every_number_of_examples(tmp_path):
  path = tmp_path / 'by_shots.png'
  figure = charts.by_shots(
    path,
    {
      'maml': [(1, 0.9, 0.01), (10, 0.95, 0.01)],
      'transfer': [(1, 0.7, 0.02), (5, 0.9, 0.01), (10, 1.0, 0.0)],
    },
    ACCURACY,
    TITLE,
  )
  (axes,) = figure.axes
  assert [label.get_text() for label in axes.get_xticklabels()] == [
    '1', '5', '10',
  ]  # fmt: skip
  assert {'maml', 'transfer', TITLE} <= set(texts(figure))
  assert_nothing_is_cut(pixels(path))
  with pytest.raises(ValueError, match='no method'):
    charts.by_shots(path, {}, ACCURACY, TITLE)


def test_a_comparison_of_nothing_is_refused(tmp_path):
  with pytest.raises(ValueError, match='no method'):
    charts.comparison(tmp_path / 'x.png', {}, {}, ACCURACY, TITLE)


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('metric', 'order', 'scale', 'ticks'),
  [
    (ACCURACY, ['high', 'low'], 'logit', True),
    (MACRO_F1, ['high', 'low'], 'logit', True),
    (EXPECTED_CALIBRATION_ERROR, ['low', 'high'], 'linear', True),
    (MEAN_SQUARED_ERROR, ['low', 'high'], 'linear', False),
    (Metric('r2', higher_is_better=True), ['high', 'low'], 'linear', False),
  ],
)
def test_direction_and_scale_come_from_the_metric(
  tmp_path, metric, order, scale, ticks
):
  figure = charts.comparison(
    tmp_path / 'a.png',
    {'high': [(1, 0.8)], 'low': [(1, 0.3)]},
    {'high': (2, 0.9, 0.01), 'low': (2, 0.2, 0.01)},
    metric,
    TITLE,
  )
  over_time, at_end = figure.axes
  assert [label.get_text() for label in at_end.get_yticklabels()] == order
  assert over_time.get_yscale() == at_end.get_xscale() == scale
  assert over_time.get_ylabel() == metric.axis
  assert at_end.get_xlabel().startswith(metric.axis)
  shown = {label.get_text() for label in over_time.get_yticklabels()}
  assert bool(shown & {'80', '80.0'}) == ticks
  (axes,) = charts.by_shots(
    tmp_path / 'b.png', {'maml': [(1, 0.9, 0.01)]}, metric, TITLE, 'examples'
  ).axes
  assert axes.get_yscale() == scale
  assert axes.get_xlabel() == 'examples'


def test_a_unit_stands_beside_axis_and_value(tmp_path):
  figure = charts.metric_by_step(
    tmp_path / 'a.png', [1.5, 0.25], [0.1, 0.02], NEGATIVE_LOG_LIKELIHOOD, TITLE
  )
  drawn = texts(figure)
  assert 'negative log-likelihood (nats)' in drawn
  assert 'mean, after 1 step 0.25 \N{PLUS-MINUS SIGN} 0.02 nats' in drawn


def test_values_that_are_not_finite_do_not_hide_the_others(tmp_path):
  figure = charts.metric_by_step(
    tmp_path / 'a.png', [100.0, 1.0, np.inf, np.nan], [0.1] * 4, LOSS, TITLE
  )
  (axes,) = figure.axes
  assert axes.get_yscale() == 'log'
  assert axes.get_ylim()[1] < 1000


def test_intervals_over_seeds_are_drawn_beside_those_over_tasks(tmp_path):
  rows = records()
  for row in rows[9::10]:
    row['validation/accuracy_ci95_over_seeds'] = 0.05
  curve = charts.learning_curve(tmp_path / 'a.png', rows, ACCURACY, TITLE)
  steps = charts.metric_by_step(
    tmp_path / 'b.png', [0.2, 0.5, 0.6], [0.1] * 3, ACCURACY, TITLE,
    over_seeds=[0.05, 0.1, 0.2],
  )  # fmt: skip
  one = charts.metric_by_step(
    tmp_path / 'c.png', [0.2], [0.1], ACCURACY, TITLE, over_seeds=[0.05]
  )
  for figure in (curve, steps, one):
    drawn = texts(figure)
    assert '95% interval over seeds' in drawn
    assert ('95% interval over tasks' in drawn) == (figure is not one)
  ends = next(
    each for each in steps.axes[0].collections
    if isinstance(each, LineCollection)
  )  # fmt: skip
  low, high = (segment[:, 1] for segment in ends.get_segments())
  np.testing.assert_allclose(low, [0.15, 0.4, 0.4])
  np.testing.assert_allclose(high, [0.25, 0.6, 0.8])
