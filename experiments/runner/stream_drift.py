"""How soon an alarm tells that queries are of classes that never came.

Features that were pretrained and the means of some classes answer queries; the
alarm is shown how unsure the answers are. It is calibrated on streams of the
classes of validation, and measured on those of the test.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.intervals import of_few
from experiments.runner.streams import Course, Known, features_of
from metajax.trained import DriftAlarm, fit_temperature

__all__ = ['CALM', 'HORIZON', 'drift', 'lines']

HORIZON = 200  # queries within which a false alarm counts
_LEAST = 30  # scores that calibrate an alarm
_WANTED = 0.05  # of the streams are to have one
CALM = 100  # queries of known classes before the drift
_KNOWN = 20  # classes, at most
_CALIBRATED = 20  # tasks of validation
_STREAMS = 40  # of queries, drawn in each repetition


class _Logits(NamedTuple):
  """Of queries, of the classes that are known and of others."""

  known: np.ndarray  # [queries, classes]
  targets: np.ndarray  # [queries], of the known ones
  others: np.ndarray  # [queries, classes]


def drift(
  known: Known,
  validation: Callable[[int], Course],
  test: Callable[[int], Course],
  repetitions: int,
) -> dict[str, Any]:
  """False alarms, and the delay of right ones.

  Args:
    known: has features that were pretrained.
    validation: draws a course by seed, of at least 4 classes.
    test: the same, of the test.
    repetitions: courses of each.

  Returns:
    Shares and means over repetitions, with halves of their 95% intervals.
  """
  calm = [_logits(known, validation(seed)) for seed in range(_CALIBRATED)]
  temperature = fit_temperature(
    np.concatenate([each.known for each in calm]),
    np.concatenate([each.targets for each in calm]),
  )
  scores = np.stack([_unsure(each.known, temperature) for each in calm])
  of_validation = _calibrated(scores)
  found: dict[str, list[list[float]]] = {'validation': [], 'task': []}
  for seed in range(repetitions):
    logits = _logits(known, test(seed))
    as_known, as_others = (
      _unsure(each, temperature) for each in (logits.known, logits.others)
    )
    # What calibrates an alarm is not shown to it.
    half, rest = as_known[::2], as_known[1::2]
    for name, alarm in (
      ('validation', of_validation),
      ('task', _calibrated(half) if len(half) >= _LEAST else None),
    ):
      if alarm is not None:
        rng = np.random.default_rng([0xD21F, seed])
        own = [_one_stream(alarm, rng, rest, as_others)
               for _ in range(_STREAMS)]  # fmt: skip
        found[name].append(np.mean(own, axis=0).tolist())
  return {
    'classes': int(calm[0].known.shape[1]),
    'horizon': HORIZON,
    'calm': CALM,
    'wanted': _WANTED,
    'calibrated_on': {
      name: _summary(np.asarray(each)) for name, each in found.items() if each
    },
  }


def _calibrated(scores: np.ndarray) -> DriftAlarm:
  return DriftAlarm.calibrated(scores, horizon=HORIZON, false_alarms=_WANTED)


def _summary(found: np.ndarray) -> dict[str, float]:
  """Means over repetitions, and halves of their 95% intervals."""
  means, halves = found.mean(0).tolist(), of_few(found).tolist()
  names = ('false_alarms', 'delay')
  return dict(zip(names, means, strict=True)) | {
    f'{name}_ci95': half for name, half in zip(names, halves, strict=True)
  }


def _one_stream(
  alarm: DriftAlarm, rng: Any, known: np.ndarray, others: np.ndarray
) -> tuple[float, float]:
  """Whether there is a false alarm, and the delay of the right one.

  The delay is that from a calm state on: an alarm before the drift is reset.
  """
  alarm.reset()
  false = float(alarm.update(rng.choice(known, HORIZON)))
  alarm.reset()
  if alarm.update(rng.choice(known, CALM)):
    alarm.reset()
  begun = alarm.seen
  if not alarm.update(rng.choice(others, HORIZON)):
    return false, HORIZON  # not within so many
  assert alarm.raised_at is not None
  return false, alarm.raised_at - begun


def _logits(known: Known, course: Course) -> _Logits:
  """By the means of the first classes, from what the stream has of them."""
  number = min(_KNOWN, len(course.support) // 2)
  params, size = known.params['pretrained'], math.gcd(number, 2 * number)
  stream, queries = (
    features_of(known.model, params, each[: 2 * number], size)
    for each in (course.support, course.query)
  )
  means = jnp.mean(stream[:number], axis=1)
  squares = jnp.sum(jnp.square(means), -1)

  def logits(features: jax.Array) -> np.ndarray:
    found = 2 * features @ means.T - squares[None, None]
    return np.asarray(found).reshape(-1, number)

  each = queries.shape[1]
  return _Logits(
    logits(queries[:number]),
    np.repeat(np.arange(number), each),
    logits(queries[number:]),
  )


def _unsure(logits: np.ndarray, temperature: float) -> np.ndarray:
  """One less the highest probability."""
  wide = logits.astype(np.float64) / temperature
  powers = np.exp(wide - wide.max(-1, keepdims=True))
  unsure: np.ndarray = 1 - 1 / powers.sum(-1)
  return unsure


def lines(found: dict[str, Any]) -> str:
  """What was found, in a sentence or two."""
  said = [
    f'calibrated on {"queries of its own task" if name == "task" else name}:'
    f' false within {found["horizon"]} queries'
    f' {100 * own["false_alarms"]:.1f} ± {100 * own["false_alarms_ci95"]:.1f}%,'
    f' raised after {own["delay"]:.1f} ± {own["delay_ci95"]:.1f} of unknown'
    ' classes'
    for name, own in found['calibrated_on'].items()
  ]
  return (
    f'alarm on {found["classes"]} known classes, asked for'
    f' {100 * found["wanted"]:.0f}% of false ones; {"; ".join(said)}'
  )
