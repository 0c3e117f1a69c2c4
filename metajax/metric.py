"""What is reported of an evaluation: metrics as values.

A metric knows by itself which direction is better and how it is written, in
tables, on axes and in legends, so whatever trains, compares or draws knows no
metric by name. One of your own is one value:

  >>> import jax.numpy as jnp
  >>> from metajax.objectives import cross_entropy
  >>> def misses(outputs, targets):
  ...   return jnp.mean(outputs.argmax(-1) != targets, dtype=outputs.dtype)
  >>> error_rate = Metric('error', higher_is_better=False, unit='%',
  ...                     measure=misses)
  >>> objective = with_metrics(cross_entropy, error_rate)
  >>> _, metrics = objective(jnp.eye(3), jnp.array([0, 1, 1]))
  >>> f'{error_rate.heading}: {error_rate.format(metrics["error"])}'
  'error %: 33.3'
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Metrics, Objective, PyTree, values_and_weights
from metajax.objectives import (
  expected_calibration_error,
  loss_and_metrics,
  macro_f1,
  negative_log_likelihood,
  weighted_mean,
  without_padding,
)

__all__ = [
  'ACCURACY',
  'AREA_UNDER_CURVE',
  'EXPECTED_CALIBRATION_ERROR',
  'LOSS',
  'MACRO_F1',
  'MEAN_ABSOLUTE_ERROR',
  'MEAN_SQUARED_ERROR',
  'NEGATIVE_LOG_LIKELIHOOD',
  'PAIRS_IN_ORDER',
  'Metric',
  'pairs_in_order',
  'with_metrics',
]

_PLUS_MINUS = '\N{PLUS-MINUS SIGN}'


class Metric(NamedTuple):
  """A number that says how good predictions are, and how it is written.

  Values are shares in [0, 1] where the unit is '%': they are stored as they
  are, and shown times 100.
  """

  name: str  # in the metrics of an objective, and in files
  higher_is_better: bool
  unit: str = ''  # '%', 'nats' ...
  label: str = ''  # for axes; the name if empty
  # Of a batch of outputs and targets; None: the objective measures it already.
  measure: Callable[[PyTree, PyTree], jax.Array] | None = None

  @property
  def is_share(self) -> bool:
    """Whether values are shares, shown in percent."""
    return self.unit == '%'

  @property
  def scale(self) -> int:
    """By what a value is multiplied to be shown."""
    return 100 if self.is_share else 1

  @property
  def digits(self) -> int:
    """How many digits are shown behind the point."""
    return 1 if self.is_share else 3

  @property
  def mode(self) -> Literal['max', 'min']:
    """What the best value is among several."""
    return 'max' if self.higher_is_better else 'min'

  @property
  def heading(self) -> str:
    """The head of a column: the name and the unit."""
    return ' '.join(filter(None, (self.name.replace('_', ' '), self.unit)))

  @property
  def axis(self) -> str:
    """The name of an axis: the label and the unit."""
    label = self.label or self.name.replace('_', ' ')
    return f'{label} ({self.unit})' if self.unit else label

  def format(self, value: Any) -> str:
    """The value as tables have it, without its unit; nan is 'nan'."""
    return f'{self.scale * float(value):.{self.digits}f}'

  def format_interval(self, mean: Any, half: Any) -> str:
    """The mean, and half the width of its interval."""
    return f'{self.format(mean)} {_PLUS_MINUS} {self.format(half)}'

  def better(self, value: float, other: float) -> bool:
    """Whether a value is better than another; every number beats nan."""
    return self.sort_key(value) < self.sort_key(other)

  def sort_key(self, value: float) -> float:
    """A key that sorts the best value first, and nan last."""
    if math.isnan(value):
      return math.inf
    return -value if self.higher_is_better else value


def pairs_in_order(outputs: jax.Array, targets: PyTree) -> jax.Array:
  r"""The share of pairs of other targets that outputs rank as these do.

  .. math:: P(o > o' \mid t > t') + \tfrac12 P(o = o' \mid t > t')

  Of two classes it is the area under the receiver operating characteristic, of
  the logit of the second less that of the first; 1 is perfect, and 1/2 is
  chance.

  Args:
    outputs: predictions `[examples]` or `[examples, 1]`; or logits
      `[examples, 2]`, where targets are classes.
    targets: numbers of the shape of the predictions, or integer classes
      `[examples]`; or `Weighted` ones, of which those of weight 0 are in no
      pair.

  Returns:
    A scalar in [0, 1]; nan where all targets are the same, so no pair is there.

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> ratings = jnp.array([5.0, 3.0, 3.0])
    >>> float(pairs_in_order(jnp.array([0.9, 0.1, 0.9]), ratings))
    0.75
  """
  values, weights = values_and_weights(targets)
  if jnp.issubdtype(jnp.result_type(values), jnp.integer):
    if outputs.ndim != 2 or outputs.shape[1] != 2:
      raise ValueError(
        f'pairs_in_order takes logits of two classes, got {outputs.shape}'
      )
    outputs = outputs[:, 1] - outputs[:, 0]
  if outputs.size != len(outputs) or values.size != len(outputs):
    raise ValueError(
      'pairs_in_order takes one output and one target an example; got'
      f' {outputs.shape} and {values.shape}'
    )
  scores, values = outputs.reshape(-1), values.reshape(-1)
  pairs = values[:, None] > values[None]
  if weights is not None:
    pairs = pairs & (weights[:, None] > 0) & (weights[None] > 0)
  one, other = scores[:, None], scores[None]
  won = jnp.where(one > other, 1.0, jnp.where(one == other, 0.5, 0.0))
  won = jnp.where(jnp.isnan(one) | jnp.isnan(other), jnp.nan, won)
  return jnp.sum(jnp.where(pairs, won, 0.0)) / jnp.sum(pairs)


def _absolute_error(outputs: jax.Array, targets: PyTree) -> jax.Array:
  values, weights = values_and_weights(targets)
  if jnp.shape(outputs) != jnp.shape(values):
    raise ValueError(
      'mean absolute error wants outputs and targets of one shape; got'
      f' {jnp.shape(outputs)} and {jnp.shape(values)}'
    )
  errors = without_padding('mean absolute error', outputs - values, weights)
  return weighted_mean(jnp.abs(errors), weights)


ACCURACY = Metric('accuracy', higher_is_better=True, unit='%')
MEAN_SQUARED_ERROR = Metric(
  'mse', higher_is_better=False, label='mean squared error'
)
MEAN_ABSOLUTE_ERROR = Metric(
  'mae',
  higher_is_better=False,
  label='mean absolute error',
  measure=_absolute_error,
)
AREA_UNDER_CURVE = Metric(
  'auc',
  higher_is_better=True,
  unit='%',
  label='area under the ROC curve',
  measure=pairs_in_order,
)
PAIRS_IN_ORDER = Metric(
  'pairs_in_order',
  higher_is_better=True,
  unit='%',
  label='pairs in order',
  measure=pairs_in_order,
)
LOSS = Metric('loss', higher_is_better=False)
MACRO_F1 = Metric(
  'macro_f1', True, unit='%', label='macro F1', measure=macro_f1
)
EXPECTED_CALIBRATION_ERROR = Metric(
  'ece',
  higher_is_better=False,
  unit='%',
  label='expected calibration error',
  measure=expected_calibration_error,
)
NEGATIVE_LOG_LIKELIHOOD = Metric(
  'nll',
  higher_is_better=False,
  unit='nats',
  label='negative log-likelihood',
  measure=negative_log_likelihood,
)


def with_metrics(objective: Objective, *metrics: Metric) -> Objective:
  r"""An objective of the same loss that measures more.

  .. math:: (o, t) \mapsto (L(o, t),\ M(o, t) \cup \{n: m_n(o, t)\})

  Args:
    objective: gives the loss L, and its own metrics M.
    *metrics: those with a `measure` are added by their names n; one without
      has to be among what the objective measures.

  Returns:
    The objective. Two that are made alike are equal, so that what is compiled
    for one is used for the other.

  Raises:
    ValueError: if two metrics have one name, and, as soon as it is called, if
      a measured one has a name that the objective uses, or if one without a
      measure is unknown to it.

  Example:
    >>> import jax.numpy as jnp
    >>> from metajax.objectives import cross_entropy
    >>> objective = with_metrics(cross_entropy, ACCURACY, MACRO_F1)
    >>> _, metrics = objective(jnp.eye(3), jnp.array([0, 1, 1]))
    >>> {name: round(float(metrics[name]), 3) for name in sorted(metrics)}
    {'accuracy': 0.667, 'macro_f1': 0.556}
  """
  names = [metric.name for metric in metrics]
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise ValueError(
      f'two metrics are called {", ".join(twice)}; give each its own name'
    )
  return _WithMetrics(objective, metrics)


@dataclasses.dataclass(frozen=True)
class _WithMetrics:
  """An objective and metrics; equal where both are, as jit wants it."""

  objective: Objective
  metrics: tuple[Metric, ...]

  def __call__(
    self, outputs: PyTree, targets: PyTree, /
  ) -> tuple[jax.Array, Metrics]:
    loss, measured = loss_and_metrics(self.objective, outputs, targets)
    known = {LOSS.name, *measured}
    added = dict[str, jax.Array]()
    for metric in self.metrics:
      if (metric.measure is None) != (metric.name in known):
        raise ValueError(
          f'{metric.name!r} has '
          + (
            'no measure, and is not what the objective measures'
            if metric.measure is None
            else 'a measure, but is what the objective measures already'
          )
          + f' ({", ".join(sorted(known))}); give it '
          + ('one' if metric.measure is None else 'another name')
        )
      if metric.measure is not None:
        added[metric.name] = metric.measure(outputs, targets)
    return loss, {**measured, **added}
