"""Objectives, and means with confidence intervals.

An objective maps `(outputs, targets)` of one batch to `(loss, metrics)`.
"""

import jax
import jax.numpy as jnp
import optax

from metajax.base import PADDING, Metrics


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
  if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
    raise ValueError(
      'cross_entropy wants logits [examples, classes] and integer classes'
      f' [examples]; got {outputs.shape} and {targets.shape}'
    )
  real = targets != PADDING
  count = jnp.maximum(jnp.sum(real, dtype=outputs.dtype), 1)

  def mean(values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(real, values, 0), dtype=outputs.dtype) / count

  losses = optax.softmax_cross_entropy_with_integer_labels(
    outputs, jnp.where(real, targets, 0)
  )
  correct = jnp.argmax(outputs, axis=-1) == targets
  return mean(losses), {'accuracy': mean(correct)}


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
