"""Pictures of regression: what is in the files and in the figures."""

import numpy as np
import pytest
from drawn import TITLE, assert_nothing_is_cut, pixels

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
