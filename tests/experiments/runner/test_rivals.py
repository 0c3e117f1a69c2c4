"""What a method on tables is compared with, and how."""

import importlib.util

import numpy as np
import pytest

from experiments.runner.beside_rivals import Known, _rows
from experiments.runner.rivals import Given, Rows, TaskOf, rivals

RNG = np.random.default_rng(0)


def task(shift, classes, rows=40):
  x = RNG.normal(size=(rows, 2))
  y = x[:, 0] + shift + 0.1 * RNG.normal(size=rows)
  if classes:
    y = (y > 0).astype(float)
  half = rows // 2
  return TaskOf(Rows(x[:half], y[:half]), Rows(x[half:], y[half:]))


def given(classes=False, **changes):
  x = RNG.normal(size=(400, 2))
  y = x[:, 0] + 0.1 * RNG.normal(size=400)
  if classes:
    y = (y > 0).astype(float)
  validation = [task(shift, classes) for shift in np.linspace(-2, 2, 9)]
  values = {
    'train': Rows(x, y), 'tuning': [], 'validation': validation,
    'classes': classes, 'known': None, 'known_name': '',
    'known_scale': (1.0, 0.0),
  } | changes  # fmt: skip
  return Given(**values)


@pytest.mark.parametrize('classes', [False, True])
def test_a_shift_of_the_task_helps_where_tasks_are_shifted(classes):
  found = rivals(given(classes))
  tasks = [task(shift, classes) for shift in (-1.5, 1.5)]
  targets = np.stack([each.query.targets for each in tasks])

  def wrong(name):
    scores = found[name](tasks)
    if classes:
      return np.mean((scores > 0) != targets)
    return np.abs(scores - targets).mean()

  assert wrong('global linear + own shift') < 0.5 * wrong('global linear')
  assert wrong('linear of the task') < wrong('global linear')


def test_without_scikit_learn_it_is_said_that_trees_are_left_out(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.warns(UserWarning, match='without boosted trees, .*baselines'):
    found = rivals(given())
  assert 'global linear' in found
  assert not any('trees' in name for name in found)


def test_a_column_is_a_rival_by_itself():
  found = rivals(given(known=0, known_name='x'))
  one = task(0.0, False)
  np.testing.assert_allclose(found['x']([one])[0], one.query.features[:, 0])


def test_support_targets_are_all_that_is_known_of_a_task():
  found, one = rivals(given()), task(1.0, False)
  changed = one._replace(query=one.query._replace(targets=-one.query.targets))
  for name, rival in found.items():
    np.testing.assert_array_equal(rival([one]), rival([changed]), err_msg=name)


def known(classes=False):
  return Known(Rows(None, None), None, classes, None, '', (1.0, 0.0), 1.0)


def test_an_interval_is_over_tasks_and_not_over_draws():
  errors = np.array([0.0, 0.0, 0.0, 1.0, 2.0, 5.0], np.float32)
  targets = np.stack([np.zeros(6), np.ones(6)], axis=1)
  ours = targets + errors[:, None]
  theirs = ours + 1
  theirs[5] = np.nan  # what it was not asked about
  rows = _rows(
    {'ours': ours, 'theirs': theirs}, targets, np.array([0, 0, 0, 1, 2, 2]),
    known(),
  )  # fmt: skip
  assert rows[0]['mae']['mean'] == pytest.approx((0 + 1 + 3.5) / 3)
  assert rows[1]['mae']['mean'] == pytest.approx((0 + 1 + 2) / 3 + 1)
  assert rows[1]['mae']['difference'] == pytest.approx(-1)
  assert rows[1]['mae']['difference_ci95'] == pytest.approx(0, abs=1e-6)


def test_predictions_of_the_method_that_are_no_numbers_are_not_left_out():
  targets = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
  scores = np.array([[-1.0, 1.0], [np.nan, 1.0], [1.0, 1.0]], np.float32)
  (row,) = _rows({'ours': scores}, targets, np.arange(3), known(classes=True))
  assert np.isnan(row['auc']['mean'])
  assert np.isnan(row['loss']['mean'])
  # A draw of one class says nothing of the area, whatever is predicted.
  scores[1] = scores[0]
  (row,) = _rows({'ours': scores}, targets, np.arange(3), known(classes=True))
  assert row['auc']['mean'] == 1.0
  assert np.isfinite(row['loss']['mean'])


def test_what_a_column_predicts_is_in_the_unit_of_targets():
  found = Known(Rows(None, None), None, False, 1, 'b', (2.0, 0.5), 1.0)
  assert found.of_column(np.array([[9.0, 1.0]])).tolist() == [2.5]
