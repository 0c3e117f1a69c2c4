"""What all pictures share."""

import numpy as np
import pytest
from drawn import assert_nothing_is_cut, pixels, task

from experiments.figures import charts, images
from metajax.metric import MEAN_SQUARED_ERROR


def test_long_titles_stay_inside_the_picture(tmp_path):
  title = 'a_long $title$ that has to be wrapped, ' * 6
  images.image_task(tmp_path / 'a.png', **task(queries=1), title=title)
  charts.metric_by_step(
    tmp_path / 'b.png',
    [1, 2],
    [0, 0],
    MEAN_SQUARED_ERROR,
    title,
    1.5,
    'a baseline ' * 4,
  )
  for path in tmp_path.iterdir():
    assert_nothing_is_cut(pixels(path))


def test_a_picture_replaces_the_old_one_or_leaves_it(tmp_path):
  path = tmp_path / 'grid.png'
  path.write_bytes(b'old')
  images.image_grid(path, np.zeros((2, 3, 8, 8, 1)), 'a grid')
  assert pixels(path).shape[2] == 3
  taken = tmp_path / 'directory.png'
  taken.mkdir()
  with pytest.raises(OSError, match=r'directory\.png'):
    images.image_grid(taken, np.zeros((2, 3, 8, 8, 1)))
  assert sorted(tmp_path.iterdir()) == [taken, path]
