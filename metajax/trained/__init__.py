"""What was trained, for use: adapt, predict, calibrate, export, load."""

from metajax.trained.calibration import (
  HIGHEST_TEMPERATURE,
  Reliability,
  fit_temperature,
  reliability,
)
from metajax.trained.exporting import PLATFORMS, export
from metajax.trained.loading import load
from metajax.trained.portable import (
  Adapted,
  DriftAlarm,
  LearnerError,
  Online,
  Prediction,
  TrainedLearner,
  Values,
)
from metajax.trained.programs import Built, Compiled, build

__all__ = [
  'HIGHEST_TEMPERATURE',
  'PLATFORMS',
  'Adapted',
  'Built',
  'Compiled',
  'DriftAlarm',
  'LearnerError',
  'Online',
  'Prediction',
  'Reliability',
  'TrainedLearner',
  'Values',
  'build',
  'export',
  'fit_temperature',
  'load',
  'reliability',
]
