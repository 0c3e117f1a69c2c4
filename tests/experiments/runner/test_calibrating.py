"""How sure a learner is, where validation has no numbers to fit it by."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.runner import calibrating
from experiments.runner.problem import VALIDATION_SEED
from metajax.base import Batch, Task


def sample(key):
  batch = Batch(np.zeros((2, 1)), np.zeros(2, np.int32))
  return Task(batch, batch)


@pytest.mark.parametrize('lost', [False, True])
def test_what_is_fitted_to_nothing_is_not_called_fitted(monkeypatch, lost):
  def predicted(problem, judge, prepared, sample, seed, number):
    outputs = np.tile([[4.0, 0.0]], (number, 2, 1))
    if lost and seed == VALIDATION_SEED:
      outputs[0] = np.nan
    classes = np.zeros((number, 2), int)
    classes[::4] = 1  # sure of 98%, right in 75%
    return calibrating._Predicted(outputs, classes, np.ones((number, 2), bool))

  monkeypatch.setattr(calibrating, '_predicted', predicted)
  monkeypatch.setattr(calibrating, 'normalisation_of', lambda *given: 'none')
  problem = SimpleNamespace(
    validation=sample, test=sample,
    settings=SimpleNamespace(validation_tasks=40, eval_tasks=40),
  )  # fmt: skip
  found = calibrating.calibrated(problem, None, None)
  assert (found['validation_tasks'], found['test_tasks']) == (
    40 * (not lost),
    40,
  )
  assert found['temperature'] == pytest.approx(1 if lost else 3.64, abs=0.01)
  assert found['accuracy'] == pytest.approx(0.75)
  error = found['expected_calibration_error']
  assert error == pytest.approx(0.232 if lost else 0, abs=1e-3)
