"""Values are means of a task first, and intervals over tasks that differ."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner import over_tasks, seeds
from experiments.runner.intervals import of_few
from metajax.objectives import confidence_interval
from metajax.runs.evaluation import Evaluation

DRAWS = np.array([[1.0, 2.0], [3.0, 4.0], [6.0, 9.0]], np.float32)
DRAWN = np.array([0, 0, 1])


def evaluation(values):
  values = {'mse': jnp.asarray(values)}
  mean = {'mse': values['mse'].mean(axis=0)}
  half = {'mse': confidence_interval(values['mse'])}
  return Evaluation(mean, half, values)


def test_a_task_that_is_drawn_twice_counts_once():
  found = over_tasks.of_tasks_that_differ(evaluation(DRAWS), DRAWN)
  np.testing.assert_allclose(found.mean['mse'], [4.0, 6.0])
  half = of_few(np.array([[2.0, 3.0], [6.0, 9.0]]))
  np.testing.assert_allclose(found.ci95['mse'], half, rtol=1e-6)
  assert half[0] > 20  # of two tasks it is wide
  np.testing.assert_array_equal(found.values['mse'], DRAWS)  # as they were


def test_of_one_task_there_is_no_interval():
  found = over_tasks.of_tasks_that_differ(evaluation(DRAWS), 0 * DRAWN)
  np.testing.assert_allclose(found.mean['mse'], DRAWS.mean(0), rtol=1e-6)
  assert np.isnan(found.ci95['mse']).all()


def test_where_all_tasks_differ_nothing_is_touched():
  given = evaluation(DRAWS)
  assert over_tasks.of_tasks_that_differ(given, None) is given
  assert over_tasks.tasks_drawn(None, None, 0, 3) is None


def test_tasks_are_told_from_each_other_by_their_keys():
  keys = over_tasks.keys_of(7, 4)
  drawn = over_tasks.tasks_drawn(lambda sample, key: sample, 5, 7, 4)
  assert keys.shape == (4,)
  assert drawn.tolist() == [0, 0, 0, 0]
  assert over_tasks.number_of_tasks(drawn) == 1


def test_seeds_share_the_tasks_that_differ():
  each = {0: evaluation(DRAWS), 1: evaluation(DRAWS + 2)}
  found = seeds.over_seeds(each, DRAWN)
  np.testing.assert_allclose(found.mean.mean['mse'], [5.0, 7.0])
  np.testing.assert_allclose(
    found.ci95['mse'], of_few(np.array([[4.0, 6.0], [6.0, 8.0]])), rtol=1e-6
  )


@pytest.mark.parametrize(
  ('tasks', 'said'),
  [
    (1, 'all 4 draws of the test are of 1 task, so there is no 95% interval'),
    (2, 'over the 2 test tasks that differ, which are few (4 draws;'),
    (10, 'over the 10 test tasks that differ (4 draws;'),
  ],
)
def test_what_an_interval_stands_on_is_said(tasks, said):
  assert said in over_tasks.said_of(tasks, 4)
