"""Pictures of acting, and the same on a page."""

import numpy as np
from drawn import assert_nothing_is_cut, count, pixels, texts

from experiments.figures.bandits import regret_by_pull
from experiments.figures.canvas import BLUE, COLORS, ORANGE
from experiments.figures.control import paths, reward_curves
from experiments.figures.hypergradients import outer
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


def test_episodes_that_leave_the_frame_are_counted_in_it(tmp_path):
  far = trajectory()
  far.observations[:, 0, :2] = 1.5  # of the four, the first
  path = tmp_path / 'ways.png'
  shown = texts(paths(path, [far], [np.zeros(2)], ('x', 'y'), 'maml'))
  assert shown.count('return -3.0; 1 of 4 leave the frame') == 3


def test_regrets_that_coincide_are_all_seen(tmp_path):
  path = tmp_path / 'regret.png'
  names = ('rl2', 'random', 'greedy', 'ucb1', 'thompson', 'index', 'optimum')
  same = np.linspace(0.3, 0.1, 10)
  regret_by_pull(path, dict.fromkeys(names, same), 'rl2, bandit')
  image = pixels(path)
  assert_nothing_is_cut(image)
  # Beside what the legend has of each.
  shown = image[: int(0.85 * len(image))]
  for color in (COLORS[0], *COLORS[2:6]):
    assert count(shown, color) > 20


def test_outer_steps_are_whole_numbers(tmp_path):
  own = {'validation_loss': [[1.0, 0.9], [1.1, 0.8]], 'steps': [1, 2]}
  figure = outer(
    tmp_path / 'outer.png',
    {
      'distributions': {'': own}, 'solve': 'unrolled', 'converged': True,
      'problem': 'cleaning',
    },
  )  # fmt: skip
  ticks = figure.axes[0].get_xticks()
  np.testing.assert_allclose(ticks, np.round(ticks))


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
