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
_LEAST = 30  # scores of a task
_AT_ONCE = 2_000_000  # scores that are drawn at once


@dataclasses.dataclass
class DriftAlarm:
  """A one-sided cumulative sum (CUSUM) of scores, and where it stands.

  It knows rising scores alone; what makes a learner surer, and wrong, it does
  not see. Scores of one user or one day are alike, and raise it sooner than
  the rate says, which is that of scores that are independent; and so do those
  of a task that is harder than the ones of calibration, all along.
  """

  mean: float  # of scores as they should be
  deviation: float  # the same
  threshold: float  # h
  slack: float = 0.5  # k, in deviations: smaller rises are let pass
  level: float = 0.0  # S
  seen: int = 0  # scores so far
  raised_at: int | None = None  # the score that raised the alarm, from 1

  def __post_init__(self) -> None:
    numbers = [
      _number(name, getattr(self, name))
      for name in ('mean', 'deviation', 'threshold', 'slack')
    ]
    if (
      not np.isfinite(numbers).all() or numbers[1] <= 0 or min(numbers[2:]) < 0
    ):
      raise LearnerError(
        'of an alarm mean, deviation, threshold and slack are finite numbers,'
        ' deviation above 0, the last two 0 or more; got'
        f' {", ".join(f"{number:g}" for number in numbers)}'
      )

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
    r"""Finds a threshold that scores as they should be seldom reach.

    Streams are drawn from the scores with replacement. Scores `[n]` are of the
    very task that is to be watched, and few of them say little of what is
    usual: so for each stream mean and deviation are found anew, from scores
    that are drawn as these were, and the threshold is what so few reach. Of
    skewed scores (gamma, of shape 2) 30 to 100 make 5% about 10, 400 about 6.

    Scores `[tasks, n]` are for a task that is not among these. Streams are each
    of one task, and the task to come counts as one that always rings,

    .. math::
      \frac{1}{T + 1} \Big(1 + \sum_i P_i(\max_t S_t > h)\Big) \le \alpha

    so the rate holds on the mean over tasks that are like those, which have to
    be 19 or more for 5%. It does not hold for tasks of another kind: validation
    classes that a learner was chosen by, or that are easier than those to come,
    are not like them.

    Args:
      scores: `[n]`, or `[tasks, n]`, of validation: never of what the learner
        has learned from.
      horizon: scores in a stream.
      false_alarms: the share of streams with an alarm, alpha, from 0 to 1.
      slack: k, in standard deviations.
      seed: of the streams.

    Returns:
      An alarm that has seen nothing yet.

    Raises:
      LearnerError: if there are fewer than 30 scores, or too few tasks for so
        few false alarms; if a score is not finite or all are equal; or if
        another argument cannot be meant.

    References:
      Lee, Barber, Willett (2023), Distribution-free inference with hierarchical
      data, https://arxiv.org/abs/2306.06342

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> alarm = DriftAlarm.calibrated(rng.normal(size=500), horizon=100)
      >>> alarm.update(rng.normal(size=100)), alarm.update(np.full(20, 3.0))
      (False, True)
    """
    rows = _as_numbers(scores)
    if rows.ndim != 2:
      rows = _scores(scores)[None]
    values = _scores(rows.reshape(-1))
    if rows.shape[1] < _LEAST:
      raise LearnerError(
        f'an alarm is calibrated on {_LEAST} scores or more, of each task; got'
        f' {rows.shape[1]}'
      )
    whole = isinstance(horizon, (int, np.integer)) and horizon >= 1
    share, least = (
      _number('false_alarms', false_alarms),
      _number('slack', slack),
    )
    if not (0 < share < 1 and whole and 0 <= least < np.inf):
      raise LearnerError(
        'false_alarms is between 0 and 1, horizon a whole number from 1, slack'
        f' 0 or more; got {false_alarms}, {horizon} and {slack}'
      )
    if not isinstance(seed, (int, np.integer)) or seed < 0:
      raise LearnerError(f'seed is a whole number from 0; got {seed!r}')
    with np.errstate(over='ignore'):  # refused in a line, below
      mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if not np.isfinite([mean, deviation]).all():
      raise LearnerError('scores are too large to be squared; scale them')
    if not deviation > 0:
      raise LearnerError('all scores are equal, so none could be too high')
    share = _share(false_alarms, len(rows))
    rng = np.random.default_rng(seed)
    if len(rows) == 1:
      of_streams = _moments_anew(rows[0], rng)
    else:
      of_streams = mean, deviation
    highest = _highest(rows, *of_streams, slack, horizon, rng)
    threshold = float(np.quantile(highest, 1 - share, method='higher'))
    if not np.isfinite(threshold):
      raise LearnerError('nearly all scores are equal; give more of them')
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


def _share(false_alarms: float, tasks: int) -> float:
  """Of the streams of calibration, those that may have an alarm."""
  if tasks == 1:
    return false_alarms
  # One of them, the task to come, is taken to have one.
  share = (false_alarms * (tasks + 1) - 1) / tasks
  if share < -1e-9:
    needed = int(np.ceil(1 / false_alarms - 1e-9)) - 1
    raise LearnerError(
      f'false_alarms={false_alarms:g} takes scores of {needed} tasks or more,'
      f' got {tasks}; give more of them, accept more false alarms, or give'
      ' scores [n] of the very task that is to be watched'
    )
  return max(share, 0.0)


def _moments_anew(values: np.ndarray, rng: Any) -> tuple[Any, Any]:
  """Mean and deviation of so many scores drawn from these, for each stream."""
  number = len(values)
  found = []
  for start in range(0, _STREAMS, part := max(1, _AT_ONCE // number)):
    size = min(part, _STREAMS - start)
    drawn = values[rng.integers(0, number, (size, number))]
    found.append((drawn.mean(1), drawn.std(1, ddof=1)))
  means, deviations = zip(*found, strict=True)
  return np.concatenate(means), np.concatenate(deviations)


def _highest(
  rows: np.ndarray,
  mean: Any,
  deviation: Any,
  slack: float,
  horizon: int,
  rng: Any,
) -> np.ndarray:
  """The highest sum of each stream, of a task each; without deviation all."""
  tasks, number = rows.shape
  own = rng.permutation(np.arange(_STREAMS) % tasks)
  scale = np.where(deviation > 0, deviation, 1.0)
  level, highest = np.zeros(_STREAMS), np.zeros(_STREAMS)
  for _ in range(horizon):
    drawn = rows[own, rng.integers(0, number, _STREAMS)]
    level = np.maximum(0, level + (drawn - mean) / scale - slack)
    highest = np.maximum(highest, level)
  return np.where(deviation > 0, highest, np.inf)


def _number(name: str, value: Any) -> float:
  try:
    return float(value)
  except (TypeError, ValueError):
    raise LearnerError(f'{name} is a number; got {value!r}') from None


def _as_numbers(scores: Any) -> np.ndarray:
  try:
    array = np.asarray(scores)
    if not np.iscomplexobj(array):
      return array.astype(np.float64)
  except (TypeError, ValueError):
    pass
  raise LearnerError(
    'scores are real numbers, in the order they came in; got others'
  )


def _scores(scores: Any) -> np.ndarray:
  values = _as_numbers(scores)
  if values.ndim != 1 or not np.isfinite(values).all():
    raise LearnerError(
      'scores are finite numbers [n], in the order they came in; got shape'
      f' {list(values.shape)}'
      + ('' if np.isfinite(values).all() else ' with some that are not finite')
    )
  return values
