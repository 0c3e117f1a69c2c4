r"""An alarm for the day when what comes is no longer what a learner is for.

.. math::
  z_t = \frac{x_t - \mu}{\sigma}, \qquad
  S_t = \max(0, S_{t-1} + z_t - k), \qquad
  S_t > h \;\Rightarrow\; \text{alarm}

the cumulative sum of scores that should not rise: the loss of labelled
examples, or how unsure a learner is of queries.

References:
  Page (1954), Continuous inspection schemes.
"""

import dataclasses
from typing import Any

import numpy as np

from .examples import LearnerError

__all__ = ['DriftAlarm']

_STREAMS = 2000  # that are drawn to find the threshold


@dataclasses.dataclass
class DriftAlarm:
  """A one-sided cumulative sum (CUSUM) of scores, and where it stands.

  It knows rising scores alone; what makes a learner surer, and wrong, it does
  not see. Scores of one user or one day are alike, and raise it sooner than
  the rate says, which is that of scores that are independent.
  """

  mean: float  # of scores as they should be
  deviation: float  # the same
  threshold: float  # h
  slack: float = 0.5  # k, in deviations: smaller rises are let pass
  level: float = 0.0  # S
  seen: int = 0  # scores so far
  raised_at: int | None = None  # the score that raised the alarm, from 1

  @classmethod
  def calibrated(
    cls,
    scores: Any,
    *,
    horizon: int = 1000,
    false_alarms: float = 0.05,
    slack: float = 0.5,
    seed: int = 0,
  ) -> 'DriftAlarm':
    """Finds a threshold that scores as they should be seldom reach.

    Streams are drawn from the scores with replacement, each from those of one
    task; the threshold is what so few of them reach within the horizon. Tasks
    are not all as hard: of several, pass a row for each, since an alarm on one
    of the harder ones would ring for nothing.

    Args:
      scores: `[n]`, or `[tasks, n]`, of validation: never of what the learner
        has learned from.
      horizon: scores in a stream.
      false_alarms: the share of streams with an alarm, from 0 to 1.
      slack: k, in standard deviations.
      seed: of the streams.

    Returns:
      An alarm that has seen nothing yet.

    Raises:
      LearnerError: if there are fewer than 30 scores, if one is not finite or
        all are equal, or if another argument cannot be meant.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> alarm = DriftAlarm.calibrated(rng.normal(size=500), horizon=100)
      >>> alarm.update(rng.normal(size=100)), alarm.update(np.full(20, 3.0))
      (False, True)
    """
    rows = np.asarray(scores, np.float64)
    if rows.ndim != 2:
      rows = _scores(scores)[None]
    values = _scores(rows.reshape(-1))
    if rows.shape[1] < 30:
      raise LearnerError(
        'an alarm is calibrated on 30 scores or more, of each task; got'
        f' {rows.shape[1]}'
      )
    if not 0 < false_alarms < 1 or horizon < 1 or not slack >= 0:
      raise LearnerError(
        'false_alarms is between 0 and 1, horizon 1 or more, slack 0 or more;'
        f' got {false_alarms}, {horizon} and {slack}'
      )
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if not deviation > 0:
      raise LearnerError('all scores are equal, so none could be too high')
    steps = (rows - mean) / deviation - slack
    rng = np.random.default_rng(seed)
    own = rng.integers(0, len(steps), _STREAMS)
    level, highest = np.zeros(_STREAMS), np.zeros(_STREAMS)
    for _ in range(horizon):
      drawn = rng.integers(0, steps.shape[1], _STREAMS)
      level = np.maximum(0, level + steps[own, drawn])
      highest = np.maximum(highest, level)
    threshold = float(np.quantile(highest, 1 - false_alarms))
    return cls(mean, deviation, threshold, slack)

  def update(self, scores: Any) -> bool:
    """Takes scores in the order they came in.

    Returns:
      Whether there is an alarm, now or before; `reset` ends it.

    Raises:
      LearnerError: if a score is not finite; then none is taken.
    """
    for value in _scores(scores):
      self.seen += 1
      step = (float(value) - self.mean) / self.deviation - self.slack
      self.level = max(0.0, self.level + step)
      if self.raised_at is None and self.level > self.threshold:
        self.raised_at = self.seen
    return self.raised_at is not None

  def reset(self) -> None:
    """Begins anew, as after what was wrong has been put right."""
    self.level, self.seen, self.raised_at = 0.0, 0, None

  def as_dict(self) -> dict[str, Any]:
    """Its numbers, of which `DriftAlarm(**numbers)` is the same alarm."""
    return dataclasses.asdict(self)


def _scores(scores: Any) -> np.ndarray:
  values = np.asarray(scores, np.float64)
  if values.ndim != 1 or not np.isfinite(values).all():
    raise LearnerError(
      'scores are finite numbers [n], in the order they came in; got shape'
      f' {list(values.shape)}'
      + ('' if np.isfinite(values).all() else ' with some that are not finite')
    )
  return values
