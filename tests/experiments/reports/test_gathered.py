"""What a page counts: right and wrong, and how sure."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.__main__ import Settings as Timed
from experiments.reports.again import command_of, given
from experiments.reports.gathered import calibration, confusion
from experiments.sinusoid import Settings
from metajax.objectives import expected_calibration_error


def test_calibration_is_that_of_the_metric():
  rng = np.random.default_rng(0)
  logits, labels = 3 * rng.normal(size=(200, 5)), rng.integers(0, 5, 200)
  found = calibration(logits, labels, 40)
  error = expected_calibration_error(jnp.asarray(logits), jnp.asarray(labels))
  np.testing.assert_allclose(
    found['expected_calibration_error'], error, rtol=1e-4
  )
  assert sum(each['queries'] for each in found['bins']) == 200
  right = sum(each['queries'] * each['accuracy'] for each in found['bins'])
  assert right == pytest.approx((logits.argmax(-1) == labels).sum())


def test_predictions_that_are_not_finite_are_counted_apart():
  logits = np.array([[1.0, 0.0], [np.nan, 0.0]])
  found = calibration(logits, np.array([0, 0]), 1)
  assert (found['queries'], found['not_finite']) == (1, 1)
  assert calibration(logits[1:], np.array([0]), 1)['bins'] == []


def test_mistakes_are_counted_among_tasks_that_have_both_classes():
  names = [{0: 'cat', 1: 'dog'}, {0: 'dog', 1: 'cow'}, {0: 'cat', 1: 'dog'}]
  labels = np.array([[0, 1], [0, 1], [0, 0]])
  predicted = np.array([[1, 1], [0, 0], [1, 7]])
  asked = np.array([[True, True], [True, True], [True, False]])
  found = confusion(predicted, labels, asked, names)
  assert (found['queries'], found['wrong']) == (5, 3)
  assert found['pairs'] == [['cat', 'dog', 2, 2], ['cow', 'dog', 1, 1]]
  cat, dog, cow = map(found['classes'].index, ('cat', 'dog', 'cow'))
  assert found['taken'][cat][dog] == 2
  assert found['taken'][dog][dog] == 2
  assert found['chances'][cat][cow] == 0


def test_a_command_gives_what_is_not_a_default():
  settings = Settings(steps=20, workdir="it's", shard=('model', 'a=b'))
  data = given(settings.replace(resume=True))
  assert data['experiment'] == 'experiments.sinusoid'
  assert command_of(data) == (
    'python -m experiments.sinusoid --shard=model --shard=a=b --steps=20'
    """ --workdir='it'"'"'s'"""
  ).replace(' --', ' \\\n  --')
  assert command_of(given(Settings())) == 'python -m experiments.sinusoid'
  of_benchmark = given(Timed(rounds=3))
  assert (
    command_of(of_benchmark) == 'python -m experiments.benchmark --rounds=3'
  )
