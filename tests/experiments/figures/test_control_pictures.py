"""Pictures of acting, and the same on a page."""

import numpy as np
from drawn import assert_nothing_is_cut, count, pixels, texts

from experiments.figures.canvas import BLUE, ORANGE
from experiments.figures.control import paths, reward_curves
from experiments.reports.rollouts import rollouts
from metajax.control.rollouts import Trajectory


def trajectory(steps=3, episodes=4, length=5, ends=3):
  """Walks to the right; each ends after three steps."""
  moments = (steps + 1, episodes, length)
  active = np.broadcast_to(np.arange(length) < ends, moments).astype(float)
  x = np.broadcast_to(np.arange(length) / 10, moments)
  observations = np.stack([x, np.zeros(moments)], axis=-1)
  nothing = np.zeros(moments)
  return Trajectory(
    observations, nothing, -active, active, nothing, nothing, ()
  )


def test_ways_of_episodes_up_to_their_end(tmp_path):
  path = tmp_path / 'ways.png'
  goals = [np.array([0.3, 0.2])] * 2
  figure = paths(path, [trajectory()] * 2, goals, ('x', 'y'), 'maml: ways')
  image = pixels(path)
  assert_nothing_is_cut(image)
  assert count(image, BLUE) > 10
  assert count(image, ORANGE) > 50
  shown = texts(figure)
  assert {'before', 'after 1 step', 'after 3 steps'} <= set(shown)
  assert shown.count('return -3.0') == 6
  (line, *_) = figure.axes[0].lines
  np.testing.assert_allclose(line.get_xdata(), [0.0, 0.1, 0.2])


def test_rewards_where_there_are_no_places(tmp_path):
  path = tmp_path / 'rewards.png'
  figure = reward_curves(path, trajectory(), 'maml: rewards')
  assert_nothing_is_cut(pixels(path))
  assert [line.get_label() for line in figure.axes[0].lines] == [
    'before adaptation', 'after 1 step', 'after 3 steps',
  ]  # fmt: skip
  line = figure.axes[0].lines[0]
  np.testing.assert_allclose(line.get_ydata(), [-1, -2, -3, -3, -3])


def test_a_page_has_rewards_as_plain_data():
  outputs = trajectory()
  outputs.rewards[0, 0, 0] = np.nan
  shown = rollouts(None, 0, outputs)
  assert [each['name'] for each in shown['ways']] == [
    'before adaptation', 'after 1 update', 'after 3 updates',
  ]  # fmt: skip
  assert shown['ways'][0]['y'][0] is None
  assert shown['ways'][2]['y'] == [-1, -2, -3, -3, -3]
