"""Tests of the pictures: what is in the files and in the figures."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from experiments.figures import plots

TITLE = 'MAML, strokes, 5-way 1-shot, transductive, 1000 test tasks'


def pixels(path):
  """The pixels of a PNG, decoded in full, so that a torn file fails."""
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def count(image, color):
  return int(np.all(image == np.round(255 * np.array(to_rgb(color))), -1).sum())


def assert_nothing_is_cut(image):
  """The outermost pixels are white: no text or line runs out of the picture."""
  for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
    assert (edge > 250).all()


def texts(figure):
  from matplotlib.text import Text

  return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def records(num=100):
  rows = [
    {'step': 10 * i, 'accuracy': i / num, 'loss': 0.01 + num - i}
    for i in range(1, num + 1)
  ]
  for row in rows[9::10]:
    row['validation/accuracy'] = row['accuracy'] - 0.05
    row['validation/accuracy_ci95'] = 0.02
  return rows


def task(ways=5, queries=3, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(ways), queries))
  return {
    'support_images': rng.random((ways, 28, 28, channels)),
    'support_labels': np.arange(ways),
    'query_images': rng.random((len(labels), 28, 28, channels)),
    'query_labels': labels,
    'predictions_before': (labels + 1) % ways,
    'predictions_after': labels.copy(),
  }


def frames(figure):
  """How many queries are framed in each colour."""
  colors = [
    to_hex(patch.get_edgecolor()).upper()
    for patch in figure.findobj(Rectangle)
    if patch.get_linewidth() > 2
  ]
  return {color: colors.count(color) for color in set(colors)}


# Charts


def test_learning_curve_draws_training_validation_and_baseline(tmp_path):
  path = tmp_path / 'curve.png'
  figure = plots.learning_curve(
    path, records(), 'accuracy', TITLE, 0.4, 'pixel baseline'
  )
  image = pixels(path)
  assert image.shape == (690, 1050, 3)
  assert_nothing_is_cut(image)
  for color in (plots.BLUE, plots.ORANGE, plots.GREY):
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
  figure = plots.learning_curve(tmp_path / 'a.png', rows, 'loss', TITLE)
  raw = figure.axes[0].get_lines()[0]
  assert len(raw.get_xdata()) == 100
  assert figure.axes[0].get_yscale() == 'log'
  only_bad = [{'step': 1, 'loss': float('nan')}]
  with pytest.raises(ValueError, match=r"none of the 1 records has .* 'loss'"):
    plots.learning_curve(tmp_path / 'b.png', only_bad, 'loss', TITLE)
  assert not (tmp_path / 'b.png').exists()


def test_smoothing_keeps_a_constant_and_does_not_lag(tmp_path):
  rows = [{'step': i, 'mse': abs(i - 50.0)} for i in range(101)]
  figure = plots.learning_curve(tmp_path / 'a.png', rows, 'mse', TITLE)
  smooth = figure.axes[0].get_lines()[1].get_ydata()
  assert np.argmin(smooth) == 50
  rows = [{'step': i, 'mse': 3.0} for i in range(101)]
  figure = plots.learning_curve(tmp_path / 'b.png', rows, 'mse', TITLE)
  smooth = figure.axes[0].get_lines()[1].get_ydata()
  np.testing.assert_allclose(smooth, 3.0)


@pytest.mark.parametrize('steps', [0, 1, 10])
def test_metric_by_step_shows_the_last_value_and_its_interval(tmp_path, steps):
  path = tmp_path / 'steps.png'
  mean = np.linspace(0.2, 0.975, steps + 1)
  figure = plots.metric_by_step(
    path, mean, [0.004] * (steps + 1), 'accuracy', TITLE, 0.45
  )
  assert_nothing_is_cut(pixels(path))
  expected = f'{100 * mean[-1]:.1f} \N{PLUS-MINUS SIGN} 0.4%'
  assert any(text.endswith(expected) for text in texts(figure))


def test_metric_by_step_refuses_lists_that_do_not_fit(tmp_path):
  for mean, ci95 in (([0.1, 0.2], [0.1]), ([], []), ([[0.1]], [[0.1]])):
    with pytest.raises(ValueError, match='two lists of one length'):
      plots.metric_by_step(tmp_path / 'a.png', mean, ci95, 'mse', TITLE)
  assert not list(tmp_path.iterdir())


def test_sinusoid_task_draws_every_curve(tmp_path):
  path = tmp_path / 'sinusoid.png'
  x = np.linspace(-5, 5, 50)
  support = np.array([[-1.0], [2.0]])  # a column, as the model sees it
  figure = plots.sinusoid_task(
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
    plots.sinusoid_task(
      tmp_path / 'a.png', x, x, [0.0], [0.0], x, {3: x[1:]}, TITLE
    )
  with pytest.raises(ValueError, match=r'support_y .* got 1 and 2'):
    plots.sinusoid_task(
      tmp_path / 'a.png', x, x, [0.0], [0.0, 1.0], x, {3: x}, TITLE
    )
  assert not list(tmp_path.iterdir())


# Images


def test_frames_are_green_where_right_and_red_where_wrong(tmp_path):
  data = task()
  for wrong in (0, 4, 15):
    after = data['query_labels'].copy()
    after[:wrong] = (after[:wrong] + 1) % 5
    path = tmp_path / f'{wrong}.png'
    figure = plots.image_task(
      path, **(data | {'predictions_after': after}), title=TITLE
    )
    expected = {plots.WRONG.upper(): wrong, plots.RIGHT.upper(): 15 - wrong}
    assert frames(figure) == {k: v for k, v in expected.items() if v}
    image = pixels(path)
    assert_nothing_is_cut(image)
    # Predictions before adaptation are all wrong, so some red is always there.
    assert (count(image, plots.RIGHT) > 0) == (wrong < 15)
    assert count(image, plots.WRONG) > 0


def test_captions_are_the_predictions_before_and_after(tmp_path):
  data = task(ways=3, queries=1)
  data['query_labels'] = np.array([0, 1, 2])
  data['predictions_before'] = np.array([2, 1, 1])
  data['predictions_after'] = np.array([0, 1, 0])
  figure = plots.image_task(tmp_path / 'a.png', **data, title=TITLE)
  captions = [
    (text.get_text(), text.get_color())
    for text in figure.axes[0].texts
    if text.get_color() in (plots.RIGHT, plots.WRONG)
  ]
  assert captions == [
    ('2', plots.WRONG),
    ('0', plots.RIGHT),
    ('1', plots.RIGHT),
    ('1', plots.RIGHT),
    ('1', plots.WRONG),
    ('0', plots.WRONG),
  ]


def test_ink_is_dark_and_colours_are_kept(tmp_path):
  ink = np.zeros((1, 1, 28, 28, 1))
  ink[..., :14, :, :] = 1
  image = pixels_of(plots.image_grid(tmp_path / 'ink.png', ink))
  np.testing.assert_array_equal(image[0, 0], [0, 0, 0])
  np.testing.assert_array_equal(image[-1, 0], [1, 1, 1])
  color = np.full((1, 1, 28, 28, 3), (255, 0, 51), np.uint8)
  image = pixels_of(plots.image_grid(tmp_path / 'color.png', color))
  np.testing.assert_allclose(image[0, 0], [1, 0, 0.2])
  bits = (ink > 0).astype(np.uint8)  # 1 is ink, not 1/255 of it
  image = pixels_of(plots.image_grid(tmp_path / 'bits.png', bits))
  np.testing.assert_array_equal(image[0, 0], [0, 0, 0])
  image = pixels_of(plots.image_grid(tmp_path / 'wide.png', 4 * ink - 2))
  np.testing.assert_array_equal(image[0, 0], [0, 0, 0])
  np.testing.assert_array_equal(image[-1, 0], [1, 1, 1])


def pixels_of(figure):
  return figure.axes[0].get_images()[0].get_array()


def test_queries_beyond_the_first_eight_are_left_out_and_this_is_said(tmp_path):
  data = task(ways=2, queries=15, channels=3)
  figure = plots.image_task(tmp_path / 'a.png', **data, title=TITLE)
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
    plots.image_task(tmp_path / 'a.png', **(task() | changes), title=TITLE)
  assert not list(tmp_path.iterdir())


def test_image_grid_refuses_images_without_rows(tmp_path):
  with pytest.raises(ValueError, match='must have 5 axes'):
    plots.image_grid(tmp_path / 'a.png', np.zeros((3, 28, 28, 1)))
  assert not list(tmp_path.iterdir())


# Files


def test_long_titles_stay_inside_the_picture(tmp_path):
  title = 'a_long $title$ that has to be wrapped, ' * 6
  plots.image_task(tmp_path / 'a.png', **task(queries=1), title=title)
  plots.metric_by_step(
    tmp_path / 'b.png', [1, 2], [0, 0], 'mse', title, 1.5, 'a baseline ' * 4
  )
  for path in tmp_path.iterdir():
    assert_nothing_is_cut(pixels(path))


def test_a_picture_replaces_the_old_one_or_leaves_it(tmp_path):
  path = tmp_path / 'grid.png'
  path.write_bytes(b'old')
  plots.image_grid(path, np.zeros((2, 3, 8, 8, 1)), 'a grid')
  assert pixels(path).shape[2] == 3
  taken = tmp_path / 'directory.png'
  taken.mkdir()
  with pytest.raises(OSError, match=r'directory\.png'):
    plots.image_grid(taken, np.zeros((2, 3, 8, 8, 1)))
  assert sorted(tmp_path.iterdir()) == [taken, path]


def test_a_comparison_shows_every_method_and_the_best_first(tmp_path):
  path = tmp_path / 'comparison.png'
  figure = plots.comparison(
    path,
    {'maml': [(1, 0.5), (2, 0.7)], 'pixels': []},
    {'maml': (3, 0.9, 0.01), 'pixels': (0, 0.4, 0.02)},
    'accuracy',
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
  figure = plots.comparison(
    tmp_path / 'comparison.png',
    {'maml': [(1, 1.0)]},
    {'maml': (3, 1.0, 0.0)},
    'accuracy',
    TITLE,
  )
  for low, high in (figure.axes[0].get_ylim(), figure.axes[1].get_xlim()):
    assert 0.9 < low < high < 1


def test_accuracies_by_shots_show_every_number_of_examples(tmp_path):
  path = tmp_path / 'by_shots.png'
  figure = plots.by_shots(
    path,
    {
      'maml': [(1, 0.9, 0.01), (10, 0.95, 0.01)],
      'transfer': [(1, 0.7, 0.02), (5, 0.9, 0.01), (10, 1.0, 0.0)],
    },
    TITLE,
  )
  (axes,) = figure.axes
  assert [label.get_text() for label in axes.get_xticklabels()] == [
    '1', '5', '10',
  ]  # fmt: skip
  assert {'maml', 'transfer', TITLE} <= set(texts(figure))
  assert_nothing_is_cut(pixels(path))
  with pytest.raises(ValueError, match='no method'):
    plots.by_shots(path, {}, TITLE)


def test_a_comparison_of_nothing_is_refused(tmp_path):
  with pytest.raises(ValueError, match='no method'):
    plots.comparison(tmp_path / 'x.png', {}, {}, 'accuracy', TITLE)
