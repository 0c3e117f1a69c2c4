"""Probabilities that are as high as what is predicted is often right."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from metajax.trained.portable.learner import softmax

__all__ = [
  'BINS',
  'HIGHEST_TEMPERATURE',
  'Reliability',
  'fit_temperature',
  'negative_log_likelihood',
  'reliability',
]

BINS = 15  # of confidence, as Guo et al. have them
# More than this, either way, is no temperature but a mistake.
HIGHEST_TEMPERATURE = 64.0


class Reliability(NamedTuple):
  """How often predictions of a confidence are right."""

  error: float  # the expected calibration error, from 0 to 1
  share: list[float]  # of all predictions, by bins of confidence
  confidence: list[float | None]  # its mean in each bin; None: it is empty
  accuracy: list[float | None]  # the same


def fit_temperature(logits: np.ndarray, classes: np.ndarray) -> float:
  r"""The temperature under which classes are the most likely.

  .. math:: \arg\min_T -\frac{1}{n} \sum_i \log \mathrm{softmax}(o_i / T)_{t_i}

  Args:
    logits: `[..., classes]`, of tasks that nothing was trained on.
    classes: integers `[...]`.

  Returns:
    T, from 1/64 to 64. It changes no prediction, only how sure it is.

  Raises:
    ValueError: if logits are not finite.

  Example:
    >>> import numpy as np
    >>> logits = np.tile([[4.0, 0.0]], (100, 1))  # 98% sure, 75% right
    >>> classes = (np.arange(100) % 4 == 0).astype(int)
    >>> round(fit_temperature(logits, classes), 2)
    3.64

  References:
    Guo et al. (2017), On Calibration of Modern Neural Networks,
    https://arxiv.org/abs/1706.04599
  """
  if not np.isfinite(logits).all():
    raise ValueError('logits must be finite to fit a temperature to them')
  found = optimize.minimize_scalar(
    lambda log: negative_log_likelihood(logits / np.exp(log), classes),
    bounds=(-np.log(HIGHEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)),
    method='bounded',
  )
  return float(np.exp(found.x))


def negative_log_likelihood(logits: np.ndarray, classes: np.ndarray) -> float:
  """The mean over all predictions, in nats.

  Args:
    logits: `[..., classes]`.
    classes: integers `[...]`.
  """
  wide = logits.astype(np.float64)
  wide = wide - wide.max(axis=-1, keepdims=True)
  chosen = np.take_along_axis(wide, classes[..., None], axis=-1)[..., 0]
  return float(np.mean(np.log(np.exp(wide).sum(axis=-1)) - chosen))


def reliability(
  logits: np.ndarray, classes: np.ndarray, temperature: float = 1.0
) -> Reliability:
  r"""How far confidence is from accuracy, over all predictions at once.

  .. math::
    \mathrm{ECE} = \sum_{b=1}^{15} \frac{|B_b|}{n}
      \left| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \right|

  A prediction is in bin b if its confidence, the largest probability, is in
  ((b - 1) / 15, b / 15]. The mean error of single tasks, of a few dozen
  predictions each, is higher by chance.

  Args:
    logits: `[..., classes]`.
    classes: integers `[...]`.
    temperature: what logits are divided by.

  Returns:
    The diagram.

  Example:
    >>> import numpy as np
    >>> reliability(np.zeros((4, 2)), np.zeros(4, int)).error
    0.5

  References:
    Guo et al. (2017), On Calibration of Modern Neural Networks,
    https://arxiv.org/abs/1706.04599
  """
  sure = softmax(logits / temperature).max(axis=-1).ravel()
  right = (logits.argmax(axis=-1) == classes).ravel()
  bins = np.clip(np.ceil(BINS * sure).astype(int) - 1, 0, BINS - 1)
  number, sum_sure, sum_right = (
    np.bincount(bins, weights=each, minlength=BINS)
    for each in (np.ones_like(sure), sure, right)
  )

  def means(total: np.ndarray) -> list[float | None]:
    return [
      float(each / count) if count else None
      for each, count in zip(total, number, strict=True)
    ]

  return Reliability(
    float(np.abs(sum_right - sum_sure).sum() / len(sure)),
    (number / len(sure)).tolist(),
    means(sum_sure),
    means(sum_right),
  )
