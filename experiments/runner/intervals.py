"""How far a mean of a few may be from what many would have."""

import numpy as np
from scipy import stats

__all__ = ['of_few']


def of_few(values: np.ndarray) -> np.ndarray:
  r"""Half the width of the 95% interval of a mean, by Student's t.

  .. math:: t_{0.975,\, n - 1} \, s / \sqrt{n}

  with s the sample standard deviation. Of two values t is 12.7, of twenty 2.1;
  of hundreds, as tests have of tasks, it is the 1.96 of
  `metajax.confidence_interval`.

  Args:
    values: `[n, ...]`, at least two.

  Returns:
    `[...]`, in the unit of `values`.

  Raises:
    ValueError: if there are fewer than two values.

  Example:
    >>> float(of_few(np.array([0.5, 0.6])).round(3))
    0.635
  """
  if len(values) < 2:
    raise ValueError(f'an interval needs 2 values or more, got {len(values)}')
  quantile = stats.t.ppf(0.975, len(values) - 1)
  half: np.ndarray = quantile * values.std(0, ddof=1) / np.sqrt(len(values))
  return half
