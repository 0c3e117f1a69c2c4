"""Temperatures and errors of calibration that are known."""

import numpy as np
import pytest

from metajax.objectives import expected_calibration_error
from metajax.trained import fit_temperature, reliability
from metajax.trained.calibration import negative_log_likelihood


def drawn(temperature: float) -> tuple[np.ndarray, np.ndarray]:
  """Logits, and classes that are drawn at a temperature."""
  rng = np.random.default_rng(0)
  logits = 3 * rng.normal(size=(40, 500, 4))
  noise = rng.gumbel(size=logits.shape)
  return logits, np.argmax(logits / temperature + noise, axis=-1)


@pytest.mark.parametrize('temperature', [0.25, 1.0, 5.0])
def test_the_temperature_that_classes_were_drawn_at_is_found(temperature):
  logits, classes = drawn(temperature)
  found = fit_temperature(logits, classes)
  assert found == pytest.approx(temperature, rel=0.05)
  errors = [reliability(logits, classes, t).error for t in (found, 2 * found)]
  assert errors[0] < 0.02 < errors[1]
  step = 1.01
  at = [negative_log_likelihood(logits / t, classes)
        for t in (found / step, found, found * step)]  # fmt: skip
  assert at[1] < min(at[0], at[2])


def test_the_error_is_that_of_the_objective_over_one_batch():
  logits, classes = drawn(3.0)
  found = reliability(logits[0], classes[0])
  expected = expected_calibration_error(logits[0], classes[0])
  assert found.error == pytest.approx(float(expected), abs=1e-6)
  assert sum(found.share) == pytest.approx(1)
  gaps = [
    share * abs(right - sure)
    for share, right, sure in zip(
      found.share, found.accuracy, found.confidence, strict=True
    )
    if right is not None
  ]
  assert sum(gaps) == pytest.approx(found.error)


def test_what_is_not_finite_is_refused():
  with pytest.raises(ValueError, match='finite'):
    fit_temperature(np.array([[np.inf, 0.0]]), np.array([0]))
