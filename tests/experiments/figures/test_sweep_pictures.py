"""Pictures of a sweep."""

import pytest
from drawn import TITLE, assert_nothing_is_cut, pixels, texts

from experiments.figures import sweeps
from metajax.metric import ACCURACY


def test_every_setting_has_a_bar_and_its_share(tmp_path):
  path = tmp_path / 'a.png'
  figure = sweeps.importance(path, {'outer_lr': 0.3, 'width': 0.7}, TITLE)
  assert_nothing_is_cut(pixels(path))
  assert {' 30%', ' 70%', 'outer_lr', 'width'} <= set(texts(figure))
  with pytest.raises(ValueError, match='no setting'):
    sweeps.importance(path, {}, TITLE)


def test_every_trial_is_a_line_and_the_best_is_wide(tmp_path):
  path = tmp_path / 'a.png'
  trials = [
    ({'rate': 0.01, 'width': 8, 'way': 'a'}, 0.5),
    ({'rate': 1.0, 'width': 8, 'way': 'b'}, 0.75),
  ]
  scales = {'rate': True, 'width': False, 'way': False}
  figure = sweeps.parallel(path, trials, scales, ACCURACY, TITLE)
  assert_nothing_is_cut(pixels(path))
  lines = [
    line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 4
  ]
  assert [line.get_linewidth() for line in lines] == [1.1, 3]
  assert list(lines[1].get_ydata()) == [1, 0.5, 1, 1]
  assert {'0.1', '8', 'a', 'b', '50', '75'} <= set(texts(figure))
  with pytest.raises(ValueError, match='no trial'):
    sweeps.parallel(path, [], scales, ACCURACY, TITLE)
