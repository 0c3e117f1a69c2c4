"""Objectives, what else is measured, and means with confidence intervals.

An objective maps `(outputs, targets)` of one batch to `(loss, metrics)` or to a
loss alone, a measure to one number (`metajax.metric` adds it to an objective).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from metajax.base import (
  Metrics,
  Objective,
  PyTree,
  Weighted,
  values_and_weights,
)

__all__ = [
  'TAKEN',
  'confidence_interval',
  'cross_entropy',
  'expected_calibration_error',
  'loss_and_metrics',
  'macro_f1',
  'mean_squared_error',
  'negative_log_likelihood',
  'weighted_mean',
  'without_padding',
]

# Names among the metrics of training, which an objective's may not have.
TAKEN = 'loss', 'skipped'
_BINS = 15  # of confidence, as Guo et al. have them


def cross_entropy(
  outputs: jax.Array, targets: PyTree
) -> tuple[jax.Array, Metrics]:
  r"""Mean softmax cross-entropy, in nats.

  .. math:: L = -\frac{1}{n} \sum_i \log \mathrm{softmax}(o_i)_{t_i}

  Args:
    outputs: logits `[examples, classes]`, or `[examples, ..., classes]` where
      every token of an example has a class.
    targets: integer classes `[examples, ...]`, or `Weighted` ones.

  Returns:
    The loss, and `accuracy` in [0, 1]: 0 if no weight is above 0, and not a
    number if a class is none of the outputs, so that such a step is not taken.

  Raises:
    ValueError: if the shapes do not fit together, or targets are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> outputs, targets = jnp.zeros((4, 2)), jnp.array([0, 1, 1, 0])
    >>> loss, metrics = cross_entropy(outputs, targets)
    >>> round(float(loss), 4), float(metrics['accuracy'])
    (0.6931, 0.5)
  """
  outputs, classes, weights = _classes('cross_entropy', outputs, targets)
  losses = optax.softmax_cross_entropy_with_integer_labels(outputs, classes)
  correct = (jnp.argmax(outputs, axis=-1) == classes).astype(outputs.dtype)
  correct = jnp.where(jnp.isnan(losses), jnp.nan, correct)  # as is the loss
  return _mean(losses, weights), {'accuracy': _mean(correct, weights)}


def mean_squared_error(
  outputs: jax.Array, targets: PyTree
) -> tuple[jax.Array, Metrics]:
  r"""Mean squared error over examples and output dimensions.

  .. math:: L = \frac{1}{n d} \sum_{i,j} (o_{ij} - t_{ij})^2

  Args:
    outputs: predictions, `[examples, ...]`.
    targets: the same shape, or `Weighted` ones.

  Returns:
    The loss, and the same number as `mse`.

  Raises:
    ValueError: if the shapes differ; they are never broadcast.

  Example:
    >>> import jax.numpy as jnp
    >>> float(mean_squared_error(jnp.ones((3, 1)), jnp.zeros((3, 1)))[0])
    1.0
  """
  values, weights = values_and_weights(targets)
  outputs, values = jnp.asarray(outputs), jnp.asarray(values)
  if outputs.shape != values.shape:
    raise ValueError(
      'mean_squared_error wants outputs and targets of one shape; got'
      f' {outputs.shape} and {values.shape}'
    )
  errors = without_padding('mean_squared_error', outputs - values, weights)
  loss = weighted_mean(jnp.square(errors), weights)
  return loss, {'mse': loss}


def macro_f1(outputs: jax.Array, targets: PyTree) -> jax.Array:
  r"""Computes the F1 score of each class, and their mean.

  .. math::
    F_1 = \frac{1}{|C|} \sum_{c \in C} \frac{2 \, \mathrm{tp}_c}
      {2 \, \mathrm{tp}_c + \mathrm{fp}_c + \mathrm{fn}_c}

  with C the classes that occur among targets or predictions.

  Args:
    outputs: logits `[examples, ..., classes]`; the largest is the prediction.
    targets: integer classes `[examples, ...]`, or `Weighted` ones; if no weight
      is above 0, it is 0.

  Returns:
    A scalar in [0, 1].

  Raises:
    ValueError: if the shapes do not fit together, or targets are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(macro_f1(jnp.eye(3), jnp.array([0, 1, 1]))), 4)
    0.5556
  """
  outputs, classes, weights = _classes('macro_f1', outputs, targets)
  true, predicted = (
    weights[..., None]
    * jax.nn.one_hot(each, outputs.shape[-1], dtype=outputs.dtype)
    for each in (classes, jnp.argmax(outputs, axis=-1))
  )
  examples = tuple(range(classes.ndim))
  right = jnp.where(true == 0, 0, jnp.minimum(true, predicted))
  hits = jnp.sum(right, axis=examples)
  # An error is once a false positive and once a false negative.
  occurrences = jnp.sum(true + predicted, axis=examples)
  occurs = occurrences != 0
  scores = 2 * hits / jnp.where(occurs, occurrences, 1)
  return _mean(scores, occurs.astype(outputs.dtype))


def expected_calibration_error(
  outputs: jax.Array, targets: PyTree
) -> jax.Array:
  r"""Measures how far confidence is from accuracy, over bins of confidence.

  .. math::
    \mathrm{ECE} = \sum_{b=1}^{15} \frac{|B_b|}{n}
      \left| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \right|

  where an example is in bin b if its confidence, the largest probability of
  the softmax, is in ((b - 1) / 15, b / 15].

  Args:
    outputs: logits `[examples, ..., classes]`.
    targets: integer classes `[examples, ...]`, or `Weighted` ones; if no weight
      is above 0, it is 0.

  Returns:
    A scalar in [0, 1].

  Raises:
    ValueError: if the shapes do not fit together, or targets are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> float(expected_calibration_error(jnp.zeros((4, 2)), jnp.array([0] * 4)))
    0.5

  References:
    Guo et al. (2017), On Calibration of Modern Neural Networks,
    https://arxiv.org/abs/1706.04599
  """
  outputs, classes, weights = _classes(
    'expected_calibration_error', outputs, targets
  )
  confidence = jnp.max(jax.nn.softmax(outputs, axis=-1), axis=-1)
  correct = jnp.argmax(outputs, axis=-1) == classes
  # Clipped, as what is not a number has to be in one to be seen.
  bins = jnp.clip(jnp.ceil(_BINS * confidence).astype(int) - 1, 0, _BINS - 1)
  inside = bins.reshape(-1, 1) == jnp.arange(_BINS)[None]
  # Of a bin, count times difference of means is the sum of differences.
  gaps = jnp.where(weights == 0, 0, weights * (correct - confidence))
  sums = jnp.sum(jnp.where(inside, gaps.reshape(-1, 1), 0), axis=0)
  total = jnp.sum(weights)
  return jnp.sum(jnp.abs(sums)) / jnp.where(total == 0, 1, total)


def negative_log_likelihood(outputs: jax.Array, targets: PyTree) -> jax.Array:
  r"""Measures how unlikely the targets are, in nats per example.

  .. math:: L = -\frac{1}{n} \sum_i \log \mathrm{softmax}(o_i)_{t_i}

  It is the loss of `cross_entropy`, for methods that train with another.

  Args:
    outputs: logits `[examples, ..., classes]`.
    targets: integer classes `[examples, ...]`, or `Weighted` ones; if no weight
      is above 0, it is 0.

  Returns:
    A scalar, 0 or more.

  Raises:
    ValueError: if the shapes do not fit together, or targets are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> logits, targets = jnp.zeros((2, 4)), jnp.array([0, 3])
    >>> round(float(negative_log_likelihood(logits, targets)), 4)
    1.3863
  """
  outputs, classes, weights = _classes(
    'negative_log_likelihood', outputs, targets
  )
  loss, _ = cross_entropy(outputs, Weighted(classes, weights))
  return loss


def confidence_interval(values: jax.Array) -> jax.Array:
  r"""Half the width of the 95% interval of a mean over independent tasks.

  .. math:: 1.96 \, s / \sqrt{n}

  with s the sample standard deviation.

  Args:
    values: `[tasks, ...]`, at least two tasks.

  Returns:
    `[...]`, in the unit of `values`.

  Raises:
    ValueError: if there are fewer than two tasks.
  """
  if len(values) < 2:
    raise ValueError(
      f'a confidence interval needs 2 tasks or more, got {len(values)}'
    )
  return 1.96 * jnp.std(values, axis=0, ddof=1) / len(values) ** 0.5


def loss_and_metrics(
  objective: Objective, outputs: PyTree, targets: PyTree
) -> tuple[jax.Array, Metrics]:
  """What an objective says, in the one form that the library computes with.

  Args:
    objective: returns a loss, or a loss and its metrics, or a loss and None.
    outputs: of a model.
    targets: what they should be.

  Returns:
    The loss, a floating-point scalar, and the metrics, scalars by name.

  Raises:
    ValueError: if the loss is no such scalar, if metrics are not scalars by
      name, or if one has a name that is taken: `loss` and `skipped` are those
      of training.

  Example:
    >>> import jax.numpy as jnp
    >>> absolute = lambda outputs, targets: jnp.mean(jnp.abs(outputs - targets))
    >>> loss, metrics = loss_and_metrics(absolute, jnp.ones(3), jnp.zeros(3))
    >>> float(loss), metrics
    (1.0, {})
  """
  result = objective(outputs, targets)
  name = getattr(objective, '__name__', type(objective).__name__)
  if isinstance(result, tuple) and len(result) != 2:
    raise ValueError(
      f'the objective {name} must return a loss, or a loss and a dict of'
      f' metrics; got {len(result)} values'
    )
  loss, metrics = result if isinstance(result, tuple) else (result, None)
  metrics = {} if metrics is None else metrics
  if jnp.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
    raise ValueError(
      f'the loss of the objective {name} must be a floating-point scalar, a'
      f' mean over examples; got {jnp.result_type(loss)} of shape'
      f' {jnp.shape(loss)}'
    )
  if not isinstance(metrics, Mapping):
    raise ValueError(
      f'the objective {name} must return a loss, or a loss and a dict of'
      f' metrics; got {type(metrics).__name__} beside the loss'
    )
  for metric, value in metrics.items():
    if metric in TAKEN:
      raise ValueError(
        f'the objective {name} has a metric {metric!r}, a name that training'
        ' uses itself; take another'
      )
    if jnp.shape(value):
      raise ValueError(
        f'the metric {metric!r} of the objective {name} must be a scalar; got'
        f' shape {jnp.shape(value)}'
      )
  return jnp.asarray(loss), dict(metrics)


def weighted_mean(
  values: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  r"""The mean of numbers, each of which counts as much as its weight says.

  .. math:: \frac{\sum_i w_i v_i}{\sum_i w_i}

  Args:
    values: `[examples, ...]`. Where the weight is 0 they may be anything.
    weights: `[examples]`, `[examples, ...]` up to the shape of the values, or
      None where all count the same.

  Returns:
    A scalar; 0 if all weights are.

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> values, weights = jnp.array([1.0, 3.0, jnp.inf]), jnp.array([3, 1, 0])
    >>> float(weighted_mean(values, weights))
    1.5
  """
  values = jnp.asarray(values)
  if weights is None:
    return jnp.mean(values)
  if not jnp.issubdtype(values.dtype, jnp.inexact):  # such as hits and misses
    values = values.astype(jnp.float32)
  return _mean(values, _of_shape('weighted_mean', weights, values))


def without_padding(
  name: str, values: jax.Array, weights: jax.Array | None
) -> jax.Array:
  """Numbers, with 0 for those of weight 0, as 0 * nan is none.

  An error about their shapes is that of `name`.
  """
  if weights is None:
    return values
  return jnp.where(_of_shape(name, weights, values) == 0, 0, values)


def _of_shape(name: str, weights: jax.Array, values: jax.Array) -> jax.Array:
  """Weights of each number, given those of examples."""
  weights = jnp.asarray(weights)
  if weights.ndim == 0 or weights.shape != values.shape[: weights.ndim]:
    raise ValueError(
      f'{name} wants a weight for each of {values.shape[:1]} examples, or for'
      f' each number of {values.shape}; got weights {weights.shape}'
    )
  missing = tuple(range(weights.ndim, values.ndim))
  return jnp.broadcast_to(
    jnp.expand_dims(weights, missing).astype(values.dtype), values.shape
  )


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  halves = jnp.finfo(values.dtype).bits < 32  # which end at 65504
  wide = jnp.float32 if halves else values.dtype
  total = jnp.sum(weights, dtype=wide)
  products = jnp.where(weights == 0, 0, weights * values)
  mean = jnp.sum(products, dtype=wide) / jnp.where(total == 0, 1, total)
  return mean.astype(values.dtype)


def _classes(
  name: str, outputs: jax.Array, targets: PyTree
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The outputs, classes that they have, and a weight for each.

  A class that they do not have, and whose weight is not 0, has a weight that is
  no number: a mean over it is none either, and neither is its gradient.
  """
  values, weights = values_and_weights(targets)
  outputs, values = jnp.asarray(outputs), jnp.asarray(values)
  if outputs.ndim < 2 or values.shape != outputs.shape[:-1]:
    raise ValueError(
      f'{name} wants logits [examples, ..., classes] and integer classes'
      f' [examples, ...]; got {outputs.shape} and {values.shape}'
    )
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise ValueError(
      f'{name} wants integer classes as targets; got {values.dtype}'
    )
  if weights is None:
    weights = jnp.ones(values.shape, outputs.dtype)
  else:
    weights = _of_shape(name, weights, values.astype(outputs.dtype))
  inside = (values >= 0) & (values < outputs.shape[-1])
  weights = jnp.where(inside | (weights == 0), weights, jnp.nan)
  return outputs, jnp.where(inside, values, 0), weights
