"""Objectives, what else is measured, and means with confidence intervals.

An objective maps `(outputs, targets)` of one batch to `(loss, metrics)`, a
measure to one number (`metajax.metric` adds it to an objective).
"""

import jax
import jax.numpy as jnp
import optax

from metajax.base import PADDING, Metrics

__all__ = [
  'confidence_interval',
  'cross_entropy',
  'expected_calibration_error',
  'macro_f1',
  'mean_squared_error',
  'negative_log_likelihood',
]

_BINS = 15  # of confidence, as Guo et al. have them


def cross_entropy(
  outputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Metrics]:
  r"""Mean softmax cross-entropy, in nats.

  .. math:: L = -\frac{1}{n} \sum_i \log \mathrm{softmax}(o_i)_{t_i}

  Args:
    outputs: logits `[examples, classes]`.
    targets: integer classes `[examples]`. The mean leaves out examples whose
      target is `metajax.base.PADDING`; of nothing else it is 0.

  Returns:
    The loss, and `accuracy` in [0, 1].

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> outputs, targets = jnp.zeros((4, 2)), jnp.array([0, 1, 1, 0])
    >>> loss, metrics = cross_entropy(outputs, targets)
    >>> round(float(loss), 4), float(metrics['accuracy'])
    (0.6931, 0.5)
  """
  _check_classes('cross_entropy', outputs, targets)
  real = targets != PADDING
  losses = optax.softmax_cross_entropy_with_integer_labels(
    outputs, jnp.where(real, targets, 0)
  )
  correct = jnp.argmax(outputs, axis=-1) == targets
  return (
    _mean(losses, real, outputs.dtype),
    {'accuracy': _mean(correct, real, outputs.dtype)},
  )


def mean_squared_error(
  outputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Metrics]:
  r"""Mean squared error over examples and output dimensions.

  .. math:: L = \frac{1}{n d} \sum_{i,j} (o_{ij} - t_{ij})^2

  Args:
    outputs: predictions, `[examples, ...]`.
    targets: the same shape.

  Returns:
    The loss, and the same number as `mse`.

  Raises:
    ValueError: if the shapes differ; they are never broadcast.

  Example:
    >>> import jax.numpy as jnp
    >>> float(mean_squared_error(jnp.ones((3, 1)), jnp.zeros((3, 1)))[0])
    1.0
  """
  if outputs.shape != targets.shape:
    raise ValueError(
      'mean_squared_error wants outputs and targets of one shape; got'
      f' {outputs.shape} and {targets.shape}'
    )
  loss = jnp.mean(jnp.square(outputs - targets))
  return loss, {'mse': loss}


def macro_f1(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  r"""Computes the F1 score of each class, and their mean.

  .. math::
    F_1 = \frac{1}{|C|} \sum_{c \in C} \frac{2 \, \mathrm{tp}_c}
      {2 \, \mathrm{tp}_c + \mathrm{fp}_c + \mathrm{fn}_c}

  with C the classes that occur among targets or predictions.

  Args:
    outputs: logits `[examples, classes]`; the largest is the prediction.
    targets: integer classes `[examples]`. Examples whose target is
      `metajax.base.PADDING` are left out; of nothing else it is 0.

  Returns:
    A scalar in [0, 1].

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(macro_f1(jnp.eye(3), jnp.array([0, 1, 1]))), 4)
    0.5556
  """
  _check_classes('macro_f1', outputs, targets)
  classes, dtype = outputs.shape[-1], outputs.dtype
  true = jax.nn.one_hot(targets, classes, dtype=dtype)  # padding: zeros
  predicted = jax.nn.one_hot(
    jnp.where(targets != PADDING, jnp.argmax(outputs, axis=-1), PADDING),
    classes,
    dtype=dtype,
  )
  hits = jnp.sum(true * predicted, axis=0)
  # An error is once a false positive and once a false negative.
  occurrences = jnp.sum(true + predicted, axis=0)
  scores = 2 * hits / jnp.maximum(occurrences, 1)
  return _mean(scores, occurrences > 0, dtype)


def expected_calibration_error(
  outputs: jax.Array, targets: jax.Array
) -> jax.Array:
  r"""Measures how far confidence is from accuracy, over bins of confidence.

  .. math::
    \mathrm{ECE} = \sum_{b=1}^{15} \frac{|B_b|}{n}
      \left| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \right|

  where an example is in bin b if its confidence, the largest probability of
  the softmax, is in ((b - 1) / 15, b / 15].

  Args:
    outputs: logits `[examples, classes]`.
    targets: integer classes `[examples]`. Examples whose target is
      `metajax.base.PADDING` are left out; of nothing else it is 0.

  Returns:
    A scalar in [0, 1].

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> float(expected_calibration_error(jnp.zeros((4, 2)), jnp.array([0] * 4)))
    0.5

  References:
    Guo et al. (2017), On Calibration of Modern Neural Networks,
    https://arxiv.org/abs/1706.04599
  """
  _check_classes('expected_calibration_error', outputs, targets)
  real = targets != PADDING
  confidence = jnp.max(jax.nn.softmax(outputs, axis=-1), axis=-1)
  correct = jnp.argmax(outputs, axis=-1) == targets
  # Clipped, as what is not a number has to be in one to be seen.
  bins = jnp.clip(jnp.ceil(_BINS * confidence).astype(int) - 1, 0, _BINS - 1)
  inside = bins[:, None] == jnp.arange(_BINS)[None]
  # Of a bin, count times difference of means is the sum of differences.
  gaps = jnp.where(real, correct - confidence, 0)
  sums = jnp.sum(jnp.where(inside, gaps[:, None], 0), axis=0)
  count = jnp.maximum(jnp.sum(real, dtype=outputs.dtype), 1)
  return jnp.sum(jnp.abs(sums)) / count


def negative_log_likelihood(
  outputs: jax.Array, targets: jax.Array
) -> jax.Array:
  r"""Measures how unlikely the targets are, in nats per example.

  .. math:: L = -\frac{1}{n} \sum_i \log \mathrm{softmax}(o_i)_{t_i}

  It is the loss of `cross_entropy`, for methods that train with another.

  Args:
    outputs: logits `[examples, classes]`.
    targets: integer classes `[examples]`. Examples whose target is
      `metajax.base.PADDING` are left out; of nothing else it is 0.

  Returns:
    A scalar, 0 or more.

  Raises:
    ValueError: if the shapes do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> logits, targets = jnp.zeros((2, 4)), jnp.array([0, 3])
    >>> round(float(negative_log_likelihood(logits, targets)), 4)
    1.3863
  """
  _check_classes('negative_log_likelihood', outputs, targets)
  loss, _ = cross_entropy(outputs, targets)
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


def _check_classes(name: str, outputs: jax.Array, targets: jax.Array) -> None:
  if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
    raise ValueError(
      f'{name} wants logits [examples, classes] and integer classes'
      f' [examples]; got {outputs.shape} and {targets.shape}'
    )


def _mean(
  values: jax.Array, chosen: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Averages what is chosen; 0 if nothing is."""
  count = jnp.maximum(jnp.sum(chosen, dtype=dtype), 1)
  return jnp.sum(jnp.where(chosen, values.astype(dtype), 0)) / count
