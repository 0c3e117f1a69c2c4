"""Pictures of regression: what is in the files and in the figures."""

import numpy as np
import pytest
from drawn import TITLE, assert_nothing_is_cut, pixels, texts

from experiments.figures import regression


def test_sinusoid_task_draws_every_curve(tmp_path):
  path = tmp_path / 'sinusoid.png'
  x = np.linspace(-5, 5, 50)
  support = np.array([[-1.0], [2.0]])  # a column, as the model sees it
  figure = regression.sinusoid_task(
    path,
    x,
    np.sin(x),
    support,
    np.sin(support),
    0 * x,
    {10: np.sin(x), 1: 0.5 * np.sin(x)},
    TITLE,
  )
  assert_nothing_is_cut(pixels(path))
  names = figure.axes[0].get_legend_handles_labels()[1]
  assert names == [
    'true curve',
    'before adaptation',
    'after 1 step',
    'after 10 steps',
    '2 support examples',
  ]


def test_sinusoid_task_names_the_curve_of_wrong_length(tmp_path):
  x = np.zeros(50)
  with pytest.raises(ValueError, match=r'after_y\[3\] .* got 50 and 49'):
    regression.sinusoid_task(
      tmp_path / 'a.png', x, x, [0.0], [0.0], x, {3: x[1:]}, TITLE
    )
  with pytest.raises(ValueError, match=r'support_y .* got 1 and 2'):
    regression.sinusoid_task(
      tmp_path / 'a.png', x, x, [0.0], [0.0, 1.0], x, {3: x}, TITLE
    )
  assert not list(tmp_path.iterdir())


def table(targets=3, queries=20):
  true = np.random.default_rng(0).normal(size=(queries, targets))
  return {
    'true': true,
    'before': 0 * true,
    'after': 0.9 * true,
    'steps': 5,
    'names': None,
    'title': TITLE,
  }


@pytest.mark.in_ci
@pytest.mark.parametrize('targets', [1, 2, 3, 4, 6])
def test_table_task_has_a_panel_for_each_of_four_targets(tmp_path, targets):
  path, data = tmp_path / 'table.png', table(targets)
  figure = regression.table_task(path, **data)
  assert_nothing_is_cut(pixels(path))
  assert len(figure.axes) == min(targets, 4)
  for place, axes in enumerate(figure.axes):
    diagonal, before, after = axes.get_lines()
    np.testing.assert_array_equal(*diagonal.get_data())
    for line, name in ((before, 'before'), (after, 'after')):
      x, y = line.get_data()
      np.testing.assert_array_equal(x, data['true'][:, place])
      np.testing.assert_array_equal(y, data[name][:, place])
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_title() == (f'target {place + 1}' if targets > 1 else '')
  said = any('the first 4 of 6 targets' in text for text in texts(figure))
  assert said == (targets > 4)


def test_table_task_of_a_method_that_takes_no_step(tmp_path):
  data = table(1) | {'before': None, 'steps': 0, 'names': ['a $price$']}
  data['after'][3] = np.nan  # which hides none of the others
  figure = regression.table_task(tmp_path / 'a.png', **data)
  (axes,) = figure.axes
  names = axes.get_legend_handles_labels()[1]
  assert names == ['prediction is right', 'prediction']
  assert axes.get_title() == 'a $price$'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'before': np.zeros((20, 2))}, r'before.*\(20, 2\) and \(20, 3\)'),
    ({'after': np.zeros(20)}, r'after 5 steps.*\(20, 1\) and \(20, 3\)'),
    ({'names': ['one']}, 'got 1 names for 3 targets'),
  ],
)
def test_table_task_refuses_what_does_not_fit(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    regression.table_task(tmp_path / 'a.png', **(table() | changes))
  assert not list(tmp_path.iterdir())


def test_a_constant_target_can_be_drawn(tmp_path):
  values = np.ones((5, 1))
  data = table() | {'true': values, 'before': values, 'after': values}
  (axes,) = regression.table_task(tmp_path / 'a.png', **data).axes
  assert axes.get_xlim() == (0.5, 1.5)
