"""Pictures of images: what is in the files and in the figures."""

import numpy as np
import pytest
from drawn import TITLE, assert_nothing_is_cut, count, pixels, task, texts
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from experiments.figures import images


def frames(figure):
  """How many queries are framed in each colour."""
  colors = [
    to_hex(patch.get_edgecolor()).upper()
    for patch in figure.findobj(Rectangle)
    if patch.get_linewidth() > 2
  ]
  return {color: colors.count(color) for color in set(colors)}


def pixels_of(figure):
  return figure.axes[0].get_images()[0].get_array()


def test_frames_are_green_where_right_and_red_where_wrong(tmp_path):
  data = task()
  for wrong in (0, 4, 15):
    after = data['query_labels'].copy()
    after[:wrong] = (after[:wrong] + 1) % 5
    path = tmp_path / f'{wrong}.png'
    figure = images.image_task(
      path, **(data | {'predictions_after': after}), title=TITLE
    )
    expected = {images.WRONG.upper(): wrong, images.RIGHT.upper(): 15 - wrong}
    assert frames(figure) == {k: v for k, v in expected.items() if v}
    image = pixels(path)
    assert_nothing_is_cut(image)
    # Predictions before adaptation are all wrong, so some red is always there.
    assert (count(image, images.RIGHT) > 0) == (wrong < 15)
    assert count(image, images.WRONG) > 0


def test_captions_are_the_predictions_before_and_after(tmp_path):
  data = task(ways=3, queries=1)
  data['query_labels'] = np.array([0, 1, 2])
  data['predictions_before'] = np.array([2, 1, 1])
  data['predictions_after'] = np.array([0, 1, 0])
  figure = images.image_task(tmp_path / 'a.png', **data, title=TITLE)
  captions = [
    (text.get_text(), text.get_color())
    for text in figure.axes[0].texts
    if text.get_color() in (images.RIGHT, images.WRONG)
  ]
  assert captions == [
    ('2', images.WRONG),
    ('0', images.RIGHT),
    ('1', images.RIGHT),
    ('1', images.RIGHT),
    ('1', images.WRONG),
    ('0', images.WRONG),
  ]


def test_rows_are_labelled_with_the_names_that_classes_have(tmp_path):
  names = {
    0: 'polar bear',
    1: 'a name as long as this one/rot090',
    2: 'x$y$_\N{CJK UNIFIED IDEOGRAPH-65E5}',
  }
  figure = images.image_task(
    tmp_path / 'a.png', **task(ways=4, queries=1), title=TITLE,
    class_names=names,
  )  # fmt: skip
  rows = {}  # names below the number of their class
  for text in figure.axes[0].texts:
    x, y = text.get_position()
    if x == 0.05:
      rows[round((y - 1.76) / 1.5)] = text.get_text()
  assert rows.keys() == {0, 1, 2}
  assert rows[0] == 'polar bear'
  first, last = rows[1].split('\N{HORIZONTAL ELLIPSIS}')
  assert names[1].startswith(first)
  assert names[1].endswith(last)
  assert rows[2] == 'x$y$_?'  # the font has no such letter
  assert_nothing_is_cut(pixels(tmp_path / 'a.png'))


def test_ink_is_dark_and_colours_are_kept(tmp_path):
  ink = np.zeros((1, 1, 28, 28, 1))
  ink[..., :14, :, :] = 1
  image = pixels_of(images.image_grid(tmp_path / 'ink.png', ink))
  np.testing.assert_array_equal(image[0, 0], [0, 0, 0])
  np.testing.assert_array_equal(image[-1, 0], [1, 1, 1])
  color = np.full((1, 1, 28, 28, 3), (255, 0, 51), np.uint8)
  image = pixels_of(images.image_grid(tmp_path / 'color.png', color))
  np.testing.assert_allclose(image[0, 0], [1, 0, 0.2])
  bits = (ink > 0).astype(np.uint8)  # 1 is ink, not 1/255 of it
  image = pixels_of(images.image_grid(tmp_path / 'bits.png', bits))
  np.testing.assert_array_equal(image[0, 0], [0, 0, 0])
  image = pixels_of(images.image_grid(tmp_path / 'wide.png', 4 * ink - 2))
  np.testing.assert_array_equal(image[0, 0], [0, 0, 0])
  np.testing.assert_array_equal(image[-1, 0], [1, 1, 1])


def test_queries_beyond_the_first_eight_are_left_out_and_this_is_said(tmp_path):
  data = task(ways=2, queries=15, channels=3)
  figure = images.image_task(tmp_path / 'a.png', **data, title=TITLE)
  assert sum(frames(figure).values()) == 16
  assert any(
    'first 8 of up to 15' in t.replace('\n', ' ') for t in texts(figure)
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'support_labels': np.arange(4)}, 'support_labels .* got 5 and 4'),
    ({'query_labels': np.zeros(3, int)}, 'query_labels .* got 15 and 3'),
    ({'predictions_before': []}, 'predictions_before .* got 15 and 0'),
    ({'predictions_after': np.zeros(16)}, 'predictions_after .* 15 and 16'),
    ({'query_labels': np.full(15, 7)}, r'classes \[7\] have no support'),
    ({'query_images': np.zeros((15, 28, 28))}, r'got shape \(15, 28, 28\)'),
    ({'support_images': np.zeros((5, 28, 28, 2))}, '1 or 3 channels'),
  ],
)
def test_image_task_refuses_what_does_not_fit(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    images.image_task(tmp_path / 'a.png', **(task() | changes), title=TITLE)
  assert not list(tmp_path.iterdir())


def test_image_grid_refuses_images_without_rows(tmp_path):
  with pytest.raises(ValueError, match='must have 5 axes'):
    images.image_grid(tmp_path / 'a.png', np.zeros((3, 28, 28, 1)))
  assert not list(tmp_path.iterdir())
