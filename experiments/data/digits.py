"""Scikit-learn's 1,797 digits of 8 by 8 pixels, for those who need them."""

from functools import cache

import numpy as np

from experiments.runner.errors import UsageError

__all__ = ['load_digits']


@cache
def load_digits(setting: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads them from the disk, where scikit-learn has put them.

  Args:
    setting: that asks for them.

  Returns:
    Brightness `[1797, 8, 8]` from 0 to 16, and classes `[1797]`.

  Raises:
    UsageError: if scikit-learn is not installed.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise UsageError(
      setting,
      "is of scikit-learn's digits, and scikit-learn is not installed; pip"
      " install -e '.[baselines]'",
    ) from error
  found = datasets.load_digits()
  return found.images, found.target
